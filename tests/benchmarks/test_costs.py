"""What the parts cost, side by side with the plain way to write them. Run with `make bench`; read the ratios."""

import copy

import pytest
import torch
from torch import nn

from jepa_ssl import EMATeacher, EntryMasker, FlatVectors


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


@pytest.mark.parametrize(("width", "layers"), [(32, 16), (32, 200), (128, 48), (512, 24)])
@pytest.mark.parametrize("way", ["mul and add, one by one", "EMATeacher.update"])
def test_ema_update(benchmark, width, layers, way):
    student = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    benchmark.group = f"EMA of {sum(p.numel() for p in student.parameters()):,} parameters in {2 * layers} tensors"
    plain, teacher = copy.deepcopy(student), EMATeacher(student)

    @torch.no_grad()
    def one_by_one():
        for t, o in zip(plain.parameters(), student.parameters(), strict=True):
            t.mul_(0.996).add_(o, alpha=0.004)

    benchmark({"mul and add, one by one": one_by_one, "EMATeacher.update": lambda: teacher.update(student)}[way])
