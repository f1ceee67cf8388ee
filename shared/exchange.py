"""What leaves a device and what stays: the one place that decides.

The floating-point arrays of the module ``encoder`` leave, under names that begin with ``encoder.``. Everything else
of a model (heads, task weights, integer counters) and the optimizer stay. Under the policy ``local`` the running
statistics of BatchNorm stay too.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from shared.encoders import Encoder
from shared.errors import UserError
from shared.model import Model
from shared.wire import Form, WireArray, differing_names, misfit

PREFIX = "encoder."

UNEXPECTED = "unexpected"
"""In a manifest: all of one kind that a client sent and that nobody had asked for."""


class SupportsNumpy(Protocol):
    """Something that holds an array, such as Flower's ``Array``."""

    def numpy(self) -> NDArray[Any]:
        """Return the array."""
        ...


NormStatistics = Literal["average", "local"]


def shared_names(encoder: Encoder, policy: NormStatistics) -> list[str]:
    """Return the names, within the encoder, of the arrays that leave the device."""
    private = _statistics_names(encoder) if policy == "local" else set()
    return [name for name, value in encoder.state_dict().items() if value.is_floating_point() and name not in private]


def outgoing(encoder: Encoder, policy: NormStatistics) -> dict[str, NDArray[np.float32]]:
    """Return copies of the arrays that leave, by their name on the wire."""
    state = encoder.state_dict()
    return {PREFIX + name: state[name].detach().cpu().numpy().copy() for name in shared_names(encoder, policy)}


def arrays_of(record: Mapping[str, SupportsNumpy]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a Flower record of one's own by name; what others send, ``shared.wire`` reads."""
    return {name: array.numpy() for name, array in record.items()}


def incoming(encoder: Encoder, arrays: Mapping[str, NDArray[Any]], policy: NormStatistics) -> None:
    """Copy received arrays into the encoder; what is private keeps its value.

    Raises:
        UserError: Other names or shapes than those that ``outgoing`` would send.
    """
    if complaint := mismatch(arrays, outgoing(encoder, policy)):
        raise UserError(f"the received encoder does not fit this model: {complaint}")
    state = encoder.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            state[name.removeprefix(PREFIX)].copy_(torch.from_numpy(np.array(array)))


def mismatch(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> str:
    """Say in words how arrays differ from what was expected (names, shapes, finite values); "" if they fit."""
    if complaint := differing_names(arrays, expected, "arrays"):
        return complaint
    for name, value in arrays.items():
        if value.shape != expected[name].shape:
            return f"{name} has shape {value.shape}, expected {expected[name].shape}"
        if not np.issubdtype(value.dtype, np.floating):
            return f"{name} has type {value.dtype}, expected {expected[name].dtype}"
        if not np.isfinite(value).all():
            return f"{name} holds NaN or infinite values"
    return ""


def private_state(model: Model, policy: NormStatistics) -> dict[str, Tensor]:
    """Return what must stay on the device for the next round: all of the model that is not exchanged."""
    leaving = {PREFIX + name for name in shared_names(model.encoder, policy)}
    return {name: value for name, value in model.state_dict().items() if name not in leaving}


class Content(Protocol):
    """What a message carries, such as Flower's ``RecordDict``: its records by name."""

    @property
    def array_records(self) -> Mapping[str, Mapping[str, WireArray]]:
        """Records of arrays."""
        ...

    @property
    def metric_records(self) -> Mapping[str, Mapping[str, Any]]:
        """Records of numbers and lists of them."""
        ...

    @property
    def config_records(self) -> Mapping[str, Mapping[str, Any]]:
        """Records of numbers, texts, bytes and lists of them."""
        ...


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of what a record holds: () of a number or a text, (n,) of a list."""
    return (len(value),) if isinstance(value, list | tuple) else ()


def _size_of(value: Any) -> int:
    """Bytes of what a record holds: eight a number, and the length of a text."""
    if isinstance(value, list | tuple):
        return sum(map(_size_of, value))
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    return len(value) if isinstance(value, bytes) else 8


class Manifest:
    """Counts what crosses the wire; saved as ``exchange.json``, so that anyone can check what left a device.

    Args:
        saved: The content of an earlier manifest of the same run, to count on from.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        self._entries: dict[str, dict[str, Any]] = {k: dict(v) for k, v in (saved or {}).items()}

    def count(self, direction: Literal["up", "down"], kind: str, name: str, shape: tuple[int, ...], size: int) -> None:
        """Count one thing of ``size`` bytes that a client sent ("up") or received ("down")."""
        entry = self._entries.setdefault(
            f"{direction} {kind} {name}",
            {
                "direction": direction,
                "kind": kind,
                "name": name,
                "shape": list(shape),
                "times": 0,
                "bytes": 0,
            },
        )
        entry["times"] += 1
        entry["bytes"] += size

    def count_values(self, direction: Literal["up", "down"], kind: str, values: Mapping[str, Any]) -> None:
        """Count numbers, texts and lists of them: eight bytes a number, and the length of a text."""
        for name, value in values.items():
            self.count(direction, kind, name, shape_of(value), _size_of(value))

    def count_arrays(self, direction: Literal["up", "down"], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Count the arrays of one message."""
        for name, value in arrays.items():
            self.count(direction, "array", name, value.shape, value.nbytes)

    def count_reply(self, content: Content, expected: Mapping[str, Mapping[str, Form | tuple[int, ...]]]) -> None:
        """Count all that a client sent, usable or not: it has left the device.

        What was not expected is counted in one row for each kind, with its name's bytes: a client can invent names.

        Args:
            content: Of the client's message.
            expected: By record and by name: the form of an array, the shape of numbers and texts.
        """
        for place, arrays in content.array_records.items():
            for name, array in arrays.items():
                form = expected.get(place, {}).get(name)
                if isinstance(form, Form) and not misfit(array, form):
                    self.count("up", "array", name, form.shape, form.nbytes)
                else:
                    self.count("up", "array", UNEXPECTED, (), _size_of(name) + len(array.data))
        for kind, records in (("metric", content.metric_records), ("sensor", content.config_records)):
            for place, values in records.items():
                for name, value in values.items():
                    if expected.get(place, {}).get(name) == (shape := shape_of(value)):
                        self.count("up", kind, name, shape, _size_of(value))
                    else:
                        self.count("up", kind, UNEXPECTED, (), _size_of(name) + _size_of(value))

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what a later ``Manifest(saved=...)`` continues from."""
        return self._entries

    def report(self) -> dict[str, Any]:
        """Return the content of ``exchange.json``: totals, then each array and number with its bytes and times."""
        rows = list(self._entries.values())
        total = {side: sum(row["bytes"] for row in rows if row["direction"] == side) for side in ("up", "down")}
        return {
            "bytes_up": total["up"],
            "bytes_down": total["down"],
            "stays_on_the_device": [
                "windows",
                "labels",
                "task heads",
                "task weights",
                "teachers, queues, centres, codes and the learned token of the tasks that have them",
                "what a training step owns",
                "optimizer state",
                "integer counters of the encoder",
            ],
            "crossed_the_wire": rows,
        }


def _statistics_names(module: nn.Module) -> set[str]:
    """The running statistics of all normalisation layers, found by their type."""
    return {
        f"{path}.{buffer}"
        for path, layer in module.named_modules()
        if isinstance(layer, _NormBase)
        for buffer in ("running_mean", "running_var")
    }
