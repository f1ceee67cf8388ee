"""Configurations that are trained with several seeds and judged, as commands; what is done already is not done again.

A benchmark that was stopped goes on: each training and each judgement is a process that writes into the folder of runs.
"""

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, product
from pathlib import Path

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.config import DEFAULTS, Config, differences, load_config
from shared.errors import UserError
from shared.evaluate import ProbeReport
from shared.files import write_atomic
from shared.runs import runs_root
from shared.settings import Settings, Way

ROOT = DEFAULTS.parents[1]
WAYS: tuple[Way, ...] = ("centralized", "federated")
REGIMES = ("1", "all")

ONE_THREAD = ("centralized.threads=1", "train.threads=1")
"""Overrides for trainings of which several run side by side."""

Score = tuple[float, float]
"""An accuracy: mean and deviation over the seeds, fractions."""


@dataclass(frozen=True)
class Job:
    """A command of this project, and whether what it writes is there."""

    title: str
    command: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class Judging:
    """How encoders are judged: by these protocols, with so many seeds."""

    protocols: tuple[str, ...]
    seeds: int

    @property
    def options(self) -> list[str]:
        """For the command line of the probe."""
        return ["--protocols", *self.protocols, "--regimes", *REGIMES, "--seeds", str(self.seeds)]

    def is_done(self, report: Path, judged: Sequence[Path]) -> bool:
        """Whether a report has all that is asked for, and is newer than what it judges."""
        if not report.is_file():
            return False
        if any(one.is_file() and one.stat().st_mtime > report.stat().st_mtime for one in judged):
            return False
        results = ProbeReport.model_validate_json(report.read_bytes()).results
        # With all labels, what is not random is judged once.
        drawn = {(one.protocol, one.seed) for one in results if one.regime == REGIMES[0]}
        return set(product(self.protocols, range(self.seeds))) <= drawn


def training(path: Path, overrides: Sequence[str], way: Way, folder: Path, method: str | None = None) -> Job:
    """Return the job that trains a configuration into a run folder, or goes on with what is there.

    Raises:
        UserError: The folder holds a run with other settings.
    """
    config = load_config(path, overrides, method)
    command = ["centralized_baseline"] if way == "centralized" else ["simulation", "--engine", "inprocess"]
    command += ["--config", str(path.resolve()), "--name", folder.name, *overrides]
    command += [] if method is None else ["--method", method]
    if (folder / "config.yaml").is_file():
        if changed := differences(load_config(folder / "config.yaml"), config, way):
            raise UserError(
                f"the run {folder} was made with other settings ({'; '.join(changed)}): set name=OTHER for runs of "
                "their own, or remove it"
            )
        command.append("--resume")
    return Job(folder.name, tuple(command), (folder / "encoder.json").is_file())


@dataclass(frozen=True)
class Series:
    """One configuration, trained in one way, once for each seed.

    Args:
        path: YAML file of the configuration.
        overrides: That lie over it.
        way: Of training.
        method: Of the literature, or None.
    """

    path: Path
    overrides: tuple[str, ...]
    way: Way
    method: str | None = None

    @cached_property
    def config(self) -> Config:
        """The configuration, with its own seed."""
        return load_config(self.path, self.overrides, self.method)

    def run(self, seed: int | str) -> Path:
        """Return the folder of one training."""
        return runs_root() / f"{self.config.name}-{self.way}-{seed}"

    def training(self, seed: int) -> Job:
        """Return the training with a seed.

        Raises:
            UserError: It was begun with other settings.
        """
        return training(self.path, [*self.overrides, f"seed={seed}"], self.way, self.run(seed), self.method)

    def candidate(self, judging: Judging, out: Path | None = None) -> "Candidate":
        """Return all trainings as one candidate, whose report will be in ``out``, by default among the runs.

        Raises:
            UserError: They were judged with other settings.
        """
        report = (out or runs_root()) / self.run("seeds").name / "probe.json"
        _keep_settings(report.parent, self.config.probe)
        judged = [self.run(seed) / "encoder.json" for seed in range(judging.seeds)]
        return Candidate(str(self.run("{seed}")), report, judging.is_done(report, judged))


@dataclass(frozen=True)
class Candidate:
    """What is judged.

    Args:
        encoder: Its name on the command line of the probe.
        report: Where its report will be.
        done: Whether it is there.
    """

    encoder: str
    report: Path
    done: bool


