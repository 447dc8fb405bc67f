"""Random numbers per instance: the same graph or vector gets the same draw in any batch."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from jepa_ssl.checks import generator_fits, whole_number
from jepa_ssl.processes import all_reduce_sum
from jepa_ssl.segments import places_in

FunctionT = TypeVar("FunctionT", bound=Callable[..., Tensor])

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014: SplitMix64, as signed numbers.
_GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_BLOCK = 2**15  # numbers, 256 kB of them


class Seeds:
    """Randomness by instance, instead of a `torch.Generator`: what is drawn for an instance depends on its name.

    With a generator, the numbers go through the batch from its first instance to its last, and what an instance gets
    depends on the batch. With `Seeds` each item's numbers are hashed from the name of its instance, its place there
    (padding does not count), and the number of earlier draws. The same instance then loses the same items in any batch,
    in any order, on any device, compiled or not. All maskers and fills of `jepa_ssl` take it, and what is made of them:
    each part of `ComposeMaskers` and `MultiView` goes on with other numbers.

    Like a generator it advances: make a new one for each batch, from the instances' numbers in the data set and the
    epoch, so that each epoch hides other things. Draws are by sorting: on a CPU, for large vectors, a generator is
    faster.

    Args:
        names: int64 `[instances]`, one for each vector or graph of the batch; the same name is the same draw.
        epoch: another epoch, other numbers; at least 0.

    >>> from jepa_ssl import EntryMasker
    >>> flat, names = torch.ones(3, 8), torch.tensor([17, 4, 25])
    >>> views = EntryMasker(0.5)(flat, generator=Seeds(names, epoch=1))
    >>> alone = EntryMasker(0.5)(flat[:1], generator=Seeds(names[:1], epoch=1))
    >>> torch.equal(views.context[:1], alone.context)
    True

    Raises:
        ValueError: names is not int64 `[instances]`.
    """

    def __init__(self, names: Tensor, epoch: int = 0) -> None:
        if names.ndim != 1 or names.dtype != torch.int64:
            raise ValueError(
                f"names is {names.dtype} {list(names.shape)}, but must be int64 [instances]; give each instance its "
                f"number in the data set."
            )
        self._keys = _opaque(_keys_of)(names, whole_number("epoch", epoch, least=0))
        self._draws = 0

    def check(self, instances: int, device: torch.device) -> None:
        """Raises ValueError unless these are names for so many instances, on their device."""
        if len(self._keys) != instances:
            raise ValueError(
                f"generator is Seeds of {len(self._keys)} names, but there are {instances} instances; name each."
            )
        if self._keys.device != device:
            raise ValueError(
                f"generator is Seeds on {self._keys.device}, but the instance is on {device}; "
                f"move the names with .to({str(device)!r})."
            )

    def numbers(self, instance: Tensor, place: Tensor) -> Tensor:
        """A random int64 in [0, 2^62) for each item, from the number of its instance and its place there."""
        self._draws += 1
        return _opaque(_numbers)(self._keys, self._draws, instance, place)

    def batch_numbers(self, count: int) -> Tensor:
        """`count` random int64 in [0, 2^62) that belong to the batch as a whole: `[count]`, on the device of the names.

        They depend on the set of names, on the epoch, and on how many draws came before; not on the order of the batch.
        """
        self._draws += 1
        return _opaque(_batch_numbers)(self._keys, self._draws, count)

    def shared(self, training: bool) -> "Seeds":
        """Seeds for a draw that several processes share; they depend on the names of all processes' batches."""
        self._draws += 1
        shared = copy(self)
        shared._keys = all_reduce_sum(self._keys.sum().view(1), training)
        shared._draws += 2**32  # numbers that the draws of one process do not reach
        return shared


Randomness: TypeAlias = torch.Generator | Seeds | None
"""What decides a draw: a generator, the names of the instances, or (None) torch's global random numbers."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Generator[None, None, None]:
    """Start torch's global random numbers from `seed` inside the context, and restore them after it.

    Those of the CPU, and of `device` if it has its own.
    """
    name = "cpu" if device is None or device.type == "meta" else device.type
    own = [] if name == "cpu" or device is None else [device]
    with torch.random.fork_rng(own, device_type="cuda" if name == "cpu" else name):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        for there in own:  # not by its manual_seed, which seeds the current device
            getattr(torch, name).set_rng_state(torch.Generator(there).manual_seed(seed).get_state(), there)
        yield


def own_initialization(name: str) -> AbstractContextManager[None]:
    """A context for what JEPA adds to a model: its initial weights follow from `torch.initial_seed()` and from `name`.

    So a network that is built afterwards gets the weights that it would get without JEPA.
    """
    return seeded(mixed(torch.initial_seed(), name), torch.get_default_device())


def mixed(*parts: int | str) -> int:
    """Hash numbers and names to one number in [0, 2^62); each of its bits depends on all of theirs.

    >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
    (True, False)
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 2


def check_randomness(generator: Randomness, instances: int, device: torch.device) -> None:
    """Raises unless `generator` can draw for so many instances on `device`."""
    if isinstance(generator, Seeds):
        generator.check(instances, device)
    else:
        generator_fits(generator, device)


