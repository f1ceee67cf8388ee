"""Real data for the tests: UCI HAR where it is at hand, the embedded watch recordings always."""

import os
import re
import shutil
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No test is timed; and the same examples on every machine, so that a red test is red for everyone.
settings.register_profile("fedhar", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fedhar")

# One thread: results do not depend on the machine's cores, and tests side by side do not fight for them.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]

FIRST = ("readme", "readme_uci_har", "deployment", "simulation", "network", "flower_app")
"""Long files begin first, so that at the end no worker waits for another's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


def find_data(name: str, file: str) -> Path | None:
    """Return the path that FEDHAR_NAME names, or the file in the folder of data beside the project, if there is one."""
    named = os.environ.get(f"FEDHAR_{name.upper()}")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / file
    return path if path.exists() else None


def data_or_skip(name: str, file: str) -> Path:
    path = find_data(name, file)
    if path is None:
        pytest.skip(f"{name} is not at hand: set FEDHAR_{name.upper()} to its zip or folder")
    return path


@pytest.fixture(scope="session")
def uci_har_zip() -> Path:
    return data_or_skip("uci_har", "uci-har.zip")


@pytest.fixture(scope="session")
def motionsense_zip() -> Path:
    return data_or_skip("motionsense", "motionsense.zip")


@pytest.fixture(scope="session")
def dsads_zip() -> Path:
    return data_or_skip("dsads", "dsads-first-40s.zip")


@pytest.fixture(scope="session")
def cifar10_zip() -> Path:
    return data_or_skip("cifar10", "cifar10-jpg-12k.zip")


@pytest.fixture(scope="session")
def cases() -> Path:
    named = os.environ.get("FEDHAR_CASES")
    path = Path(named) if named else ROOT.parent / "shared" / "cases"
    if not path.is_dir():
        pytest.skip("the collected bad inputs are not at hand: set FEDHAR_CASES to their folder")
    return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def unprivileged() -> list[str]:
    """Return what a command begins with so that the superuser, too, is kept out of a read-only folder."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv at hand: the superuser may write anywhere")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def modules_without(packages: Collection[str]) -> list[str]:
    """Return the modules that are installed here, but not where these packages and what they need are alone."""
    installed = {_canonical(distribution.name) for distribution in metadata.distributions()}
    left, there = set(packages), set()
    while left:
        there.add(name := left.pop())
        for requirement in metadata.requires(name) or []:
            if "extra ==" not in requirement:
                needed = _canonical(re.match(r"[\w.\-]+", requirement)[0])
                if needed in installed - there:
                    left.add(needed)
    there = {_canonical(name) for name in there} | {"fedhar"}
    owned = metadata.packages_distributions()
    return [module for module, owners in owned.items() if not {_canonical(owner) for owner in owners} & there]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
