"""YAML files of keys and values."""

from pathlib import Path
from typing import Any

import yaml

from shared.errors import UserError


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Args:
        path: The file.
        what: It is, for a message.

    Raises:
        UserError: It cannot be read, is not YAML, or holds something else.
    """
    try:
        # Every message to a client reads the configuration: the loader in C is ten times as fast.
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold keys and values, found {type(values).__name__}")
    return values
