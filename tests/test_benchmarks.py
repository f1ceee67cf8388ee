"""What the benchmarks refuse, before they measure anything."""

import pytest

from benchmarks.__main__ import main
from shared.errors import UserError


@pytest.mark.parametrize("rounds", [-1, 0, 1])
def test_needs_a_round_after_the_first(rounds: int) -> None:
    """The first round warms up and is not timed."""
    with pytest.raises(UserError, match=rf"--rounds must be at least 2.*found {rounds}$"):
        main(["--rounds", str(rounds)])
