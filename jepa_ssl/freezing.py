"""Freeze a module: no gradients, permanent eval mode."""

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def freeze(module: ModuleT, *, for_good: bool = False) -> ModuleT:
    """Freeze `module` and return it: its parameters take no gradient, and it stays in eval mode.

    `parent.train()` does not turn on its dropout or change its BatchNorm statistics, because `train` of each frozen
    module keeps eval mode. This holds in every model that shares the module, in deep copies, and if it is compiled or
    wrapped, before or after. The `state_dict` does not change. A module that is put into it later is not frozen.
    Existing gradients are dropped, because an optimizer would still use them.

    Args:
        for_good: whether `unfreeze` of a model around the module leaves it frozen, as a teacher's copy must be.

    >>> model = nn.Sequential(freeze(nn.Dropout()), nn.Linear(2, 1)).train()
    >>> [part.training for part in model]
    [False, True]
    """
    for part in module.modules():
        # An attribute of the instance, which the parent's `train()` finds before that of the class. Not by setattr,
        # which a compiled module of an older torch passes on to the one that it wraps.
        part.__dict__["train"] = stay = _StaysInEval(part, for_good)
        stay()
    for parameter in module.requires_grad_(False).parameters():
        parameter.grad = None
    return module


def unfreeze(module: ModuleT) -> ModuleT:
    """Unfreeze `module` and return it: all its parameters take gradients, and `train()` works again.

    What was frozen for good inside it, the copy of a teacher for example, stays frozen.
    """
    stays = {part: part.__dict__.get("train") for part in module.modules()}
    for_good = {part for part, stay in stays.items() if isinstance(stay, _StaysInEval) and stay.for_good}
    kept = {parameter for part in for_good for parameter in part.parameters()}
    for part in stays.keys() - for_good:
        part.__dict__.pop("train", None)
    for parameter in set(module.parameters()) - kept:
        parameter.requires_grad_(True)
    return module


class _StaysInEval:
    """The `train` of a frozen module; an object, so that a deep copy has its own."""

    def __init__(self, module: nn.Module, for_good: bool) -> None:
        self.module, self.for_good = module, for_good

    def __call__(self, mode: bool = True) -> nn.Module:
        self.module.training = False  # set each time: a compiled module's `train` sets it to True, and then comes here
        return self.module
