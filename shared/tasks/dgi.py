"""Which nodes belong to a window, and which to one whose sensors are of several windows?

DGI: Velickovic et al. 2019, "Deep graph infomax". Theirs is one graph, corrupted by giving its nodes each other's
features. Here a window is a graph and its tokens are the nodes; it is corrupted by giving it sensors of other windows
of the batch. On encoder ``sensors`` there is a node for each sensor and moment, on others one for each moment.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from shared.augmentations import sensors_of
from shared.encoders import Encoded, View
from shared.layers import BatchNorm
from shared.losses import info_max
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings


class DGI(Task):
    """Tell nodes from corrupted ones by a bilinear product with the window's summary (equations 1 and 4).

    Their summary is the sigmoid of the mean of the nodes. Here it is that of what the encoder pools, with spread 1 in
    each direction, because that is what a user of the encoder gets.
    """

    Settings: ClassVar[type[TaskSettings]] = TaskSettings
    of_time: ClassVar[bool] = True
    compares_windows: ClassVar[bool] = True
    advice: ClassVar[str] = "Larger batches (train.batch_size) or a lower train.learning_rate may help."

    def __init__(self, settings: TaskSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.sensors = sensors_of(context.channels, context.channel_count)
        self.norm_nodes, self.norm_summary = BatchNorm(context.width), BatchNorm(context.dim)
        self.product = nn.Linear(context.dim, context.width, bias=False)
        self.chance = math.log(2)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], None]:
        """The windows (N), then corrupted ones (N), in one view: each sensor has an order of its own."""
        x = batch.x
        orders = [torch.randperm(len(x), generator=generator, device=x.device) for _ in range(max(self.sensors) + 1)]
        whose = torch.stack([orders[sensor] for sensor in self.sensors], dim=1)
        corrupted = x[whose, torch.arange(x.shape[1], device=x.device)]
        return [View(torch.cat([x, corrupted]))], None

    def loss(self, encoded: list[Encoded], memory: None, batch: Batch) -> Tensor:
        """Binary cross-entropy of the nodes (N, K) of both (Velickovic et al. 2019, equation 1)."""
        pooled, tokens = encoded[0].pooled[: len(batch.x)], encoded[0].tokens
        summary = self.norm_summary(pooled).sigmoid()
        self.projections = summary.detach()
        nodes = self.norm_nodes(tokens.transpose(1, 2))
        wanted = self.product(summary).unsqueeze(1) * tokens.shape[2] ** -0.5
        real, corrupted = (wanted @ nodes.unflatten(0, (2, -1))).unbind(0)
        return info_max(real, corrupted)
