"""Run folders: made once, never overwritten by accident, and the same layout however a run was started."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from shared.config import DEFAULTS, Config, differences, load_config
from shared.errors import UserError
from shared.files import write_atomic


def runs_root() -> Path:
    """Return the folder of all runs: FEDHAR_RUNS, or ``runs`` below the current folder."""
    return Path(os.environ.get("FEDHAR_RUNS", "runs")).expanduser().resolve()


def open_run(folder: Path, config: Config, *, resume: bool, force: bool) -> None:
    """Make a run folder with its resolved ``config.yaml``, or open an existing one to resume.

    Raises:
        UserError: The folder exists and neither ``resume`` nor ``force`` was asked for, there is nothing to resume,
            or the run to resume had another configuration (the differences are listed).
    """
    config_path = folder / "config.yaml"
    if resume:
        if not config_path.is_file():
            raise UserError(f"cannot resume: there is no run in {folder}")
        if changed := differences(load_config(config_path), config):
            raise UserError(f"cannot resume {folder} with another configuration: {'; '.join(changed)}")
        return
    if force and config_path.is_file():
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"the run {folder} exists already: choose another --name, continue it with --resume, "
            "or replace it with --force"
        ) from None
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from None
    write_atomic(config_path, config.to_yaml())


def from_run_config(run_config: Mapping[str, object], run_id: int) -> tuple[Config, Path]:
    """Return the configuration and the run folder that a Flower run names, for its ServerApp and its ClientApps.

    Args:
        run_config: ``config``: a YAML file, absolute or below the project; ``overrides``: ``key=value`` separated by
            spaces; ``run-dir``: an absolute folder, or "" for ``fedhar/NAME-RUN_ID`` in the user's data folder.
        run_id: Flower's number of the run.

    Raises:
        UserError: A relative ``run-dir``: Flower runs a copy of the project, where nobody would look for results.
    """
    path = Path(str(run_config["config"])).expanduser()
    config = load_config(
        path if path.is_absolute() else DEFAULTS.parents[1] / path, shlex.split(str(run_config["overrides"]))
    )
    if not (named := str(run_config["run-dir"])):
        data_home = Path(os.environ.get("XDG_DATA_HOME", "~/.local/share")).expanduser()
        return config, data_home / "fedhar" / f"{config.name}-{run_id}"
    folder = Path(named).expanduser()
    if not folder.is_absolute():
        raise UserError(f"run-dir must be an absolute path, found {named!r}")
    return config, folder
