"""The study: does a JEPA term help a KKT net, and with which recipe? `python -m examples.study --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "kkt_nets"))
