"""The base of every block of the configuration."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A block of knobs: typed, frozen, without defaults in code, and closed to unknown keys.

    Values come from ``configs/default.yaml`` and the files and overrides laid over it, so that a knob's
    value, unit and reason stand in one place.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
