"""Batches of instances as plain tensors: vectors with padding, and graphs with any streams of nodes and edges."""

from jepa_ssl.instances.batches import BipartiteGraph, FlatVectors, Graph, check_finite, sums_up
from jepa_ssl.instances.streams import Edges, Nodes

__all__ = ["BipartiteGraph", "Edges", "FlatVectors", "Graph", "Nodes", "check_finite", "sums_up"]