def random_keys(
    generator: Randomness, instance: Tensor, place: Callable[[], Tensor], shape: torch.Size | None = None
) -> Tensor:
    """A random int64 in [0, 2^62) for each item, in `shape`, by default that of `instance`.

    `instance` is the number of the instance that the item belongs to; `place`, its place there, is asked for if it
    matters. The two broadcast to `shape`.
    """
    if isinstance(generator, Seeds):
        return generator.numbers(instance, place())
    shape = instance.shape if shape is None else shape
    if generator is None:  # named as an argument, it could not be compiled for a changing number of items
        return torch.randint(2**62, shape, device=instance.device)
    return torch.randint(2**62, shape, generator=generator, device=instance.device)


def batch_normal(generator: Randomness, like: Tensor) -> Tensor:
    """Standard normal numbers of the batch, not of an instance: shape, dtype and device of `like`.

    For what is drawn once for a batch, such as random directions. `Seeds` draw what `Seeds.batch_numbers` gives.
    """
    if not isinstance(generator, Seeds):
        return torch.empty_like(like).normal_(generator=generator)
    radius, angle = (generator.batch_numbers(like.numel()) for _ in range(2))
    return _box_muller(radius, angle).to(like).view_as(like)


def batch_uniform(generator: Randomness, like: Tensor) -> Tensor:
    """As `batch_normal`, but uniform in [0, 1)."""
    if not isinstance(generator, Seeds):
        return torch.empty_like(like).uniform_(generator=generator)
    # The 24 bits of a float32: more of them could round up to 1.
    return ((generator.batch_numbers(like.numel()) >> 38).float() / 2**24).to(like).view_as(like)


def normal_like(values: Tensor, generator: Randomness, instance: Callable[[], Tensor]) -> Tensor:
    """Standard normal numbers in the shape of `values`, `[items, *]`; item i belongs to instance `instance()[i]`."""
    if not isinstance(generator, Seeds):
        return torch.empty_like(values).normal_(generator=generator)
    wide = values.reshape(len(values), values[:1].numel())
    owner = instance()
    place = places_in(owner).unsqueeze(1) * wide.size(1) + torch.arange(wide.size(1), device=values.device)
    owner = owner.unsqueeze(1).expand_as(place)
    radius, angle = (generator.numbers(owner, place) for _ in range(2))
    return _box_muller(radius, angle).to(values.dtype).view_as(values)


def _box_muller(radius: Tensor, angle: Tensor) -> Tensor:
    """Standard normal numbers from two int64 each in [0, 2^62).

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    radius, angle = ((number + 1).double() / 2**62 for number in (radius, angle))
    return (-2 * radius.log()).sqrt() * (2 * torch.pi * angle).cos()


def _keys_of(names: Tensor, epoch: int) -> Tensor:
    return _mixed(_mixed(names) + epoch)


def _numbers(keys: Tensor, draw: int, instance: Tensor, place: Tensor) -> Tensor:
    return _shifted_(_mixed_((_mixed(keys + draw)[instance] + _GOLDEN * place).contiguous()), 2)


def _batch_numbers(keys: Tensor, draw: int, count: int) -> Tensor:
    place = torch.arange(count, device=keys.device)
    # The sum does not depend on the order of the batch.
    return _shifted_(_mixed_(_mixed(_mixed(keys.sum()) + draw) + _GOLDEN * place), 2)


# A product of int64 wraps around in torch. In the C++ that inductor writes for a CPU it is undefined if it overflows,
# and the compiler made code of it that wrote beyond its arrays: so a compiled step calls these as they are.
_OPAQUE: dict[Callable[..., Tensor], Any] = {
    function: torch.library.custom_op(f"jepa_ssl::{name}", function, mutates_args=())
    for name, function in (("keys_of", _keys_of), ("numbers", _numbers), ("batch_numbers", _batch_numbers))
}


@_OPAQUE[_keys_of].register_fake
def _keys_shaped(names: Tensor, epoch: int) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return torch.empty_like(names)


@_OPAQUE[_numbers].register_fake
def _numbers_shaped(keys: Tensor, draw: int, instance: Tensor, place: Tensor) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return torch.empty_like(instance + place)


@_OPAQUE[_batch_numbers].register_fake
def _batch_numbers_shaped(keys: Tensor, draw: int, count: int) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return keys.new_empty(count)


def _opaque(function: FunctionT) -> FunctionT:
    """The function, hidden from a compiler; in eager mode unchanged, because that is faster."""
    return _OPAQUE[function] if torch.compiler.is_compiling() else function


def _mixed(number: Tensor) -> Tensor:
    """A bijection of int64 in which each bit depends on all."""
    return _mixed_(number.clone())


def _mixed_(number: Tensor) -> Tensor:
    """`_mixed`, in place; `number` is contiguous."""
    flat = number.view(-1)
    # On a CPU a block stays in the cache, and fresh memory would cost more than the work.
    size = min(len(flat), _BLOCK) if flat.is_cpu else len(flat)
    scratch = flat.new_empty(size)
    blocks = flat.split(max(size, 1))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    for block in cast(tuple[Tensor, ...], blocks):
        shifted = scratch[: len(block)]
        for by, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
            torch.bitwise_right_shift(block, by, out=shifted)
            block.bitwise_xor_(shifted.bitwise_and_(2 ** (64 - by) - 1))
            if factor != 1:
                block.mul_(factor)
    return number


def _shifted_(number: Tensor, by: int) -> Tensor:
    """Shifted to the right, as if without a sign, in place."""
    return number.bitwise_right_shift_(by).bitwise_and_(2 ** (64 - by) - 1)
