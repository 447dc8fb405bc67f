"""Losses between two log rows."""

import pytest
import torch
from meter import Meter, NonFiniteLossError
from runs import differences


def meter() -> Meter:
    return Meter("lp{}".format)


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_it_returns_means_and_all_embeddings_and_starts_anew():
    m = meter()
    m.add(1, [0], losses(a=1.0, b=2.0), {"row": torch.zeros(2, 3)})
    m.add(2, [1], losses(b=4.0, a=0.5), {"row": torch.ones(1, 3)})
    means, embeddings = m.read()
    assert means == {"a": 0.75, "b": 3.0}
    assert embeddings["row"].tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3]
    assert m.read() == ({}, {})


def test_a_single_loss_is_returned_as_it_is():
    m = meter()
    loss = torch.tensor(0.1)  # in float32
    m.add(1, [0], {"a": loss}, None)
    assert m.read() == ({"a": loss.item()}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_first_step_that_is_not_finite_is_named_with_its_instances_and_terms(name, value):
    m = meter()
    m.add(7, [1, 2], losses(a=1.0, b=2.0), None)
    m.add(8, [3, 4], losses(**{"a": 1.0, "b": 2.0, name: value}), None)
    m.add(9, [5, 6], losses(a=float("nan"), b=float("nan")), None)
    with pytest.raises(NonFiniteLossError) as raised:
        m.read()
    message = str(raised.value)
    assert "at step 8" in message
    assert "lp3, lp4." in message
    assert f"{name} {value:g}" in message
    assert ("a 1" in message) == (name == "b")
    assert "lp1" not in message
    assert "lp5" not in message


def test_it_keeps_no_graph_alive_by_itself():
    m = meter()
    weight = torch.ones((), requires_grad=True)
    m.add(1, [0], {"a": (weight * 2).detach()}, None)
    means, _ = m.read()
    assert means == {"a": 2.0}


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_resumed_between_two_rows_it_reads_what_an_unbroken_one_does(tmp_path, cut):
    torch.manual_seed(0)
    steps = [(step, [step], losses(a=torch.rand(()).item()), {"row": torch.rand(2, 3)}) for step in range(3)]
    unbroken, first, second = meter(), meter(), meter()
    for step in steps:
        unbroken.add(*step)
    for step in steps[:cut]:
        first.add(*step)
    torch.save(first.state_dict(), tmp_path / "meter.pt")
    second.load_state_dict(torch.load(tmp_path / "meter.pt", weights_only=True), torch.device("cpu"))
    for step in steps[cut:]:
        second.add(*step)
    assert not differences(second.read(), unbroken.read())


def test_what_is_not_finite_is_not_saved():
    m = meter()
    m.add(1, [3], losses(a=float("nan")), None)
    with pytest.raises(NonFiniteLossError, match="at step 1: a nan; on the instances lp3"):
        m.state_dict()
