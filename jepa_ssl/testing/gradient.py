"""Check that gradients of an encoder's embeddings reach the trunk, and nothing outside the encoder."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.names import submodules, unwrapped
from jepa_ssl.protocols import Embeddings
from jepa_ssl.teachers.copies import leaves_of, without_graph


def fault_in_gradient(
    encoder: nn.Module, trunk: nn.Module | None, embed: Callable[[nn.Module], Embeddings]
) -> str | None:
    """Return the fault as a sentence, or None. `embed` runs an encoder on the batch."""
    awake = copy.deepcopy(encoder, without_graph(encoder)).train()
    wanted = _wanted(encoder, awake, trunk)
    if not wanted:
        return _nothing_wanted(trunk, wanted is not None)
    if trunk is not None and not wanted.keys() & {name for name, _ in of_trunk(awake)}:
        return "the trunk is the encoder's projector, which JEPA adds; name the submodule of your model before it."
    loss = _loss(embed(awake))
    own = set(map(id, awake.parameters()))
    if any(id(leaf) not in own for leaf in leaves_of([loss] if loss.requires_grad else [])):
        return (
            "the embeddings depend on weights that are not the encoder's: it calls a model captured in a closure, so a "
            "copy would share its weights; store the model as an attribute."
        )
    reached = _reached(loss, wanted)
    if not any(bool(gradient.any()) for gradient in reached.values()):
        others = {name: p for name, p in of_trunk(awake) if p.requires_grad and name not in wanted}
        if others and _reached(loss, others):
            return (
                f"no gradient reaches {sorted(wanted)} of the trunk, but other weights of the encoder have one: the "
                f"embeddings are computed before this {type(trunk).__name__}, which may be a head; name the submodule "
                f"that makes the features."
            )
        return "no gradient reaches the trunk: it is called under torch.no_grad(), or its output is detached."
    unreached = sorted(wanted.keys() - reached.keys())
    if trunk is not None and unreached:
        return f"no gradient reaches {unreached} of the trunk; take its features after these, or name a smaller trunk."
    return None


def _nothing_wanted(trunk: nn.Module | None, is_inside: bool) -> str:
    if not is_inside:
        return (
            "the trunk is not a submodule of the encoder, so no teacher copies it, and encoder.parameters() lacks it; "
            "keep it as an attribute."
        )
    if trunk is not None:
        return (
            f"the trunk is a {type(trunk).__name__} without weights that learn, so no gradient can reach it; name the "
            f"submodule that makes the features and has weights, or unfreeze it."
        )
    return (
        "only the encoder's projector has weights that learn; keep the trunk as an attribute of the encoder, and "
        "unfreeze it."
    )


def of_trunk(encoder: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All weights except those of a submodule called projector."""
    projector = dict(unwrapped(encoder).named_children()).get("projector")
    left_out = set(map(id, projector.parameters())) if projector is not None else set[int]()
    for name, parameter in encoder.named_parameters():
        if id(parameter) not in left_out:
            yield name, parameter


def _wanted(encoder: nn.Module, awake: nn.Module, trunk: nn.Module | None) -> dict[str, nn.Parameter] | None:
    """The weights of the copy that a gradient should reach; None if the trunk is not in the encoder."""
    if trunk is None:
        return {name: parameter for name, parameter in of_trunk(awake) if parameter.requires_grad}
    paths = [name for name, module in submodules(encoder) if module is trunk]
    if not paths:
        return None
    in_trunk = set(map(id, awake.get_submodule(paths[0]).parameters()))
    return {name: p for name, p in awake.named_parameters() if id(p) in in_trunk and p.requires_grad}


def _loss(embeddings: Embeddings) -> Tensor:
    # Unequal weights, because the sum of normalised numbers may be constant.
    return torch.stack(
        [(z * torch.linspace(-1, 2, z.numel(), device=z.device).view_as(z)).sum() for z in embeddings.values()]
    ).sum()


def _reached(loss: Tensor, wanted: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    if not loss.requires_grad:
        return {}
    found: Any = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(wanted, found, strict=True) if gradient is not None}
