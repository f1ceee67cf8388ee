"""Memory that is kept is not asked of the system again."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

TAKE_AND_FREE = """
import resource, sys, torch
from shared.processor import set_up_process
if sys.argv[1] == "keep":
    set_up_process(1)
for repetition in range(12):
    if repetition == 6:  # the heap has grown
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (1, 10, 40, 80):
        torch.ones(megabytes * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_serves_the_next_tensors() -> None:
    def page_faults(how: str) -> int:
        command = [sys.executable, "-c", TAKE_AND_FREE, how]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert page_faults("keep") < 0.02 * page_faults("free")
