"""Commands of this project, run side by side in processes of their own; what is done already, is not done again."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.config import DEFAULTS, differences, load_config
from shared.errors import UserError
from shared.runs import runs_root
from shared.settings import Way

ROOT = DEFAULTS.parents[1]


@dataclass(frozen=True)
class Job:
    """A command of this project, and whether what it writes is there."""

    title: str
    command: tuple[str, ...]
    done: bool


def training(path: Path, overrides: Sequence[str], method: str | None, way: Way, folder: Path) -> Job:
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


def do_jobs(what: str, jobs: Sequence[Job], side_by_side: int, console: Console) -> None:
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
