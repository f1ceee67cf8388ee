"""Commands to a running SuperLink, through the ``flwr`` command line: submit a run, follow it, read its log."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
_BIN = Path(sys.executable).parent
_LOOK_SECONDS = 1.0
_ASK_SECONDS = 20.0
"""Between two questions to Flower while nothing seems to end: each starts a process, at the cost of the training."""

_RETRY_SECONDS = 5.0
"""Until the next question after one without an answer."""

_PENDING_SECONDS = 120.0
"""From submission until a ServerApp begins."""

_PATIENCE = 3
"""Questions in a row that may go wrong before the SuperLink counts as lost."""

_FLWR = """
import json, sys
from flwr.cli.app import app
for command in json.load(sys.stdin):
    try:
        app(command)
    except SystemExit:
        pass
    except Exception as error:
        print(error)
    print(chr(0), flush=True)
"""
"""The command ``flwr`` for several commands in turn: it takes a second of a processor to start, and none to go on.

A NUL ends each answer. Soon after its gravest errors Flower ends the process, too.
"""


class SuperLink:
    """A SuperLink as its user sees it.

    Args:
        home: FLWR_HOME of every command; its ``config.toml`` is written here.
        address: "host:port".
        root_certificates: Of the CA that signed its certificate; None for a SuperLink on this machine without TLS.
    """

    def __init__(self, home: Path, address: str, root_certificates: Path | None = None) -> None:
        self.environment = flower_environment(home)
        self._home = home
        trust = f"root-certificates = {json.dumps(str(root_certificates))}" if root_certificates else "insecure = true"
        # A JSON string is a TOML string too.
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "fedhar"\n\n[superlink.fedhar]\naddress = {json.dumps(address)}\n{trust}\n'
        )

    def submit(self, run_config: Mapping[str, Any], federation_config: str | None = None) -> str:
        """Submit the project's Flower app and return the run's id.

        Args:
            run_config: Values for the keys of ``[tool.flwr.app.config]``.
            federation_config: ``key=value`` pairs of the simulation runtime, separated by spaces.

        Raises:
            UserError: Flower refused the run; with its reason.
        """
        path = self._home / "run.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items()))
        command = ["run", str(PROJECT), "--run-config", str(path)]
        if federation_config:
            command += ["--federation-config", federation_config]
        answer = self.ask(*command)
        if not answer.get("success"):
            raise UserError(f"Flower refused the run: {answer.get('error-message', answer)}")
        return str(answer["run-id"])

    def follow(self, run_id: str, watch: Callable[[], bool]) -> str:
        """Wait for the run's end and return how it ended, such as "finished:completed".

        Args:
            run_id: From ``submit``.
            watch: Called about once a second; tells whether the run looks as if it had ended.

        Raises:
            UserError: The SuperLink gave no answer several times in a row, or nobody takes the run up.
        """
        asked, failures = time.monotonic(), 0
        deadline = asked + _PENDING_SECONDS
        while True:
            if watch() or time.monotonic() - asked > (_RETRY_SECONDS if failures else _ASK_SECONDS):
                try:
                    status = self.status(run_id)
                    failures = 0
                except UserError as error:
                    failures += 1
                    if failures == _PATIENCE:
                        raise UserError(
                            "the SuperLink is lost: start it again with its database, and continue the run with "
                            f"--resume; Flower says: {error}"
                        ) from None
                    status = ""
                if status.startswith("finished"):
                    watch()
                    return status
                asked = time.monotonic()
                if status == "pending" and asked > deadline:
                    raise UserError(
                        f"nobody has begun the run within {_PENDING_SECONDS:g} s: is flower-superexec running beside "
                        "the SuperLink?"
                    )
            time.sleep(_LOOK_SECONDS)

    def status(self, run_id: str) -> str:
        """Return the run's status, such as "running" or "finished:completed"."""
        answer = self.ask("ls", "--run-id", run_id)
        if not answer.get("runs"):
            raise UserError(f"Flower does not know the run: {answer.get('error-message', answer)}")
        return str(answer["runs"][0]["status"])

    def ask(self, *command: str) -> dict[str, Any]:
        """Run a ``flwr`` command and return its answer.

        Raises:
            UserError: The answer is not JSON; the error holds what the command printed.
        """
        return self.ask_each([command])[0]

    def ask_each(self, commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Run ``flwr`` commands in one process, one after the other, and return their answers, refusals among them.

        Raises:
            UserError: A command's answer is not JSON, or missing; the error names it and holds what it printed.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-c", _FLWR],
            env=self.environment,
            input=json.dumps([[*command, "--format", "json"] for command in commands]),
            capture_output=True,
            text=True,
            check=False,
        )
        said = iter(done.stdout.split("\0"))
        answers = []
        for command in commands:
            own = next(said, "").strip()
            try:
                answers.append(json.loads(own))
            except json.JSONDecodeError:
                printed = "\n".join(filter(None, [own, done.stderr.strip()]))
                raise UserError(f"flwr {' '.join(command)} failed: {printed}") from None
        return answers


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment for everything of Flower's: a home of its own, and no calls to the outside."""
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Flower's HTTP asks the system for a proxy, also for this very machine.
        "NO_PROXY": ",".join(filter(None, ["127.0.0.1", "localhost", os.environ.get("NO_PROXY", "")])),
        "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def flower_tool(name: str) -> str:
    """Return the path of one of Flower's commands, from this Python's own environment first.

    Raises:
        UserError: It is not installed.
    """
    found = shutil.which(name, path=str(_BIN)) or shutil.which(name)
    if not found:
        raise UserError(f"the command {name} is not installed; run `make setup`")
    return found