def baseline(config: Config, name: str, judging: Judging, out: Path | None = None) -> Candidate:
    """Return a baseline without training as a candidate.

    Args:
        config: With its data and its encoder.
        name: A key of ``shared.evaluate.BASELINES``.
        judging: How it is judged.
        out: As of ``Series.candidate``.

    Raises:
        UserError: It was judged with other settings.
    """
    folder = (out or runs_root()) / f"{config.name}-{name}"
    _keep_settings(folder, config.data, config.encoder, config.probe)
    report = folder / "probe.json"
    return Candidate(name, report, judging.is_done(report, []))


def _keep_settings(folder: Path, *blocks: Settings) -> None:
    """Write with what a report is made, which it does not say itself."""
    settings = folder / "settings.yaml"
    content = yaml.safe_dump([block.model_dump(mode="json") for block in blocks])
    if folder.is_dir() and (not settings.is_file() or settings.read_text(encoding="utf-8") != content):
        raise UserError(f"{folder} was made with other settings: set name=OTHER for runs of their own, or remove it")
    write_atomic(settings, content)


def judgement(title: str, candidates: Sequence[Candidate], judging: Judging, arguments: Sequence[str] = ()) -> Job:
    """Return the judgement of those candidates that have not been judged, with further arguments for the probe."""
    left = [candidate.encoder for candidate in candidates if not candidate.done]
    return Job(title, ("centralized_baseline.probe", "--encoder", *left, *judging.options, *arguments), not left)


def do(what: str, jobs: Sequence[Job], side_by_side: int, console: Console) -> None:
    """Run the commands that have not been run, some side by side.

    Raises:
        UserError: Some failed, after all others have been run.
    """
    left = [job for job in jobs if not job.done]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=len(jobs), completed=len(jobs) - len(left))
        with ThreadPoolExecutor(side_by_side) as pool:
            running = {pool.submit(_call, job): job for job in left}
            try:
                for future in as_completed(running):
                    progress.advance(bar)
                    if reason := future.result():
                        failed.append(f"{running[future].title}: {reason}")
                    elif not console.is_terminal:
                        console.print(f"{what}: {running[future].title}", highlight=False)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C has reached those that run, too
                raise
    if failed:
        raise UserError(f"{what}: {len(failed)} of {len(jobs)} failed:\n" + "\n".join(sorted(failed)))


def _call(job: Job) -> str:
    """Run a command in a process of its own; return the end of what it said if it failed, else ""."""
    # From here, so that paths mean the same.
    environment = os.environ | {"FEDHAR_RUNS": str(runs_root()), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", *job.command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return ended.stdout.strip()[-600:] or f"exit code {ended.returncode}" if ended.returncode else ""


def read_report(path: Path) -> ProbeReport:
    """Return a report that a judgement has written."""
    return ProbeReport.model_validate_json(path.read_bytes())


def scores_of(report: ProbeReport) -> dict[tuple[str, str], Score]:
    """Return the accuracies of a report, by protocol and regime."""
    return {
        (protocol, regime): (score["accuracy"]["mean"], score["accuracy"]["std"])
        for protocol, regimes in report.summary().items()
        for regime, score in regimes.items()
    }


def percent(score: Score | None) -> str:
    """Return an accuracy as a cell of a table."""
    return "" if score is None else f"{100 * score[0]:.1f} ± {100 * score[1]:.1f}"


def as_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a heading and rows as a table in Markdown."""
    heading, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *rows))


def draw_scores(
    axes: Axes, names: Sequence[str], scores: Mapping[tuple[str, str], Score], beside: Mapping[str, Score]
) -> None:
    """Draw a row for each name, with its accuracy in each way of training, and a line for each baseline.

    Args:
        axes: To draw on.
        names: From the bottom to the top.
        scores: By name and way.
        beside: The baselines' scores.
    """
    for colour, way in enumerate(WAYS):
        own = [name for name in names if (name, way) in scores]
        mean, std = ([100 * scores[name, way][part] for name in own] for part in range(2))
        places = [names.index(name) for name in own]
        axes.errorbar(mean, places, xerr=std, fmt="o", ms=5, color=f"C{colour}", label=way, capsize=2)
    for style, (name, score) in zip(cycle(("--", ":", "-.", (0, (1, 4)))), beside.items(), strict=False):
        axes.axvline(100 * score[0], color="0.4", ls=style, lw=1, label=name)
    axes.set(yticks=range(len(names)), yticklabels=names)
    axes.grid(alpha=0.3)


def as_svg(figure: Figure) -> str:
    """Return a figure as SVG, without the date."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
