"""Every command of the README and of docs on shipped data runs as written there; UCI HAR has a file of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from readme import ELSEWHERE, ROOT, TEXT, commands, copy_checkout, run_all

from shared.config import METHODS

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1200)
def test_every_command_on_shipped_data_runs_in_the_order_of_the_readme_and_then_its_python(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    found = [c for c in commands("sh") if not c.startswith(tuple(ELSEWHERE)) and "uci_har" not in c]
    assert len(found) >= 8
    run_all(found, checkout)

    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], cwd=checkout, check=True)


def test_every_command_of_the_page_on_methods_runs_and_it_lists_every_method(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    run_all(commands("sh", page), copy_checkout(tmp_path))
    listed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\| ([^|]*) \|", page))))
    assert listed == set(METHODS)


def test_every_command_of_the_page_on_own_recordings_runs(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    run_all(commands("sh", (ROOT / "docs" / "data.md").read_text(encoding="utf-8")), checkout)
    activities = (checkout / "own" / "activities.csv").read_text()
    assert len(activities.splitlines()) > 400
    assert (checkout / "own" / "first-try" / "quality.html").is_file()


def test_what_runs_elsewhere_is_in_the_readme_and_is_run_there() -> None:
    for start, reason in ELSEWHERE.items():
        assert any(command.startswith(start) for command in commands("sh")), start
        for name in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / name).is_file(), name
    assert "make demo" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_is_short_and_all_links_lead_somewhere() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
