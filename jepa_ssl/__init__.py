"""A pluggable JEPA objective for neural LP and MILP solvers."""

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.joint import JointLoss, JointSchedule, LinearRamp, LossWeights
from jepa_ssl.losses import cosine_loss
from jepa_ssl.maskers import EntryMasker, GaussianNoise, NodeMasker, Zeros
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor, MLPProjector
from jepa_ssl.protocols import Embeddings, Encoder, JEPALoss, PredictionLoss, Predictor, Teacher, ViewMaker, Views
from jepa_ssl.teachers import EMATeacher, StopGradTeacher

__version__ = "0.1.0"

__all__ = [
    "BipartiteGraph",
    "EMATeacher",
    "Embeddings",
    "Encoder",
    "EntryMasker",
    "FlatVectors",
    "GaussianNoise",
    "JEPALoss",
    "JEPAObjective",
    "JointLoss",
    "JointSchedule",
    "LinearRamp",
    "LossWeights",
    "MLPPredictor",
    "MLPProjector",
    "NodeMasker",
    "PredictionLoss",
    "Predictor",
    "StopGradTeacher",
    "Teacher",
    "ViewMaker",
    "Views",
    "Zeros",
    "cosine_loss",
]
