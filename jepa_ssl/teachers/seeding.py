"""Random weights by a seed, with the global random numbers left alone."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from numbers import Integral

import torch
from torch import nn


@contextmanager
def seeded(seed: int, cuda: Iterable[int] = ()) -> Generator[None, None, None]:
    """Within, the global generators of the CPU and of the CUDA devices given start from `seed`; then as before."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"the seed is {seed!r}, but must be a whole number from 0 to 2**63 - 1; give an int.")
    seed, indices = int(seed), list(cuda)
    with torch.random.fork_rng(devices=indices):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        for index in indices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@torch.no_grad()
def reset_parameters(module: nn.Module, seed: int) -> None:
    """Calls each submodule's own `reset_parameters`.

    Raises:
        ValueError: a submodule has parameters and cannot reset them; nothing was changed.
    """
    modules: dict[str, nn.Module] = dict(module.named_modules())  # pyright: ignore[reportUnknownArgumentType]
    resets = {path: _reset_of(part) for path, part in modules.items()}
    stuck = [
        f"{path or 'itself'} ({type(part).__name__})"
        for path, part in modules.items()
        if resets[path] is None and list(part.parameters(recurse=False))
    ]
    if stuck:
        raise ValueError(
            f"reinitialize is {seed}, but of the encoder's submodules {stuck} have parameters and no "
            f"reset_parameters; give them a method of that name that draws their parameters anew."
        )
    with seeded(seed, {p.get_device() for p in module.parameters() if p.is_cuda}):
        for reset in resets.values():
            if reset is not None:
                reset()


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    # nn.MultiheadAttention has it under the other name.
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
