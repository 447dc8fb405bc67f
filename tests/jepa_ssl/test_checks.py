"""Argument checks: what they take, and how they name what they do not."""

from typing import Any

import numpy as np
import pytest
import torch

from jepa_ssl.checks import can_read_without_sync, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_are_taken_as_ints(value: Any):
    assert type(whole_number("hops", value, 3)) is int


@pytest.mark.parametrize("value", [2, 3.0, 3.5, np.float64(3.0), torch.nan, torch.inf])
def test_other_numbers_are_refused_by_name_with_a_remedy(value: Any):
    with pytest.raises(ValueError, match=r"hops is .*must be a whole number that is at least 3; 4 is usual\."):
        whole_number("hops", value, 3, "4 is usual.")


@pytest.mark.parametrize("value", ["3", None, True, [3], torch.tensor(3)])
def test_what_is_no_number_is_refused_by_name(value: Any):
    with pytest.raises(TypeError, match=r"hops is .*must be a number"):
        whole_number("hops", value, 3)


def test_numbers_are_read_freely_on_a_cpu():
    assert can_read_without_sync(torch.ones(1))
    assert not can_read_without_sync(torch.ones(1, device="meta"))


@pytest.mark.slow
def test_numbers_are_not_read_while_compiling():
    def double_if_read(x: torch.Tensor) -> torch.Tensor:
        return 2 * x if can_read_without_sync(x) else x

    assert torch.compile(double_if_read, backend="eager", fullgraph=True)(torch.ones(1)) == 1
