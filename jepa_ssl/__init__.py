"""A pluggable JEPA objective for neural LP and MILP solvers."""

from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.joint import JointLoss, JointSchedule, LinearRamp, LossWeights
from jepa_ssl.losses import cosine_loss
from jepa_ssl.maskers import (
    BlockMasker,
    ComposeMaskers,
    EdgeMasker,
    EntryMasker,
    Fill,
    GaussianNoise,
    GroupMasker,
    LearnedToken,
    MultiView,
    NodeMasker,
    Shuffled,
    Zeros,
    hidden_share,
)
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import MLPPredictor, MLPProjector
from jepa_ssl.protocols import (
    ConditionalPredictor,
    Embeddings,
    Encoded,
    Encoder,
    JEPALoss,
    Monitor,
    PredictionLoss,
    Predictor,
    Regularizer,
    Teacher,
    ViewMaker,
    Views,
)
from jepa_ssl.teachers import EMATeacher, StopGradTeacher

__version__ = "0.1.0"

__all__ = [
    "BipartiteGraph",
    "BlockMasker",
    "ComposeMaskers",
    "ConditionalPredictor",
    "EMATeacher",
    "EdgeMasker",
    "Embeddings",
    "Encoded",
    "Encoder",
    "EntryMasker",
    "Fill",
    "FlatVectors",
    "GaussianNoise",
    "GroupMasker",
    "JEPALoss",
    "JEPAObjective",
    "JointLoss",
    "JointSchedule",
    "LearnedToken",
    "LinearRamp",
    "LossWeights",
    "MLPPredictor",
    "MLPProjector",
    "Monitor",
    "MultiView",
    "NodeMasker",
    "PredictionLoss",
    "Predictor",
    "Regularizer",
    "Shuffled",
    "StopGradTeacher",
    "Teacher",
    "ViewMaker",
    "Views",
    "Zeros",
    "cosine_loss",
    "hidden_share",
]
