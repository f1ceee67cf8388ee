"""Find the code of what is masked among the codes of what else is masked in the window; the codes are learned too.

wav2vec 2.0: Baevski et al. 2020, "A framework for self-supervised learning of speech representations".
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.encoders import Encoded, View
from shared.losses import code_monotony, contrast_positions
from shared.masks import Masks, MaskSettings
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings

SOFTEST, HARDEST = 2.0, 0.5
"""Temperature of the Gumbel softmax at the beginning and at the end of the run."""


class Wav2vec2Settings(TaskSettings):
    """How windows are masked, and the codes.

    Args:
        mask: What is hidden.
        groups: G; a position has one code of each group.
        codes: V, of a group.
        hidden: Width of the layer that chooses the codes of a patch.
        projection: Width P in which tokens and codes are compared; each group gives P / G of a code's numbers.
        temperature: Divisor of the cosine similarities.
        diversity: Weight of the term that wants all codes used.
    """

    mask: MaskSettings
    groups: PositiveInt
    codes: int = Field(ge=2)
    hidden: PositiveInt
    projection: PositiveInt
    temperature: PositiveFloat
    diversity: NonNegativeFloat


class _Memory(NamedTuple):
    """Hidden positions, bool (N, L), and the noise that codes are drawn with, (N, L, G, V)."""

    hidden: Tensor
    noise: Tensor


class Wav2vec2(Task):
    """Tell from its token which codes a hidden position has, by contrast with the window's other hidden positions.

    The paper quantises what its feature encoder makes of the sound before anything is masked. Encoders here are masked
    at their input, so the task has a small layer of its own from a patch to its codes (inferred). With 16 positions a
    window all others are distractors; the paper draws 100.
    """

    Settings: ClassVar[type[TaskSettings]] = Wav2vec2Settings
    of_time: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    masks = True
    advice: ClassVar[str] = "Raise tasks.wav2vec2.diversity, or lower train.learning_rate."
    softness: Tensor

    def __init__(self, settings: Wav2vec2Settings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.masker = Masks(settings.mask, context.channels, context.layout.grid)
        self.settings, self.layout = settings, context.layout
        self.shape = (settings.groups, settings.codes)
        score = nn.Linear(settings.hidden, settings.groups * settings.codes)
        # As in the authors' code: codes that the noise decides on tell nothing of a patch, and would never begin to.
        nn.init.normal_(score.weight)
        self.choose = nn.Sequential(
            nn.Linear(context.layout.values, settings.hidden),
            nn.GELU(),
            nn.LayerNorm(settings.hidden),
            score,
        )
        width = -(-settings.projection // settings.groups)
        self.codebook = nn.Parameter(torch.rand(*self.shape, width))
        self.project_code = nn.Linear(settings.groups * width, settings.projection)
        self.project_token = nn.Linear(context.width, settings.projection)
        self.register_buffer("softness", torch.tensor(SOFTEST))

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], _Memory]:
        """The windows, masked."""
        n = len(batch.x)
        mask = self.masker.draw(n, generator)
        shape = (n, self.layout.tokens, *self.shape)
        exponential = torch.empty(shape, device=batch.x.device).exponential_(generator=generator)
        return [View(batch.x, mask=mask)], _Memory(self.layout.touched(mask), -exponential.log())

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Contrast (Baevski et al. 2020, equation 3) and diversity (equation 4)."""
        logits = self.choose(self.layout.patches(batch.standardised)).unflatten(2, self.shape)
        soft = ((logits + memory.noise) / self.softness).softmax(dim=3)
        codes = soft.argmax(dim=3)
        # Forward the code alone, backward the softmax (equation 1): the difference is 0.
        hard = F.one_hot(codes, self.shape[1]) + (soft - soft.detach())
        quantised = self.project_code(torch.einsum("nlgv,gvp->nlgp", hard, self.codebook).flatten(2))
        token = self.project_token(encoded[0].tokens)
        contrast = contrast_positions(token, quantised, codes, memory.hidden, self.settings.temperature)
        shares = logits[memory.hidden].softmax(dim=2)
        used = shares.detach().mean(dim=0)
        self.code_shares = used[torch.special.entr(used).sum(dim=1).argmin()]  # of the group that uses the fewest
        return contrast + self.settings.diversity * code_monotony(shares)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Let the temperature of the codes fall, by the same factor in each step."""
        self.softness.fill_(SOFTEST * (HARDEST / SOFTEST) ** progress)
