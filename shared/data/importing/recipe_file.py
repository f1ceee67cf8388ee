"""A recipe as a short YAML file.

Apart from the recipe, because where none is read no YAML library need be there.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shared.data.importing.recipe import Recipe, Sensor
from shared.errors import UserError, nearest
from shared.yaml_file import read_mapping


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: The file cannot be read, or is no recipe; every field that is wrong is named.
    """
    try:
        return Recipe.model_validate(read_mapping(path, "recipe"))
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_complain, error.errors()))}") from None


def _complain(detail: Any) -> str:
    place = [str(part) for part in detail["loc"]]
    field = ".".join(place)
    if detail["type"] == "extra_forbidden":
        known = Sensor.model_fields if len(place) == 3 else Recipe.model_fields
        return f"unknown field {field!r}{nearest(place[-1], known)}"
    if detail["type"] == "missing":
        return f"the field {field!r} is missing"
    if detail["type"] == "value_error":
        return f"{field + ': ' if field else ''}{detail['ctx']['error']}"
    return f"{field}: {detail['msg']}, found {detail['input']!r:.60}"


def to_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML, without the fields that have their usual value, apart from the lengths of windows."""
    values = recipe.model_dump(exclude_defaults=True, mode="json")
    values |= {name: getattr(recipe, name) for name in ("target_rate", "window", "step")}
    for sensor in values["sensors"].values():
        sensor["columns"] = _short(sensor["columns"])
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _short(columns: list[str]) -> list[str] | str:
    """Return three names as one with ``{}`` where that says the same."""
    if len(columns) == 1:
        return columns[0]
    place = [number for number, letter in enumerate(columns[0]) if letter == "x"]
    for wanted in (place, place[-1:]):
        name = "".join("{}" if number in wanted else letter for number, letter in enumerate(columns[0]))
        if place and [name.replace("{}", axis) for axis in "xyz"] == columns:
            return name
    return columns


class _Dumper(yaml.SafeDumper):
    """Writes lists, and what is nested twice, on one line."""

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_dict(self, data: Any) -> yaml.MappingNode:
        nested = any(isinstance(value, dict) for value in data.values())
        return self.represent_mapping("tag:yaml.org,2002:map", data, flow_style=not nested)


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(dict, _Dumper.represent_dict)
