"""A pluggable JEPA (joint-embedding predictive architecture) objective for neural LP and MILP solvers."""

from jepa_ssl.balance import GradientBalance
from jepa_ssl.encoders import ModelEncoder
from jepa_ssl.instances import BipartiteGraph, FlatVectors, Graph
from jepa_ssl.joint import JointSchedule
from jepa_ssl.losses import cosine_loss, smooth_l1_loss
from jepa_ssl.maskers import BlockMasker, ComposeMaskers, EdgeMasker, EntryMasker, MultiView, NodeMasker
from jepa_ssl.monitor import CollapseMonitor
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor, MLPProjector
from jepa_ssl.protocols import Encoded, Views
from jepa_ssl.recipes import later_state
from jepa_ssl.regularizers import SIGReg, VICReg
from jepa_ssl.schedules import CosineSchedule, LinearSchedule
from jepa_ssl.seeds import Seeds
from jepa_ssl.teachers import EMATeacher, SharedTeacher, StopGradTeacher, TargetNetwork
from jepa_ssl.term import JEPATerm

__version__ = "0.1.0"

__all__ = [
    "BipartiteGraph",
    "BlockMasker",
    "CollapseMonitor",
    "ComposeMaskers",
    "CosineSchedule",
    "EMATeacher",
    "EdgeMasker",
    "Encoded",
    "EntryMasker",
    "FlatVectors",
    "GradientBalance",
    "Graph",
    "JEPAObjective",
    "JEPATerm",
    "JointSchedule",
    "LinearSchedule",
    "MLPPredictor",
    "MLPProjector",
    "ModelEncoder",
    "MultiView",
    "NodeMasker",
    "SIGReg",
    "Seeds",
    "SharedTeacher",
    "StopGradTeacher",
    "TargetNetwork",
    "VICReg",
    "Views",
    "cosine_loss",
    "later_state",
    "smooth_l1_loss",
]
