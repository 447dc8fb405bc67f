"""Teachers: embed the target view, with a moving average of the encoder, the encoder itself, or another network."""

from jepa_ssl.teachers.ema import EMATeacher
from jepa_ssl.teachers.encoder import SharedTeacher, StopGradTeacher
from jepa_ssl.teachers.network import TargetNetwork

__all__ = ["EMATeacher", "SharedTeacher", "StopGradTeacher", "TargetNetwork"]
