"""How a process uses its machine: threads, and memory."""

import ctypes

import torch

_GLIBC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
"""Number and value of what ``mallopt`` gets (its manual page has the names): give nothing back to the system, map
nothing apart, one heap for all threads."""


def set_up_process(threads: int) -> None:
    """Set the number of torch's threads, and keep memory (see ``keep_memory``)."""
    torch.set_num_threads(threads)
    keep_memory()


def keep_memory() -> None:
    """Keep memory that was freed for the next tensors, to the end of the process; to be called before threads start.

    A training step frees all that it took. As it comes, glibc hands large pieces back to the system, which has to clear
    them page by page when the next step takes them again: up to a tenth of a step. A heap that a thread has begun
    already goes on being given back. Where there is another C library, nothing changes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for number, value in _GLIBC.values():
            library.mallopt(number, value)
