"""Memory that is kept is not asked of the system again."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

TAKE_AND_FREE = """
import resource, sys, threading, torch
from shared.cpu import set_up_process
if sys.argv[1] == "keep":
    set_up_process(1)
def take_and_free():
    for repetition in range(12):
        if repetition == 6:  # the heap has grown
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for megabytes in (1, 10, 40, 80):
            torch.ones(megabytes * 2**18)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
take_and_free()
thread = threading.Thread(target=take_and_free)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_serves_the_next_tensors() -> None:
    def page_faults(how: str) -> list[int]:
        command = [sys.executable, "-c", TAKE_AND_FREE, how]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.split()]

    for kept, freed in zip(page_faults("keep"), page_faults("free"), strict=True):  # in the main thread, in another one
        assert kept < 0.02 * freed
