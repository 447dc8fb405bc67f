"""Does the term help on your task? Probes, label curves with controls, a report, and checkpoint scores.

`label_curve` compares arms, frozen encoders or trained networks, with controls over numbers of labels and seeds. Its
`Report` says in one paragraph what the numbers say. Nothing here knows of linear programs.
"""

from jepa_ssl.evaluation.arms import Arm, Features, Outcome, Split, Task, Trained, embed
from jepa_ssl.evaluation.controls import (
    StillImproving,
    Stopped,
    Supervised,
    standard_controls,
    train_until_it_stops,
)
from jepa_ssl.evaluation.curve import label_curve
from jepa_ssl.evaluation.intervals import Curve, Interval, LabelsNeeded, interval
from jepa_ssl.evaluation.metrics import Metric, accuracy, auc, r2, top_k
from jepa_ssl.evaluation.probe import Probe, probe
from jepa_ssl.evaluation.report import Report
from jepa_ssl.evaluation.scores import RankCorrelation, checkpoint_scores, lidar, rank_correlation, spectrum_alpha

__all__ = [
    "Arm",
    "Curve",
    "Features",
    "Interval",
    "LabelsNeeded",
    "Metric",
    "Outcome",
    "Probe",
    "RankCorrelation",
    "Report",
    "Split",
    "StillImproving",
    "Stopped",
    "Supervised",
    "Task",
    "Trained",
    "accuracy",
    "auc",
    "checkpoint_scores",
    "embed",
    "interval",
    "label_curve",
    "lidar",
    "probe",
    "r2",
    "rank_correlation",
    "spectrum_alpha",
    "standard_controls",
    "top_k",
    "train_until_it_stops",
]
