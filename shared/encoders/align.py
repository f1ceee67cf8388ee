"""Windows turned upright before an encoder sees them, so that it makes no difference how a device was worn.

Everything that is worn at one place turns by one rotation, which the window itself tells. Up is where its mean total
acceleration points, for what stands still measures gravity alone (Mizell 2003, "Using gravity to estimate accelerometer
orientation"). What is left is which way the device faces. That is told by the horizontal direction in which the window
moves most: of somebody who walks, forwards and backwards (Kunze et al. 2009, "Which way am I facing"; here by the third
moment of the movement along it, which way is forwards).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from shared.data.spec import InputSpec
from shared.errors import UserError

Alignment = Literal["gravity", "heading"]
"""What is aligned: up; or up, and which way the device faces."""

LEAST = 0.1
"""Shortest mean total acceleration (g) that tells where up is; windows of free fall, or without a sensor, stay."""

OVERHEAD = -0.9
"""Upwards part of gravity's direction below which windows are turned over first: the shortest way is not safe."""


class Align(nn.Module):
    """Turns windows (N, C, T) so that gravity points along z; channels of no three-axis sensor stay.

    Args:
        how: "gravity" takes the shortest rotation, so that a device faces as it did; "heading" also turns it about the
            vertical, so that x is the direction of most movement.
        spec: Of the windows.

    Attributes:
        triads: The channels of each three-axis sensor.

    Raises:
        UserError: A place without total acceleration, or no three-axis sensor.
    """

    order: Tensor

    def __init__(self, how: Alignment, spec: InputSpec) -> None:
        super().__init__()
        self.how = how
        places = {triad.place: triad.channels for triad in spec.triads if triad.kind == "total_acc"}
        if lost := dict.fromkeys(triad.place for triad in spec.triads if triad.place not in places):
            raise UserError(
                f"encoder.align={how} needs the total acceleration of each place, to know where up is; expected "
                f"{', '.join('_'.join(filter(None, (place, 'total_acc_x'))) for place in lost)}, with y and z, found "
                f"{', '.join(spec.channels[t.channels[0]] for t in spec.triads if t.place in lost)} without it"
            )
        if not places:
            raise UserError(
                f"encoder.align={how} turns three-axis sensors; expected channels such as total_acc_x, with y and z, "
                f"found none among {len(spec.channels)}"
            )
        self.triads = tuple(triad.channels for triad in spec.triads)
        self._places = [(places[p], [t.channels for t in spec.triads if t.place == p]) for p in places]
        turned = [channel for _, members in self._places for triad in members for channel in triad]
        self._others = [channel for channel in range(len(spec.channels)) if channel not in turned]
        self.register_buffer("order", torch.tensor([*turned, *self._others]).argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the windows upright, in float32 also under autocast: sitting and standing differ by little."""
        with torch.autocast(x.device.type, enabled=False):
            parts = []
            for total, members in self._places:
                rotation = self._rotation(x[:, list(total)])
                parts += [rotation @ x[:, list(triad)] for triad in members]
            return torch.cat([*parts, x[:, self._others]], dim=1)[:, self.order]

    def _rotation(self, total: Tensor) -> Tensor:
        """Return the rotations (N, 3, 3) of windows by their total acceleration (N, 3, T)."""
        mean = total.mean(dim=2)
        length = mean.square().sum(dim=1, keepdim=True).sqrt()
        rotation = upright(mean / length.clamp_min(LEAST))
        if self.how == "heading":
            rotation = facing((rotation @ (total - mean.unsqueeze(2)))[:, :2]) @ rotation
        return torch.where(length.unsqueeze(2) > LEAST, rotation, torch.eye(3, dtype=total.dtype, device=total.device))


def upright(up: Tensor) -> Tensor:
    """Return rotations (N, 3, 3) that turn unit vectors (N, 3) to z.

    They are the shortest ones, but for vectors that point nearly to -z, which are first turned over about an axis of
    their own (Duff et al. 2017, "Building an orthonormal basis, revisited").
    """
    x, y, z = up.unbind(dim=1)
    side = torch.where(z < OVERHEAD, -torch.ones_like(z), torch.ones_like(z))
    a = -1 / (side + z)
    b = x * y * a
    rows = [
        torch.stack([1 + side * x * x * a, side * b, -side * x], dim=1),
        torch.stack([b, side + y * y * a, -y], dim=1),
        up,
    ]
    return torch.stack(rows, dim=1)


def facing(movement: Tensor) -> Tensor:
    """Return rotations about z, (N, 3, 3), that turn the direction of most horizontal movement (N, 2, T) to x.

    Its two ends are told apart by the third moment along it, which is at least 0 at x. Where nothing moves, nothing is
    turned.
    """
    x, y = movement.unbind(dim=1)
    # Twice the angle of the principal axis, as a vector; half of it without an arc tangent, and without cancellation.
    double = torch.stack([(x * x - y * y).sum(dim=1), 2 * (x * y).sum(dim=1)], dim=1)
    length = double.square().sum(dim=1, keepdim=True).sqrt()
    cos, sin = (double / length.clamp_min(torch.finfo(double.dtype).tiny)).unbind(dim=1)
    one = torch.ones_like(cos)
    acute = torch.stack([1 + cos, sin], dim=1)
    obtuse = torch.stack([sin.abs(), torch.where(sin < 0, -one, one) * (1 - cos)], dim=1)
    half = torch.where((cos < 0).unsqueeze(1), obtuse, acute)
    half = half / half.square().sum(dim=1, keepdim=True).sqrt()
    skew = (half[:, :1] * x + half[:, 1:] * y).pow(3).sum(dim=1)
    cos, sin = (half * torch.where(skew < 0, -one, one).unsqueeze(1)).unbind(dim=1)
    zero = torch.zeros_like(cos)
    rows = [torch.stack(row, dim=1) for row in ((cos, sin, zero), (-sin, cos, zero), (zero, zero, one))]
    return torch.stack(rows, dim=1)
