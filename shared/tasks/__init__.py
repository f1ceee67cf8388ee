"""The pretext tasks, by name."""

from shared.tasks.base import Batch, Draw, Task, TaskContext, TaskSettings
from shared.tasks.contrastive import Contrastive
from shared.tasks.cpc import CPC
from shared.tasks.crossmodal import Crossmodal
from shared.tasks.features import Features
from shared.tasks.order import Order
from shared.tasks.reconstruction import Reconstruction
from shared.tasks.rotation import Rotation
from shared.tasks.transformation import Transformation

TASKS: dict[str, type[Task]] = {
    "transformation": Transformation,
    "reconstruction": Reconstruction,
    "contrastive": Contrastive,
    "features": Features,
    "order": Order,
    "rotation": Rotation,
    "cpc": CPC,
    "crossmodal": Crossmodal,
}

__all__ = ["TASKS", "Batch", "Draw", "Task", "TaskContext", "TaskSettings"]
