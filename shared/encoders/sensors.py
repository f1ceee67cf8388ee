"""An encoder of single sensors: the same weights for one sensor or nine, of whatever kind and wherever they are worn.

Sensors are the nodes of a graph, and a person's window is one: each node is encoded by the layers that all share, nodes
then tell each other what they have, and the embedding is their mean. No weight's shape depends on the channels, so that
people with different devices can train one encoder. Which nodes a graph has may differ from window to window: to drop
a node is ``View.mask`` with all that the sensor shows.

Message passing is attention among all sensors of a moment, as in a graph attention network (Velickovic et al. 2018)
whose nodes are all connected: with a handful of them there is no edge to spare.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from shared.body import KINDS, PLACES, SIDES, Sensor, worn_sensors
from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Block, Encoder, EncoderSettings, Present, SensorLayer, View
from shared.encoders.convolutional import convolution
from shared.layers import Attention


def sensors(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Three convolutions that all sensors share, as in ``fcn``, then attention among the sensors, H = 2 width.

    Kind, place and side are told after the first convolution, where they choose among its maps, and before the sensors
    attend to each other. Convolutions are half as wide as in ``fcn``, because a sensor has three channels only.

    Raises:
        UserError: A channel of no three-axis sensor, or a place that has no name.
    """
    half, width = settings.width // 2, settings.width
    worn = worn_sensors(spec)
    axes = 3 * inputs // len(spec.channels)
    first, norm, rectify = convolution(axes, half, 7, settings.norm, stride=2)
    if settings.norm == "group":  # beside a bias, how strongly a sensor moves survives a norm of each by itself
        first = nn.Conv1d(axes, half, 7, 2, padding=3)
    layers = nn.Sequential(
        _Split(worn, len(spec.channels), inputs),
        first,
        norm,
        _Told(worn, half),
        rectify,
        *convolution(half, width, 5, settings.norm, stride=2),
        *convolution(width, 2 * width, 3, settings.norm, stride=2),
        _Messages(worn, 2 * width),
    )
    return Backbone(layers, (Block(4, half), Block(7, width), Block(10, 2 * width), Block(11, 2 * width)), 8, worn)


class SensorEncoder(Encoder):
    """An encoder whose layers make maps (N S, H, L) of S sensors."""

    def __init__(self, settings: EncoderSettings, backbone: Backbone, spec: InputSpec) -> None:
        super().__init__(settings, backbone, spec)
        self.sensors = backbone.sensors

    def standardise(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Set mean 0, and the root mean square of all axes of a kind, as ``shared.body.pooled_by_kind`` has it.

        Raises:
            UserError: As of every encoder.
        """
        super().standardise(mean, std)
        squares = np.square(mean) + np.square(std)
        for kind in {sensor.kind for sensor in self.sensors}:
            channels = [channel for sensor in self.sensors if sensor.kind == kind for channel in sensor.channels]
            self.std[channels] = float(np.sqrt(squares[channels].mean()))
        self.mean = torch.zeros_like(self.mean)

    def _present(self, view: View) -> Present | None:
        if view.mask is None:
            return None
        seen = torch.stack([~view.mask[:, list(row)].all(dim=(1, 2)) for row in self.layout.rows], dim=1)
        flags = seen | ~seen.any(dim=1, keepdim=True)  # of a window that is hidden altogether, all are there, and blank
        return None if bool(flags.all()) else Present(flags, flags.flatten().nonzero()[:, 0])

    def _pool(self, maps: Tensor, present: Present | None = None) -> Tensor:
        """The mean over the sensors that are there of what is pooled over time."""
        if present is None:
            pooled = super()._pool(maps)
            return pooled.view(-1, len(self.sensors), pooled.shape[1]).mean(dim=1)
        there = super()._pool(maps[present.rows] if len(maps) == present.flags.numel() else maps)
        total = present.everybody(there).view(*present.flags.shape, -1).sum(dim=1)
        return total / present.flags.sum(dim=1, keepdim=True)

    def _tokens(self, maps: Tensor) -> Tensor:
        """Maps (N S, H, L) as tokens, (N, S L, H)."""
        return maps.view(-1, len(self.sensors), *maps.shape[1:]).transpose(2, 3).flatten(1, 2)


class _Split(SensorLayer):
    """Windows (N, inputs, T) to sensors (N S, 3 inputs / C, T): each has its axes, and what else is told of them."""

    axes: Tensor

    def __init__(self, worn: Sequence[Sensor], channels: int, inputs: int) -> None:
        super().__init__()
        axes = torch.tensor([sensor.channels for sensor in worn])
        self.register_buffer("axes", torch.cat([axes + k for k in range(0, inputs, channels)], dim=1), persistent=False)

    def forward(self, maps: Tensor, present: Present | None = None) -> Tensor:
        split = maps[:, self.axes].flatten(0, 1)
        return split if present is None else split[present.rows]


class _Told(SensorLayer):
    """Adds to the maps of a sensor what stands for its kind, place and side.

    Kinds differ from the beginning, by chance: what an accelerometer shows means something else than what a gyroscope
    does. Of a place that nobody trains on, nothing is said. A federation averages rows that a client has no use for as
    all other weights: they come from the server and go back as they were.
    """

    words: Tensor

    def __init__(self, worn: Sequence[Sensor], maps: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.tensor([sensor[:3] for sensor in worn]), persistent=False)
        self.kinds = nn.Parameter(torch.randn(len(KINDS), maps))
        self.places = nn.Parameter(torch.zeros(len(PLACES), maps))
        self.sides = nn.Parameter(torch.zeros(len(SIDES), maps))

    def forward(self, maps: Tensor, present: Present | None = None) -> Tensor:
        kind, place, side = self.words.T
        told = (self.kinds[kind] + self.places[place] + self.sides[side]).unsqueeze(2)
        if present is None:
            return (maps.view(-1, len(told), *maps.shape[1:]) + told).flatten(0, 1)
        return maps + told[present.rows % len(told)]


class _Messages(SensorLayer):
    """Sensors of a moment attend to each other: (N S, maps, L), or (P, maps, L), to (N S, maps, L).

    One that is not there attends to the others, by what is known of its kind and place, but they do not attend to it.
    """

    def __init__(self, worn: Sequence[Sensor], maps: int) -> None:
        super().__init__()
        self.told = _Told(worn, maps)
        self.attention = _NodeAttention(maps)

    def forward(self, maps: Tensor, present: Present | None = None) -> Tensor:
        absent = None
        if present is not None:
            maps = present.everybody(maps)
            absent = (~present.flags).repeat_interleave(maps.shape[2], dim=0)
        width, length = maps.shape[1:]
        nodes = self.told(maps).view(-1, len(self.told.words), width, length).permute(0, 3, 1, 2)
        moments: Tensor = self.attention(nodes.flatten(0, 1), absent).view(nodes.shape)
        return moments.permute(0, 2, 3, 1).flatten(0, 1)


class _NodeAttention(Attention):
    """Attention between nodes (N, S, maps), each of which is normalised by itself, whoever else is there."""

    def __init__(self, maps: int) -> None:
        super().__init__(maps, "group")
        self.norm_attention, self.norm_forward = nn.LayerNorm(maps), nn.LayerNorm(maps)

    def forward(self, x: Tensor, absent: Tensor | None = None) -> Tensor:
        x = x + self.attend(self.norm_attention(x), absent)
        told: Tensor = x + self.forward_layers(self.norm_forward(x))
        return told
