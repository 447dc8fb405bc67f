"""Teachers embed the target view. They differ in whose weights they use, and are exchanged by one argument."""

from jepa_ssl.teachers.ema import EMATeacher
from jepa_ssl.teachers.encoder import SharedTeacher, StopGradTeacher
from jepa_ssl.teachers.network import TargetNetwork

__all__ = ["EMATeacher", "SharedTeacher", "StopGradTeacher", "TargetNetwork"]
