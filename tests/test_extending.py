"""Does what docs/extending.md says, in a copy of the project, and runs what it tells to run."""

import re
from pathlib import Path

import pytest
from readme import ROOT, commands, copy_checkout, run_all

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^`(\S+)`(?:, below `([^`\n]+)`)?:\n\n```\w+\n(.*?)```$", re.MULTILINE | re.DOTALL)


def apply(page: str, checkout: Path) -> list[str]:
    """Write each block into the file that the line before it names, below the line that it names, if it does."""
    written = []
    for name, above, block in BLOCK.findall(page):
        path = checkout / name
        if above:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            lines.insert(lines.index(f"{above}\n") + 1, block)
            block = "".join(lines)
        else:
            assert not path.exists(), f"{name} is there already"
        path.write_text(block, encoding="utf-8")
        written.append(name)
    return written


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_task_is_added_trained_and_tested_as_the_page_says(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    written = apply(PAGE, checkout)
    assert len(written) == PAGE.count("```python") + PAGE.count("```yaml") == 5
    found = commands("sh", PAGE)
    assert [command.split()[2] for command in found] == ["centralized_baseline", "simulation", "pytest"]
    assert all("speed" in command for command in found)
    run_all([f"python -m ruff check {written[0]}", f"python -m ruff format --check {written[0]}", *found], checkout)
    for run in ("demo-speed-centralized", "demo-speed-federated"):
        assert (checkout / "runs" / run / "encoder.safetensors").is_file()


def test_the_page_names_what_is_there() -> None:
    new = set(re.findall(r"^`(\S+)`:$", PAGE, re.M))
    for name in set(re.findall(r"`([\w/]+/[\w./]+)`", PAGE)) - new:
        assert (ROOT / name).is_file(), name
    names = set(re.findall(r"`([A-Z]\w+)`", PAGE))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "shared").rglob("*.py"))
    assert all(re.search(rf"\b{name}\b", code) for name in names), names
