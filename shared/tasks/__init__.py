"""The pretext tasks, by name."""

from shared.tasks.base import Batch, Draw, Task, TaskContext, TaskSettings
from shared.tasks.byol import BYOL
from shared.tasks.codes import Codes
from shared.tasks.contrastive import Contrastive
from shared.tasks.cpc import CPC
from shared.tasks.crossmodal import Crossmodal
from shared.tasks.data2vec import Data2vec
from shared.tasks.dgi import DGI
from shared.tasks.dino import DINO
from shared.tasks.features import Features
from shared.tasks.graphcl import GraphCL
from shared.tasks.ibot import IBOT
from shared.tasks.ijepa import IJEPA
from shared.tasks.mae import MAE
from shared.tasks.moco import MoCo
from shared.tasks.moco_v3 import MoCoV3
from shared.tasks.order import Order
from shared.tasks.reconstruction import Reconstruction
from shared.tasks.rotation import Rotation
from shared.tasks.simsiam import SimSiam
from shared.tasks.swav import SwAV
from shared.tasks.transformation import Transformation
from shared.tasks.wav2vec2 import Wav2vec2

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
    "dino": DINO,
    "ibot": IBOT,
    "data2vec": Data2vec,
    "ijepa": IJEPA,
    "mae": MAE,
    "codes": Codes,
    "wav2vec2": Wav2vec2,
    "order": Order,
    "rotation": Rotation,
    "cpc": CPC,
    "crossmodal": Crossmodal,
    "graphcl": GraphCL,
    "dgi": DGI,
}

__all__ = ["TASKS", "Batch", "Draw", "Task", "TaskContext", "TaskSettings"]
