"""The pretext tasks, by name."""

from shared.tasks.base import Batch, Draw, Task, TaskContext, TaskSettings
from shared.tasks.contrastive import Contrastive
from shared.tasks.features import Features
from shared.tasks.reconstruction import Reconstruction
from shared.tasks.transformation import Transformation

TASKS: dict[str, type[Task]] = {
    "transformation": Transformation,
    "reconstruction": Reconstruction,
    "contrastive": Contrastive,
    "features": Features,
}

__all__ = ["TASKS", "Batch", "Draw", "Task", "TaskContext", "TaskSettings"]
