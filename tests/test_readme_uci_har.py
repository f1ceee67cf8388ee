"""Every command of the README and of docs on UCI HAR runs as written there; apart, because both files take minutes."""

from pathlib import Path

import pytest
from readme import ELSEWHERE, commands, copy_checkout, run_all

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1200)
def test_every_command_on_uci_har_runs_in_the_order_of_the_readme(tmp_path: Path, uci_har_zip: Path) -> None:
    found = [c for c in commands("sh") if not c.startswith(tuple(ELSEWHERE)) and "uci_har" in c]
    assert len(found) >= 5
    run_all(found, copy_checkout(tmp_path), FEDHAR_UCI_HAR=str(uci_har_zip))
