"""Tell the code of what is masked.

BEiT: Bao et al. 2022, "BERT pre-training of image transformers"; HuBERT: Hsu et al. 2021, "Self-supervised speech
representation learning by masked prediction of hidden units". They differ in what the codes are made of. BEiT takes a
tokenizer that was trained before, on other data; here it is k-means of the patches themselves (inferred). HuBERT takes
k-means of hand-made features, and later of the encoder's own tokens.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.columns import Column
from shared.data.windows import Windows
from shared.encoders import Encoded, Encoder, View
from shared.extras.clusters import cluster_codes
from shared.losses import cosine_logits
from shared.masks import Masks, MaskSettings
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings


class CodesSettings(TaskSettings):
    """How windows are masked, and what the codes are.

    Args:
        mask: What is hidden.
        clusters: K, codes at most.
        source: What the first codes are made of: "patches" (like BEiT) or hand-made "features" of them (HuBERT).
        refresh: Epochs of the whole run after which codes are made again, from the encoder's tokens (HuBERT's later
            iterations); None: never.
        projection: Width P in which tokens and codes are compared.
        temperature: Divisor of the cosine similarities.
    """

    mask: MaskSettings
    clusters: int = Field(ge=2)
    source: Literal["patches", "features"]
    refresh: PositiveInt | None
    projection: PositiveInt
    temperature: PositiveFloat

    @property
    def remake_every(self) -> int | None:
        """See ``refresh``."""
        return self.refresh


def position_codes(windows: Windows, encoder: Encoder, settings: CodesSettings, before: Column | None) -> Tensor:
    """Return the codes (N, L), from the settings' source the first time, later from the encoder's tokens."""
    source = settings.source if before is None else "tokens"
    return cluster_codes(
        windows, encoder, settings.clusters, source, None if before is None else torch.as_tensor(before)
    )


class Codes(Task):
    """Tell the code of each position where something is hidden, from its token."""

    Settings: ClassVar[type[TaskSettings]] = CodesSettings
    pooled: ClassVar[bool] = False
    extra = staticmethod(position_codes)
    masks = True
    advice: ClassVar[str] = (
        "Lower tasks.codes.mask.ratio or tasks.codes.clusters, or set tasks.codes.refresh=null: "
        "codes that are made again from a poor encoder are poor too."
    )

    def __init__(self, settings: CodesSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.masker = Masks(settings.mask, context.channels, context.layout.grid)
        self.layout = context.layout
        self.settings = settings
        self.head = nn.Linear(context.width, settings.projection)
        self.embeddings = nn.Parameter(torch.randn(settings.clusters, settings.projection))

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """The windows, masked."""
        mask = self.masker.draw(len(batch.x), generator)
        return [View(batch.x, mask=mask)], self.layout.touched(mask)

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Cross-entropy over the hidden positions (Hsu et al. 2021, equations 1 and 3)."""
        codes = batch.extras["codes"][memory]
        shares = torch.bincount(codes, minlength=self.settings.clusters) / len(codes)
        self.chance = float(torch.special.entr(shares).sum())  # of a head that knows how frequent each code is
        logits = cosine_logits(self.head(encoded[0].tokens[memory]), self.embeddings, self.settings.temperature)
        self.code_shares = logits.detach().softmax(dim=1).mean(dim=0)
        return F.cross_entropy(logits, codes)
