"""Saving and loading, atomically and without pickle: snapshots of a run, and encoders to hand out."""

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from pydantic_core import from_json
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from shared.body import of_channels, pooled_by_kind
from shared.data.conform import at_rate, conform
from shared.data.spec import InputSpec, with_spec
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.encoders import ANY_SENSORS, Encoder, EncoderSettings, build_encoder
from shared.errors import UserError
from shared.files import write_atomic
from shared.settings import Settings

LOG = logging.getLogger(__name__)

CARD_VERSION: Literal[4] = 4
"""Of the encoder cards that are written."""

KEPT = 3
"""Snapshots kept: the newest, the one to fall back on, and one more for a client: it may have trained a round that the
server lost, and the server may have fallen back."""


@dataclass(frozen=True)
class Snapshot:
    """State after a step (a round or an epoch): tensors by name, and whatever JSON can hold beside them."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as one safetensors file, and remove all but the newest ``KEPT`` up to its step.

    Snapshots of later steps belong to a past that has been given up; they are removed too.

    Raises:
        UserError: The file cannot be written.
    """
    content = save_tensors(
        {name: value.detach().cpu().contiguous() for name, value in snapshot.tensors.items()},
        {"meta": json.dumps(snapshot.meta)},
    )
    write_atomic(_snapshot_path(folder, snapshot.step), content)
    steps = _steps(folder)
    kept = [step for step in steps if step <= snapshot.step][-KEPT:]
    for step in set(steps) - set(kept):
        _snapshot_path(folder, step).unlink(missing_ok=True)


def load_snapshot(folder: Path, latest: int | None = None) -> Snapshot | None:
    """Return the newest readable snapshot, not beyond step ``latest``; None where there is none.

    A damaged file is named in the log, and the one before it is used.
    """
    for step in reversed(_steps(folder)):
        if latest is not None and step > latest:
            continue
        path = _snapshot_path(folder, step)
        try:
            content = path.read_bytes()
            return Snapshot(step, load_tensors(content), json.loads(_metadata(content)["meta"]))
        except (OSError, safetensors.SafetensorError, ValueError, KeyError, struct.error) as error:
            LOG.warning("snapshot %s is damaged (%s); going back to the one before it, if there is one", path, error)
    return None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named ``optimizer.<parameter number>.<slot>``."""
    return {
        f"optimizer.{index}.{slot}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what ``pack_optimizer`` returned, keeping the optimizer's own hyperparameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class EncoderCard(Settings):
    """What a saved encoder expects and where it came from; stored as ``encoder.json``, and read by ``read_card``.

    A change of the keys, of the architecture's too, makes a new version: ``_upgraded`` turns an older card into it.

    Args:
        version: Of the keys.
        architecture: The settings that it was built from.
        data: Name of the data set that it was trained on.
        spec: Of one example, with the channels in input order. Of an encoder of single sensors, the channels are those
            of all sensors that it was trained on, in the order of the vocabulary.
        mean: C training means, in the channels' units.
        std: C training standard deviations.
        norm_statistics: "included", or "missing": estimate them on your own windows first.
        config_digest: Of the run's configuration, see ``Config.digest``.
    """

    version: Literal[4]
    architecture: EncoderSettings
    data: str
    spec: InputSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    norm_statistics: Literal["included", "missing"]
    config_digest: str

    @classmethod
    def describe(
        cls,
        encoder: Encoder,
        meta: Meta,
        statistics: ChannelStatistics,
        config_digest: str,
        norm_statistics: Literal["included", "missing"] = "included",
    ) -> "EncoderCard":
        """Describe an encoder that was trained on windows of ``meta``."""
        return cls(
            version=CARD_VERSION,
            architecture=encoder.settings,
            data=meta.name,
            spec=meta.spec,
            mean=tuple(statistics.mean.tolist()),
            std=tuple(statistics.std.tolist()),
            norm_statistics=norm_statistics,
            config_digest=config_digest,
        )

    @property
    def any_sensors(self) -> bool:
        """Whether the encoder takes other sensors than those that it was trained on, which ``spec`` lists."""
        return self.architecture.name in ANY_SENSORS

    def fit(self, windows: Windows) -> Windows:
        """Return windows as the encoder takes them (``shared.data.conform``).

        One of single sensors is told their kinds and places, and takes windows of any length at its rate.

        Raises:
            UserError: They cannot be brought to it; says why.
        """
        own = windows.meta.spec
        try:
            return conform(windows, at_rate(own, self.spec.time.rate) if self.any_sensors else self.spec)
        except UserError as error:
            raise UserError(
                f"the encoder does not fit the data set {windows.meta.name!r}: it was trained on {self.data!r}; {error}"
            ) from None


def save_encoder(folder: Path, encoder: Encoder, card: EncoderCard) -> None:
    """Write ``encoder.safetensors`` and ``encoder.json``."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    write_atomic(folder / "encoder.safetensors", save_tensors(tensors))
    write_atomic(folder / "encoder.json", card.model_dump_json(indent=2) + "\n")


