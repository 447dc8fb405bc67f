"""Networks that do not learn, and stay asleep whatever the model around them does."""

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def freeze(module: ModuleT) -> ModuleT:
    """`module`, no longer trained: its parameters take no gradient, and it stays in eval mode.

    `parent.train()` cannot wake its dropout, nor move its BatchNorm's statistics: from here on the `train` of the
    module, and of each module inside it, keeps eval mode. This holds in every model that shares one of them, in deep
    copies, and where the module is compiled or wrapped, before or after; `state_dict` is as it was. A module put into
    it later is not frozen. Gradients taken before are dropped, for an optimizer would go on with them.

    >>> model = nn.Sequential(freeze(nn.Dropout()), nn.Linear(2, 1)).train()
    >>> [part.training for part in model]
    [False, True]
    """
    for part in module.modules():
        # An attribute of the instance, which the parent's `train()` finds before that of the class. Not by setattr,
        # which a compiled module of an older torch passes on to the one that it wraps.
        part.__dict__["train"] = asleep = _Asleep(part)
        asleep()
    for parameter in module.requires_grad_(False).parameters():
        parameter.grad = None
    return module


def unfreeze(module: ModuleT) -> ModuleT:
    """`module`, trained again: all its parameters take gradients, and `train()` wakes it; until then it sleeps on."""
    for part in module.modules():
        part.__dict__.pop("train", None)
    return module.requires_grad_(True)


class _Asleep:
    """The `train` of a frozen module. No function and no closure, so that a deep copy has one of its own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        self.module.training = False  # set each time: a compiled module's `train` sets it to True, and then comes here
        return self.module
