"""The whole configuration: typed, closed to unknown keys, and laid out in ``configs/default.yaml``.

``load_config`` lays a YAML file over the defaults and ``key=value`` overrides over both. What a run used is saved
complete in its folder, so that it can be run again from there.
"""

import argparse
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
    field_validator,
)

from shared.augmentations import ViewSettings
from shared.data import DATASETS, IMAGE_SETS, DataSettings
from shared.encoders import ANY_SENSORS, ENCODERS, IMAGE_ENCODERS, EncoderSettings
from shared.errors import UserError, choose, nearest
from shared.settings import NO_IDENTITY, IdentityOf, Settings, Way
from shared.steps import STEPS, StepSettings
from shared.tasks import TASKS, TaskSettings
from shared.teacher import TeacherSettings
from shared.weighting import WEIGHTINGS, WeightingSettings
from shared.yaml_file import read_mapping

DEFAULTS = Path(__file__).resolve().parents[1] / "configs" / "default.yaml"

METHODS = {path.stem: path for path in sorted((DEFAULTS.parent / "methods").glob("*.yaml"))}
"""Methods of the literature by name: files that lay over the configuration of any data set."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Of a run's name, which is a folder's name too."""


class TrainSettings(Settings):
    """The local training loop, the same for a client and for the centralized baseline."""

    batch_size: Annotated[PositiveInt, IdentityOf("federated")]
    windows_per_epoch: PositiveInt | None
    sampling: Literal["uniform", "movement"]
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    schedule: Literal["cosine", "constant"]
    warmup: float = Field(ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"]
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], NO_IDENTITY]
    threads: Annotated[PositiveInt, NO_IDENTITY]

    def windows_of(self, count: int) -> int:
        """Return how many windows an epoch takes of a person who has ``count``."""
        return count if self.windows_per_epoch is None else min(count, self.windows_per_epoch)


AVERAGING = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi")
"""Aggregations that see only the mean of the replies."""

ROBUST = ("fedmedian", "fedtrimmedavg", "krum")
"""Aggregations that withstand some broken or hostile replies by themselves."""


class AggregationSettings(Settings):
    """How the server makes the next encoder out of a round's replies; which knob is whose, the defaults tell."""

    name: str
    proximal_mu: NonNegativeFloat
    momentum: float = Field(ge=0, lt=1)
    learning_rate: PositiveFloat
    adaptive_rate: PositiveFloat
    second_moment: float = Field(ge=0, lt=1)
    adaptivity: PositiveFloat
    trimmed: float = Field(gt=0, lt=0.5)
    byzantine: PositiveInt
    outliers: Literal["drop", "clip", "keep"]
    outlier_factor: float = Field(gt=2)

    @property
    def local_pull(self) -> float:
        """The mu of FedProx's proximal term in the clients' loss; 0 for every other aggregation."""
        return self.proximal_mu if self.name == "fedprox" else 0.0


class FederationSettings(Settings):
    """Rounds of federated averaging and what they wait for.

    What they wait for is no part of a run's identity. Who takes part is up to the devices, and a run whose device has
    died must be able to go on without it.
    """

    rounds: PositiveInt
    local_epochs: PositiveInt
    fraction: float = Field(gt=0, le=1)
    aggregation: AggregationSettings
    upload: Literal["float32", "bfloat16", "int8", "int4"]
    norm_statistics: Literal["average", "local"]
    min_clients: Annotated[PositiveInt, NO_IDENTITY]
    join_timeout: Annotated[PositiveFloat, NO_IDENTITY]
    round_timeout: Annotated[PositiveFloat, NO_IDENTITY]


class PrivacySettings(Settings):
    """Differential privacy of the encoder for each person; ``shared/privacy.py`` tells what is guaranteed."""

    name: Literal["none", "central", "local"]
    clipping_norm: PositiveFloat
    noise_multiplier: PositiveFloat
    delta: float = Field(gt=0, lt=1)


