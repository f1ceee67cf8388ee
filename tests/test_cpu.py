"""Memory that is kept is not asked of the system again; and torch computes as the older processor that CI asks for."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

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
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return [int(line) for line in done.stdout.split()]

    for kept, freed in zip(page_faults("keep"), page_faults("free"), strict=True):  # in the main thread, in another one
        assert kept < 0.02 * freed


CONVOLVE = """
import torch
print(torch.backends.cpu.get_cpu_capability())
torch.nn.Conv1d(9, 64, 7)(torch.zeros(64, 9, 128))
"""


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}, reason="no AVX2 here")
def test_torch_and_its_kernels_compute_as_the_processor_of_make_test_avx2() -> None:
    asked = re.findall(r"(\w+)=(\S+)", re.findall(r"^AVX2 := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0])
    environment = os.environ | dict(asked) | {"ONEDNN_VERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CONVOLVE], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "AVX2" in done.splitlines()  # torch's own kernels
    assert re.search("info,cpu,isa:.*AVX2$", done, re.MULTILINE), done  # oneDNN's
    assert re.search("exec,cpu,convolution,.*avx2", done), done
