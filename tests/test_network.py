"""Clients on other machines: network namespaces that reach the server's gateway, and nothing else."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from deployed import PATIENCE, Deployment, deployed, free_port

from shared.metrics import METRICS, read_metrics

CLIENTS = 2
NETWORK = f"10.{64 + os.getpid() % 128}"
HUB = f"{NETWORK}.0.1"
"""The server's address, seen from the clients."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_not() -> str:
    """Say why there can be no namespaces here; "" if there can."""
    if missing := [tool for tool in ("ip", "nginx") if not shutil.which(tool)]:
        return f"{' and '.join(missing)} missing: run scripts/install-test-tools.sh"
    name = f"fedhar-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this user may not make network namespaces"
    ip("netns", "del", name)
    return ""


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if reason := why_not():
        if os.environ.get("CI") and "missing" in reason:
            pytest.fail(reason)
        pytest.skip(reason)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture
def machines() -> Iterator[list[list[str]]]:
    """For each client the command that runs another one in a namespace with one cable, whose other end is here."""
    with ExitStack() as undo:
        made = []
        for number in range(CLIENTS):
            name = f"fedhar-{os.getpid()}-{number}"
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
            here, there = f"fh{os.getpid()}h{number}"[-15:], f"fh{os.getpid()}t{number}"[-15:]
            ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            ip("address", "add", f"{NETWORK}.{number}.1/24", "dev", here)
            ip("link", "set", here, "up")
            ip("-n", name, "address", "add", f"{NETWORK}.{number}.2/24", "dev", there)
            ip("-n", name, "link", "set", there, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "route", "add", "default", "via", f"{NETWORK}.{number}.1")
            made.append(["ip", "netns", "exec", name])
        yield made


@pytest.fixture
def federation(tmp_path: Path, machines: list[list[str]]) -> Iterator[Deployment]:
    """The server's side, which is stopped, and with it the clients, before the machines are taken away."""
    with deployed(tmp_path, CLIENTS, hosts=HUB, elsewhere=True) as running:
        yield running


ASK = """
import ssl, sys, urllib.error, urllib.request
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=sys.argv[1]))
)
try:
    print(opener.open(sys.argv[2], b"", 5).status)
except urllib.error.HTTPError as answer:
    print(answer.code)
except urllib.error.URLError as error:
    print(error.reason)
"""


def ask(federation: Deployment, machine: list[str], url: str) -> str:
    """Return the status that a POST from another machine gets, or why there is none."""
    command = [*machine, sys.executable, "-c", ASK, str(federation.public / "ca.crt"), url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_clients_on_other_machines_train_through_the_gateway_and_reach_nothing_else(
    federation: Deployment, machines: list[list[str]]
) -> None:
    port = free_port()
    federation.start_gateway(port)
    federation.wait_for(lambda: ask(federation, machines[0], f"https://{HUB}:{port}/") == "403", "the gateway's answer")
    for path in (
        "control/list-runs",
        "runtime/acquire-task",
        "fleet/../control/list-runs",
        "fleet/%2e%2e/control/list-runs",
    ):
        assert ask(federation, machines[1], f"https://{HUB}:{port}/v1/{path}") == "403"
    for path in ("fleet/pull-messages", "control/%2e%2e/fleet/pull-messages"):  # passed on as it was judged
        assert ask(federation, machines[1], f"https://{HUB}:{port}/v1/{path}") == "415", "not Flower's own refusal"
    assert "Connection refused" in ask(federation, machines[1], f"https://{HUB}:{federation.port}/v1/control/list-runs")

    for partition, machine in enumerate(machines):
        federation.start_client(partition, f"{HUB}:{port}", machine)
    settings = ["data.name=synthetic", "data.holdout=[3,4]", "encoder.width=8", "federation.rounds=2"]
    settings += [f"federation.min_clients={CLIENTS}", f"federation.join_timeout={PATIENCE:g}"]
    code, told = federation.run_job("--name", "far", "--config", "configs/default.yaml", *settings)
    assert code == 0, told + federation.log("client-0") + federation.log("gateway")
    rows = read_metrics(federation.runs / "far" / METRICS)
    assert [row["clients"] for row in rows if row["kind"] == "round"] == [CLIENTS, CLIENTS]
