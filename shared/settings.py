"""The base of every block of the configuration, and what of it makes a run's identity."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

Way = Literal["federated", "centralized"]
"""Of training."""


class IdentityOf:
    """Marks a knob, or a block of them, that decides on the encoder in some ways of training only, or in none.

    Written where the knob is declared: ``threads: Annotated[PositiveInt, NO_IDENTITY]``. What has no mark decides in
    every way.
    """

    def __init__(self, *ways: Way) -> None:
        self.ways = ways


NO_IDENTITY = IdentityOf()
"""Marks what says where, how fast or how patiently a run is made."""


def _rising(shares: tuple[float, float]) -> tuple[float, float]:
    if shares[0] > shares[1]:
        raise ValueError(f"expected the smaller share first, found {list(shares)}")
    return shares


_Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[_Share, _Share], AfterValidator(_rising)]
"""Two shares, above 0 and up to 1, between which one is drawn."""


class Settings(BaseModel):
    """A block of knobs: typed, frozen, without defaults in code, and closed to unknown keys.

    Values come from ``configs/default.yaml`` and the files and overrides laid over it, so that a knob's
    value, unit and reason stand in one place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self, way: Way) -> dict[str, Any]:
        """Return the values that decide on the encoder in a way of training, as JSON holds them."""
        return {
            name: _plain(getattr(self, name), way)
            for name, field in type(self).model_fields.items()
            if all(way in mark.ways for mark in field.metadata if isinstance(mark, IdentityOf))
        }


def _plain(value: Any, way: Way) -> Any:
    if isinstance(value, Settings):
        return value.identity(way)
    if isinstance(value, Mapping):
        return {key: _plain(item, way) for key, item in value.items()}
    return to_jsonable_python(value)
