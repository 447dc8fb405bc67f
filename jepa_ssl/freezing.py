"""Freeze a module: no gradients, permanent eval mode."""

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def freeze(module: ModuleT, *, for_good: bool = False) -> ModuleT:
    """Freeze `module` and return it: its parameters take no gradient, and it stays in eval mode.

    `parent.train()` does not turn on its dropout or change its BatchNorm statistics. This also holds in every model
    that shares the module, in deep copies, and if the module is compiled or wrapped, before or after. The `state_dict`
    does not change. A submodule that is added later is not frozen. Existing gradients are dropped, because an optimizer
    would still apply them.

    Args:
        for_good: keep the module frozen if `unfreeze` is called on a model that contains it. A teacher's copy needs
            this.

    >>> model = nn.Sequential(freeze(nn.Dropout()), nn.Linear(2, 1)).train()
    >>> [part.training for part in model]
    [False, True]
    """
    for part in module.modules():
        # The parent's `train()` finds an attribute of the instance before the method of the class. Not set by setattr:
        # in older torch a compiled module passes that on to the module that it wraps.
        part.__dict__["train"] = stay = _StaysInEval(part, for_good)
        stay()
    for parameter in module.requires_grad_(False).parameters():
        parameter.grad = None
    return module


def unfreeze(module: ModuleT) -> ModuleT:
    """Unfreeze `module` and return it: all its parameters take gradients, and `train()` works again.

    Submodules that were frozen with `for_good=True`, such as a teacher's copy, stay frozen.
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
    """The `train` method of a frozen module. It is an object so that each deep copy gets its own."""

    def __init__(self, module: nn.Module, for_good: bool) -> None:
        self.module, self.for_good = module, for_good

    def __call__(self, mode: bool = True) -> nn.Module:
        self.module.training = False  # set each time: a compiled module's `train` sets it to True before this call
        return self.module
