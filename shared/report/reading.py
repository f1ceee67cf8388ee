"""Run folders as the report sees them: whatever is there is read, whatever is missing stays None or empty."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from shared.config import Config, load_config
from shared.data.person import in_order, of_file_name
from shared.errors import UserError
from shared.evaluate import ProbeReport
from shared.metrics import METRICS, Row, read_metrics
from shared.runs import EXCHANGE

Kind = Literal["federated", "centralized", "baseline", "not started"]


@dataclass(frozen=True)
class Run:
    """One folder, or a series: the probe of several trainings, and beside it all that is known of the first.

    Args:
        name: Unique among the folders of a report.
        folder: As the user named it; of a series, that of its first training.
        config: None where only a probe was stored, as for the baselines without training.
        probe: None where nobody has judged the encoder yet.
        exchange: The content of ``exchange.json``, None where nothing was exchanged.
        privacy: The content of ``privacy.json``, None without differential privacy.
        rows: The lines of ``metrics.jsonl``.
        clients: The lines of each client's own log by person, where the clients' folders are at hand.
    """

    name: str
    folder: Path
    config: Config | None
    probe: ProbeReport | None
    exchange: Row | None
    privacy: Row | None
    rows: list[Row]
    clients: dict[str, list[Row]]

    @cached_property
    def kind(self) -> Kind:
        """How the encoder came about."""
        kinds = {row["kind"] for row in self.rows}
        if self.exchange is not None or self.clients or kinds & {"round", "client"}:
            return "federated"
        if kinds:
            return "centralized"
        return "baseline" if self.config is None else "not started"

    @property
    def unit(self) -> str:
        """What a step of the training is called."""
        return "round" if self.kind == "federated" else "epoch"

    @cached_property
    def steps(self) -> list[Row]:
        """The rows of whole rounds or epochs, ascending; of a step that was repeated, the last."""
        return _one_a_step([row for row in self.rows if row["kind"] == self.unit])

    @property
    def planned(self) -> int | None:
        """The rounds or epochs that the configuration asks for."""
        if self.config is None:
            return None
        return self.config.federation.rounds if self.kind == "federated" else self.config.centralized.epochs

    @cached_property
    def people(self) -> dict[str, list[Row]]:
        """What each client reported to the server, one row a round, by person."""
        reported: dict[str, list[Row]] = {}
        for row in self.rows:
            if row["kind"] == "client":
                reported.setdefault(row["person"], []).append(row)
        return {person: _one_a_step(reported[person]) for person in in_order(reported)}

    @property
    def finished(self) -> bool:
        """Whether there is an encoder to look at."""
        return (self.folder / "encoder.json").is_file() and (self.folder / "encoder.safetensors").is_file()


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read each folder once, in the order given.

    Raises:
        UserError: A folder that is no run, a damaged file, or runs on different data sets.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    short = [folder.resolve().name for folder in unique]
    names = [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, unique, strict=True)]
    runs = [_read_run(name, folder) for name, folder in zip(names, unique, strict=True)]
    data = {name: run for run in reversed(runs) if (name := data_name(run)) is not None}
    if len(data) > 1:
        found = ", ".join(f"{name!r} in {run.folder}" for name, run in sorted(data.items()))
        raise UserError(f"a report compares runs on one data set, found {found}")
    return runs


def data_name(run: Run) -> str | None:
    """The data set of a run, None where nothing in the folder says it."""
    if run.config is not None:
        return run.config.data.title
    return run.probe.data if run.probe is not None else None


def _read_run(name: str, folder: Path) -> Run:
    config, probe, exchange = folder / "config.yaml", folder / "probe.json", folder / EXCHANGE
    privacy = folder / "privacy.json"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if not config.is_file() and not probe.is_file():
        raise UserError(f"{folder} is no run: expected config.yaml, which every run has, or a baseline's probe.json")
    report = _read_probe(probe) if probe.is_file() else None
    if report is not None and report.trainings and not config.is_file():  # a run is no series, whatever a file says
        first = Path(os.path.normpath(folder / report.trainings[0]))
        if not (first / "config.yaml").is_file():
            raise UserError(f"{probe} judges several trainings; expected the run of the first in {first}, found none")
        return replace(_read_run(name, first), probe=report)
    logs = {of_file_name(log.parent.name): log for log in (folder / "clients").glob(f"person_*/{METRICS}")}
    return Run(
        name=name,
        folder=folder,
        config=load_config(config) if config.is_file() else None,
        probe=report,
        exchange=_read_json(exchange) if exchange.is_file() else None,
        privacy=_read_json(privacy) if privacy.is_file() else None,
        rows=_read_rows(folder / METRICS),
        clients={person: _one_a_step(_read_rows(logs[person])) for person in in_order(logs)},
    )


def _read_probe(path: Path) -> ProbeReport:
    try:
        return ProbeReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise UserError(f"{path} is no probe report: {place}: {first['msg']}; probe the encoder again") from None


def _read_json(path: Path) -> Row:
    try:
        content: Row = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return content


def _read_rows(path: Path) -> list[Row]:
    try:
        return list(read_metrics(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _one_a_step(rows: list[Row]) -> list[Row]:
    return [row for _, row in sorted({row["round"]: row for row in rows}.items())]