def read_card(folder: Path) -> EncoderCard:
    """Read ``encoder.json``, of this version or of an older one.

    Raises:
        UserError: A missing or damaged file, or a card of a later version.
    """
    path = folder / "encoder.json"
    content = _read(path)
    try:
        values = from_json(content)
        version = values.get("version", 1) if isinstance(values, dict) else None
        if isinstance(version, int) and version > CARD_VERSION:
            raise UserError(
                f"{path} has version {version}, and this fedhar reads versions up to {CARD_VERSION}: use a later fedhar"
            )
        return EncoderCard.model_validate(_upgraded(values, version))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _upgraded(card: Any, version: object) -> Any:
    """Turn a card of an older version into one of this version; what is none is returned as it is.

    Raises:
        ValueError: A card of version 1 without an architecture.
    """
    if version == 1:
        card, version = _second(card), 2
    if version == 2:
        card, version = with_spec(card) | {"version": 3}, 3
    if version == 3:
        card = _fourth(card)
    return card


def _second(card: dict[str, Any]) -> dict[str, Any]:
    """Turn a card of version 1, which does not name its version, into one of version 2.

    Version 1 came to know three settings of the architecture one by one, two of them under other names. Encoders whose
    cards do not name one were built as if it had been null, or "last".

    Raises:
        ValueError: A card without an architecture.
    """
    architecture = card.get("architecture")
    if not isinstance(architecture, dict):
        raise ValueError("expected a block 'architecture'")
    renamed = {"companding": "log_input", "pooled": "pooled_blocks"}
    settings = {renamed.get(name, name): value for name, value in architecture.items()}
    later = {"log_input": None, "pooled_blocks": "last", "hidden": None}
    return card | {"version": 2, "architecture": later | settings}


def _fourth(card: dict[str, Any]) -> Any:
    """Turn a card of version 3, when no encoder aligned its windows, into one of version 4."""
    architecture = card.get("architecture")
    if not isinstance(architecture, dict):
        return card
    return card | {"version": 4, "architecture": {"align": None} | architecture}


def load_encoder(folder: Path, spec: InputSpec | None = None) -> tuple[Encoder, EncoderCard]:
    """Load an encoder, ready for raw windows (N, C, T) in the units and at the rate that its card names.

    Args:
        folder: Of the run.
        spec: Of the windows, as ``EncoderCard.fit`` returns them, for an encoder of single sensors; None: of its card.

    Raises:
        UserError: A missing or damaged file, or weights that do not fit the architecture.
    """
    card = read_card(folder)
    spec = card.spec if spec is None else spec
    weights = _read(folder / "encoder.safetensors")
    try:
        encoder = build_encoder(card.architecture, spec)
        encoder.load_state_dict(load_tensors(weights))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise UserError(f"the encoder in {folder} is damaged, or of another version of fedhar: {error}") from None
    if spec == card.spec:
        encoder.standardise(card.mean, card.std)
    else:
        known = ChannelStatistics(1, np.array(card.mean), np.square(card.mean) + np.square(card.std))
        statistics = of_channels(pooled_by_kind([(card.spec, known)]), spec)
        encoder.standardise(statistics.mean, statistics.std)
    if card.norm_statistics == "missing":
        LOG.warning(
            "the encoder in %s came without BatchNorm statistics: estimate them on your own windows before you use it "
            "(shared.evaluate.estimate_norm_statistics)",
            folder,
        )
    return encoder.eval(), card


def _read(path: Path) -> bytes:
    """Return the content of one of the two files of a saved encoder."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no encoder: expected {path.name}, which a finished run writes") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _snapshot_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.safetensors"


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors"))


def _metadata(content: bytes) -> dict[str, str]:
    """Read the metadata of safetensors bytes: eight bytes of header length, then the header in JSON."""
    (length,) = struct.unpack_from("<Q", content)
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata
