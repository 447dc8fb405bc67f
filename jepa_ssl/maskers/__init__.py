"""Maskers hide a part of an instance: the context view lacks it, the target view has it."""

from jepa_ssl.maskers.bipartite import NodeMasker
from jepa_ssl.maskers.fill import Fill, GaussianNoise, Zeros
from jepa_ssl.maskers.flat import EntryMasker

__all__ = ["EntryMasker", "Fill", "GaussianNoise", "NodeMasker", "Zeros"]
