"""Windows as they would have been, had the device been worn another way."""

from dataclasses import replace

import numpy as np
import torch

from shared.augmentations import Channels, mix_axes, random_rotations, rotate
from shared.data.person import numbered
from shared.data.windows import Windows
from shared.errors import UserError
from shared.seeding import make_generator


def with_turned_copies(windows: Windows, copies: int) -> Windows:
    """Return windows, and behind them all of them again, turned, as often as is asked for.

    Each window is turned by a rotation of its own, uniform on SO(3), the same for all sensors of a place.

    Raises:
        UserError: Copies are asked for, and there is no three-axis sensor to turn.
    """
    if not copies:
        return windows
    x, channels = torch.from_numpy(windows.x), _channels(windows)
    generator = make_generator("turned copies")
    turned = [rotate(x, generator, channels).numpy() for _ in range(copies)]
    everything = windows[np.tile(np.arange(len(windows)), copies + 1)]
    return replace(everything, x=np.concatenate([windows.x, *turned]))


def with_turned_recordings(windows: Windows, seed: int) -> Windows:
    """Return windows as if each person had worn the device another way: all of a person turned by one rotation.

    Raises:
        UserError: No three-axis sensor.
    """
    x, channels = torch.from_numpy(windows.x), _channels(windows)
    people, places = numbered(windows.person)
    generator = make_generator("turned recordings", seed)
    whose = torch.from_numpy(places)
    turned = mix_axes(x, channels, lambda triads: random_rotations(x, generator, len(people))[whose])
    return replace(windows, x=turned.numpy())


def _channels(windows: Windows) -> Channels:
    spec = windows.meta.spec
    if not spec.triads:
        raise UserError(
            f"{windows.meta.name}: only three-axis sensors can be turned; expected channels such as total_acc_x, with "
            f"y and z, found none among {len(spec.channels)}"
        )
    return Channels(spec, torch.ones(len(spec.channels)))
