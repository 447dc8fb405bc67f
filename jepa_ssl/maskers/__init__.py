"""Maskers: hide a part of each instance from the context view and keep it in the target view."""

from jepa_ssl.maskers.blocks import BlockMasker
from jepa_ssl.maskers.combine import ComposeMaskers, MultiView
from jepa_ssl.maskers.edges import EdgeMasker
from jepa_ssl.maskers.fill import Fill, GaussianNoise, LearnedToken, Shuffled, Zeros
from jepa_ssl.maskers.flat import EntryMasker, GroupMasker
from jepa_ssl.maskers.nodes import NodeMasker
from jepa_ssl.maskers.share import hidden_share
from jepa_ssl.seeds import Seeds

__all__ = [
    "BlockMasker",
    "ComposeMaskers",
    "EdgeMasker",
    "EntryMasker",
    "Fill",
    "GaussianNoise",
    "GroupMasker",
    "LearnedToken",
    "MultiView",
    "NodeMasker",
    "Seeds",
    "Shuffled",
    "Zeros",
    "hidden_share",
]
