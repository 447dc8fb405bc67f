"""A pluggable JEPA objective for neural LP and MILP solvers."""

from jepa_ssl.arguments import add_jepa_arguments, check_jepa_arguments, from_args
from jepa_ssl.balance import GradientBalance
from jepa_ssl.encoders import ModelEncoder
from jepa_ssl.freezing import freeze, unfreeze
from jepa_ssl.instances import BipartiteGraph, FlatVectors
from jepa_ssl.joint import JointLoss, JointSchedule, LinearRamp, LossWeights
from jepa_ssl.losses import cosine_loss, smooth_l1_loss, squared_error
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
    Seeds,
    Shuffled,
    Zeros,
    hidden_share,
)
from jepa_ssl.monitor import CollapseMonitor, CollapseWarning
from jepa_ssl.objective import JEPAObjective
from jepa_ssl.predictors import ConditionalMLPPredictor, MLPPredictor, MLPProjector, hidden_and_degree
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
from jepa_ssl.regularizers import SIGReg, VICReg
from jepa_ssl.teachers import (
    CosineMomentum,
    EMATeacher,
    LinearMomentum,
    SharedTeacher,
    StopGradTeacher,
    TargetNetwork,
)
from jepa_ssl.term import JEPATerm

__version__ = "0.1.0"

__all__ = [
    "BipartiteGraph",
    "BlockMasker",
    "CollapseMonitor",
    "CollapseWarning",
    "ComposeMaskers",
    "ConditionalMLPPredictor",
    "ConditionalPredictor",
    "CosineMomentum",
    "EMATeacher",
    "EdgeMasker",
    "Embeddings",
    "Encoded",
    "Encoder",
    "EntryMasker",
    "Fill",
    "FlatVectors",
    "GaussianNoise",
    "GradientBalance",
    "GroupMasker",
    "JEPALoss",
    "JEPAObjective",
    "JEPATerm",
    "JointLoss",
    "JointSchedule",
    "LearnedToken",
    "LinearMomentum",
    "LinearRamp",
    "LossWeights",
    "MLPPredictor",
    "MLPProjector",
    "ModelEncoder",
    "Monitor",
    "MultiView",
    "NodeMasker",
    "PredictionLoss",
    "Predictor",
    "Regularizer",
    "SIGReg",
    "Seeds",
    "SharedTeacher",
    "Shuffled",
    "StopGradTeacher",
    "TargetNetwork",
    "Teacher",
    "VICReg",
    "ViewMaker",
    "Views",
    "Zeros",
    "add_jepa_arguments",
    "check_jepa_arguments",
    "cosine_loss",
    "freeze",
    "from_args",
    "hidden_and_degree",
    "hidden_share",
    "smooth_l1_loss",
    "squared_error",
    "unfreeze",
]
