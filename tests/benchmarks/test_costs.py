"""What the parts cost, side by side with the plain way to write them. Run with `make bench`; read the ratios."""

import pytest
import torch

from jepa_ssl import EntryMasker, FlatVectors


def plain_mask(values: torch.Tensor, ratio: float) -> torch.Tensor:
    """One permutation a row, in a Python loop."""
    context = values.clone()
    for row in context:
        row[torch.randperm(len(row))[: int(ratio * len(row))]] = 0.0
    return context


@pytest.mark.parametrize(("batch", "entries"), [(8, 2600), (256, 2600), (64, 20000)])
@pytest.mark.parametrize("way", ["plain loop", "EntryMasker", "EntryMasker, padded"])
def test_flat_masking(benchmark, batch, entries, way):
    benchmark.group = f"hide half of {batch} x {entries}"
    values, valid = torch.randn(batch, entries), torch.ones(batch, entries, dtype=torch.bool)
    valid[:, -entries // 10 :] = False
    masker = EntryMasker(0.5)
    ways = {
        "plain loop": lambda: plain_mask(values, 0.5),
        "EntryMasker": lambda: masker(values),
        "EntryMasker, padded": lambda: masker(FlatVectors(values, valid)),
    }
    benchmark(ways[way])
