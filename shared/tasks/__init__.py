"""The pretext tasks, by name."""

from shared.tasks.base import Batch, Draw, Task, TaskContext, TaskSettings
from shared.tasks.contrastive import Contrastive
from shared.tasks.data2vec import Data2vec
from shared.tasks.dino import DINO
from shared.tasks.features import Features
from shared.tasks.ibot import IBOT
from shared.tasks.ijepa import IJEPA
from shared.tasks.reconstruction import Reconstruction
from shared.tasks.transformation import Transformation

TASKS: dict[str, type[Task]] = {
    "transformation": Transformation,
    "reconstruction": Reconstruction,
    "contrastive": Contrastive,
    "features": Features,
    "dino": DINO,
    "ibot": IBOT,
    "data2vec": Data2vec,
    "ijepa": IJEPA,
}

__all__ = ["TASKS", "Batch", "Draw", "Task", "TaskContext", "TaskSettings"]
