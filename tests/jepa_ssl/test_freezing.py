"""A frozen network: no gradient, no dropout, no moving statistics, whatever the model around it does."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_ssl.freezing import freeze, unfreeze
from jepa_ssl.teachers import EMATeacher, TargetNetwork


class Sleepy(nn.Module):
    """Dropout and BatchNorm deep inside, and a dropout that asks the root itself whether it is training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.5)))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.body(x), 0.5, self.training)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # pyright: ignore[reportReturnType]


def is_asleep(module: nn.Module) -> bool:
    """By what it does, not by its flags."""
    x = torch.randn(8, 4)
    before = copy.deepcopy(module.state_dict())
    same = torch.equal(module(x), module(x))
    unmoved = all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    return same and unmoved


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "parent": nn.Sequential,
    "nested parents": lambda module: nn.ModuleDict({"a": nn.ModuleList([module])}),
    "compiled": compiled,
    "parent of a compiled one": lambda module: nn.Sequential(compiled(module)),
    "compiled parent": lambda module: compiled(nn.Sequential(module)),
    "another model that shares a part of it": lambda module: nn.Sequential(module.get_submodule("body")),
    "every module by itself": lambda module: module,
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_wakes_it(way):
    module = freeze(Sleepy())
    around = WAYS[way](module)
    for part in around.modules():
        assert part.train() is part
    assert is_asleep(module)
    assert not any(part.training for part in module.modules())


def test_the_test_sees_one_that_is_awake():
    assert not is_asleep(Sleepy().train())
    assert is_asleep(Sleepy().eval())


def test_a_compiled_module_is_frozen_as_such():
    module = Sleepy()
    around = compiled(module)
    assert freeze(around) is around
    nn.Sequential(around).train()
    assert around.train() is around
    assert is_asleep(around)
    torch.testing.assert_close(around(torch.ones(3, 4)), module.body(torch.ones(3, 4)))


def test_it_takes_no_gradient_and_the_optimizer_leaves_it_alone():
    """Not even with a gradient of the time before: it would be applied, with momentum, again and again."""
    trunk, head = Sleepy(), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*trunk.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=0.1)
    head(trunk(torch.randn(8, 4))).sum().backward()
    freeze(trunk)
    before, head_before = copy.deepcopy(trunk.state_dict()), head.weight.clone()
    for _ in range(2):
        head(trunk(torch.randn(8, 4))).sum().backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert not torch.equal(head.weight, head_before)


def test_a_gradient_passes_through_it():
    x = torch.randn(8, 4, requires_grad=True)
    freeze(Sleepy())(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_is_frozen_by_itself(copied):
    module = freeze(Sleepy())
    twin = copied(nn.Sequential(module))[0]
    unfreeze(twin).train()
    assert not is_asleep(twin)
    assert is_asleep(module.train())
    again = copied(module)
    assert again.train() is again
    del module
    assert is_asleep(again)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_its_state_is_saved_and_loaded_as_ever():
    module, awake = freeze(Sleepy()), Sleepy()
    assert module.state_dict().keys() == awake.state_dict().keys()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    awake.load_state_dict(torch.load(file, weights_only=True))
    module.load_state_dict(awake.state_dict())
    assert is_asleep(module.train())


def test_freezing_twice_is_freezing_once():
    module = freeze(freeze(Sleepy()))
    unfreeze(module).train()
    assert not is_asleep(module)


def test_unfrozen_it_sleeps_until_it_is_woken():
    module = unfreeze(freeze(Sleepy()))
    assert is_asleep(module)
    assert all(parameter.requires_grad for parameter in module.parameters())
    nn.Sequential(module).train()
    assert not is_asleep(module)
    assert unfreeze(nn.Linear(1, 1)).training  # of one that was never frozen nothing changes


def test_a_module_with_a_train_of_its_own_is_frozen_too():
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> "Stubborn":
            self.training = True
            return self

    module = freeze(Stubborn(1, 1))
    nn.Sequential(module).train()
    assert not module.training


def test_frozen_it_compiles_to_one_graph():
    module = freeze(Sleepy())
    model = nn.Sequential(module, nn.Linear(4, 1)).train()
    x = torch.randn(8, 4)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize("build", [EMATeacher, lambda net: TargetNetwork({"a": (2, 4)})])
def test_unfreezing_a_model_leaves_the_copy_of_a_teacher_in_it_frozen(build: Callable[[nn.Module], nn.Module]):
    net = freeze(Sleepy())
    step = nn.ModuleList([net, build(net)])
    for model in (step, copy.deepcopy(step)):
        unfreeze(model).train()
        assert all(p.requires_grad for p in model[0].parameters())
        assert all(part.training for part in model[0].modules())
        frozen = dict(model[1].named_children())
        assert not any(p.requires_grad for p in model[1].parameters())
        assert not any(part.training for child in frozen.values() for part in child.modules())
