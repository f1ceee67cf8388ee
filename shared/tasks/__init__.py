"""The pretext tasks, by name."""

from shared.tasks.base import Batch, Draw, Task, TaskContext, TaskSettings
from shared.tasks.byol import BYOL
from shared.tasks.contrastive import Contrastive
from shared.tasks.features import Features
from shared.tasks.moco import MoCo
from shared.tasks.moco_v3 import MoCoV3
from shared.tasks.reconstruction import Reconstruction
from shared.tasks.simsiam import SimSiam
from shared.tasks.swav import SwAV
from shared.tasks.transformation import Transformation

TASKS: dict[str, type[Task]] = {
    "transformation": Transformation,
    "reconstruction": Reconstruction,
    "contrastive": Contrastive,
    "features": Features,
    "simsiam": SimSiam,
    "byol": BYOL,
    "moco": MoCo,
    "moco_v3": MoCoV3,
    "swav": SwAV,
}

__all__ = ["TASKS", "Batch", "Draw", "Task", "TaskContext", "TaskSettings"]
