"""Randomness without global state: every draw comes from a generator named by what it is for."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_INITIALISING = threading.Lock()


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and their order, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded from the parts, such as ``(seed, epoch, person)``."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


@contextmanager
def seeded_initialisation(*parts: int | str) -> Iterator[None]:
    """Seed what ``torch.nn`` draws while modules are built, and leave the global generator as it was.

    Modules draw from the process-wide generator, so clients that share a process take turns.
    """
    with _INITIALISING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*parts))
        yield
