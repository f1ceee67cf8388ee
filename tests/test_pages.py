"""Every command of the pages on other data than the README's runs as written there, on few people and images."""

import random
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from readme import commands, copy_checkout, run_all

pytestmark = pytest.mark.slow


def commands_of(page: str) -> list[str]:
    return commands("sh", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))


def test_every_command_of_the_page_on_images_runs(cifar10_zip: Path, tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    with zipfile.ZipFile(cifar10_zip) as whole, zipfile.ZipFile(checkout / "cifar10.zip", "w") as few:
        for name in random.Random(0).sample(sorted(whole.namelist()), 400):
            few.writestr(name, whole.read(name))
    run_all(commands_of("images"), checkout)
    assert (checkout / "runs" / "images_demo-raw" / "probe.json").is_file()


def test_every_command_of_the_page_on_wearing_positions_runs(uci_har_zip: Path, tmp_path: Path) -> None:
    """Its benchmark is run by tests/test_orientation.py."""
    checkout = copy_checkout(tmp_path)
    found = [command for command in commands_of("position") if "benchmarks.orientation" not in command]
    run_all(found, checkout, FEDHAR_UCI_HAR=str(uci_har_zip))
    assert (checkout / "runs" / "upright" / "classifier.int8.onnx").is_file()


def test_every_command_of_the_page_on_any_sensors_runs(
    uci_har_zip: Path, motionsense_zip: Path, dsads_zip: Path, tmp_path: Path
) -> None:
    checkout = copy_checkout(tmp_path)
    places = {"UCI_HAR": uci_har_zip, "MOTIONSENSE": motionsense_zip, "DSADS": dsads_zip}
    run_all(commands_of("sensors"), checkout, **{f"FEDHAR_{name}": str(path) for name, path in places.items()})
    assert (checkout / "runs" / "everybody" / "probe.json").is_file()
