"""The pretext tasks, by name."""

from shared.tasks.base import Batch, Draw, Task, TaskContext, TaskSettings
from shared.tasks.codes import Codes
from shared.tasks.contrastive import Contrastive
from shared.tasks.features import Features
from shared.tasks.mae import Mae
from shared.tasks.reconstruction import Reconstruction
from shared.tasks.transformation import Transformation
from shared.tasks.wav2vec2 import Wav2vec2

TASKS: dict[str, type[Task]] = {
    "transformation": Transformation,
    "reconstruction": Reconstruction,
    "contrastive": Contrastive,
    "features": Features,
    "mae": Mae,
    "codes": Codes,
    "wav2vec2": Wav2vec2,
}

__all__ = ["TASKS", "Batch", "Draw", "Task", "TaskContext", "TaskSettings"]