class CentralizedSettings(Settings):
    """The centralized baseline."""

    epochs: PositiveInt
    batch_size: PositiveInt
    threads: Annotated[PositiveInt, NO_IDENTITY]


class ProbeSettings(Settings):
    """Classifiers that are fitted to embeddings.

    Args:
        turned_copies: Of each labelled window, turned at random, that a classifier learns from beside it.
    """

    turned_copies: NonNegativeInt


class Config(Settings):
    """Everything a run needs to know; equal configurations give equal encoders."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$"), NO_IDENTITY]
    seed: int = Field(ge=0)
    data: DataSettings
    encoder: EncoderSettings
    views: ViewSettings
    tasks: dict[str, TaskSettings]
    weighting: WeightingSettings
    step: StepSettings
    teacher: TeacherSettings
    train: TrainSettings
    federation: Annotated[FederationSettings, IdentityOf("federated")]
    privacy: Annotated[PrivacySettings, IdentityOf("federated")]
    centralized: Annotated[CentralizedSettings, IdentityOf("centralized")]
    probe: Annotated[ProbeSettings, NO_IDENTITY]

    @field_validator("tasks", mode="before")
    @classmethod
    def _typed_by_registry(cls, blocks: Any) -> Any:
        # A model of models, so that an error's place begins with the task's name.
        fields: dict[str, Any] = {name: (TASKS[name].Settings, ...) for name in dict(blocks)}
        return dict(create_model("Tasks", **fields).model_validate(blocks))

    def identity(self, way: Way) -> dict[str, Any]:
        """Return the values that decide on the encoder; of what is switched off, none does."""
        values = super().identity(way)
        values["tasks"] = {name: settings.identity(way) for name, settings in self.enabled_tasks.items()}
        if self.step.name != "tc2":
            del values["step"]["tc2"]
        if self.data.names[0] not in IMAGE_SETS:
            del values["data"]["parts"]
        for block, knob in (("encoder", "align"), ("views", "reorient")):
            if values[block][knob] is None:
                del values[block][knob]
        if self.train.windows_per_epoch is None:
            del values["train"]["windows_per_epoch"], values["train"]["sampling"]
        if not any(TASKS[name].teacher for name in self.enabled_tasks):
            del values["teacher"]
        return values

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as YAML and JSON hold them."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML that ``load_config`` reads back to an equal one."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def digest(self, way: Way) -> str:
        """Return the SHA-256 of the run's identity: of all values that decide on the encoder in a way of training.

        Two federated runs with equal digests train alike, whatever their names, folders, devices, threads, timeouts
        and ``min_clients``, and whatever is set for the centralized baseline. Not to the last bit: other threads or
        another device add the same numbers in another order.
        """
        return hashlib.sha256(json.dumps(self.identity(way), sort_keys=True).encode()).hexdigest()

    @property
    def any_sensors(self) -> bool:
        """Whether people with different sensors can train the encoder together."""
        return self.encoder.name in ANY_SENSORS

    @property
    def enabled_tasks(self) -> dict[str, TaskSettings]:
        """The tasks that are switched on, in the order of the registry."""
        return {name: self.tasks[name] for name in TASKS if name in self.tasks and self.tasks[name].enabled}


def add_method_option(parser: argparse.ArgumentParser) -> None:
    """Give a command line the option ``--method``, whose value ``load_config`` takes."""
    parser.add_argument(
        "--method",
        metavar="NAME",
        help=f"switch the tasks of a method on, and all others off (configs/methods/NAME.yaml): {', '.join(METHODS)}",
    )


def load_config(path: Path | str, overrides: Sequence[str] = (), method: str | None = None) -> Config:
    """Lay ``path`` over the defaults, then a method, then the overrides, and check every key and value.

    A method begins without tasks: those that it does not switch on are off. Its name is added to the run's.

    Args:
        path: A YAML file that names only what differs from ``configs/default.yaml``.
        overrides: ``key=value`` with dots between levels, values in YAML: ``tasks.contrastive.enabled=false``.
        method: A key of ``METHODS``.

    Raises:
        UserError: A file that cannot be read, an unknown key (the nearest one is named), a name that is not in
            its registry (all are listed), or a value of the wrong type or range.
    """
    values = read_mapping(DEFAULTS, "configuration")
    _lay_over(values, read_mapping(Path(path), "configuration"), str(path))
    if method is not None:
        file = choose("method", METHODS, method)
        for block in values["tasks"].values():
            block["enabled"] = False
        _lay_over(values, read_mapping(file, "configuration"), str(file))
    for text in overrides:
        _lay_over(values, _parse_override(text), text)
    if method is not None:
        values["name"] = f"{values['name']}-{method}"
    _check_names(values)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_explain(problem) for problem in error.errors())) from None
    if not config.enabled_tasks:
        raise UserError(f"no task is enabled: set tasks.NAME.enabled=true for one of {', '.join(TASKS)}")
    _check_privacy(config)
    if config.train.sampling != "uniform" and config.train.windows_per_epoch is None:
        raise UserError(
            f"train.sampling={config.train.sampling} chooses among windows, but an epoch takes them all: set "
            "train.windows_per_epoch to a number"
        )
    if (data_path := config.data.path) is not None:
        data = config.data.model_copy(update={"path": data_path.expanduser().resolve()})
        config = config.model_copy(update={"data": data})
    return config


def differences(first: Config, second: Config, way: Way | None = None) -> list[str]:
    """Return ``key: old -> new`` for each value that differs between two configurations.

    With a way of training, only values that decide on the encoder in it count.
    """
    old, new = (_flatten(config.identity(way) if way else config.to_dict()) for config in (first, second))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in old | new if old.get(key) != new.get(key)]


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"override {text!r} is not of the form key=value, such as seed=1")
    try:
        layer: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"the value of override {text!r} is not valid YAML: {error}") from None
    for part in reversed(key.split(".")):
        layer = {part: layer}
    return typing.cast(dict[str, Any], layer)


def _lay_over(values: dict[str, Any], layer: Mapping[str, Any], origin: str, prefix: str = "") -> None:
    """Write ``layer`` into ``values``, refusing keys that the defaults do not have."""
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in values:
            kind = "task" if prefix == "tasks." else "key"
            close = nearest(str(key), values)
            raise UserError(f"unknown {kind} {name!r} in {origin}{close}; expected one of: {', '.join(values)}")
        if isinstance(values[key], dict):
            if not isinstance(value, Mapping):
                raise UserError(f"{name!r} in {origin} is a block of keys, found {value!r}")
            _lay_over(values[key], value, origin, f"{name}.")
        else:
            values[key] = value


def _check_names(values: Mapping[str, Any]) -> None:
    choose("data set", DATASETS | IMAGE_SETS, values["data"]["name"])
    for name in values["data"]["sets"]:
        choose("data set of sensors", DATASETS, name)
    choose("encoder", ENCODERS | IMAGE_ENCODERS, values["encoder"]["name"])
    choose("weighting", WEIGHTINGS, values["weighting"]["name"])
    choose("step", STEPS, values["step"]["name"])
    choose("aggregation", dict.fromkeys(AVERAGING + ROBUST), values["federation"]["aggregation"]["name"])


def _check_privacy(config: Config) -> None:
    """Refuse what would leave a device, or enter the encoder, beside the noise."""
    if config.privacy.name == "none":
        return
    if config.encoder.norm == "batch" and config.federation.norm_statistics == "average":
        raise UserError(
            f"privacy.name={config.privacy.name} does not cover running statistics of BatchNorm: set "
            "encoder.norm=group or federation.norm_statistics=local"
        )
    aggregation = config.federation.aggregation.name
    if config.privacy.name == "central" and aggregation not in AVERAGING:
        raise UserError(
            "privacy.name=central bounds what a person does to a mean: federation.aggregation.name must be one of "
            f"{', '.join(AVERAGING)}, found {aggregation!r}"
        )


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    return f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, found {problem['input']!r}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
