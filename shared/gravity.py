"""Gravity within total acceleration, and the movement of the body that is left without it.

Needs numpy and scipy only, so that it can be used where there is no torch.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

CUTOFF = 0.3
"""Of the low-pass (Hz): what turns slower than this is gravity."""
ORDER = 3
"""Of the Butterworth filter; this and the cutoff are those of UCI HAR (Anguita et al., ESANN 2013)."""


def body_acceleration(total: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Return total acceleration minus gravity, its low-pass below 0.3 Hz, without a delay (zero phase).

    Args:
        total: (N, ...) samples without a gap, time first, in any unit.
        rate: Samples per second (Hz), above 0.6.
    """
    low_pass = butter(ORDER, CUTOFF, fs=rate, output="sos")
    usual_padding = 3 * (2 * len(low_pass) + 1)
    gravity: NDArray[np.float64] = sosfiltfilt(low_pass, total, axis=0, padlen=min(usual_padding, len(total) - 1))
    return total - gravity
