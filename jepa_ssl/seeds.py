"""Random numbers per instance: the same graph or vector gets the same numbers in any batch."""

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
    """Random numbers per instance, in place of a `torch.Generator`: they depend on the name of the instance.

    A generator draws for the whole batch, so the numbers of an instance depend on the batch. `Seeds` compute the
    numbers of each item from a hash of its instance's name, its place there (without padding), and the number of
    earlier draws. So a masker hides the same items of an instance in any batch, in any order, on any device, compiled
    or not. All maskers and fills of `jepa_ssl` take `Seeds`. The parts of `ComposeMaskers` and `MultiView` draw
    different numbers.

    Like a generator, `Seeds` advance with each draw. Make new ones for each batch, from the epoch and the instances'
    numbers in the data set; each epoch then hides other items. On a CPU a generator is faster for large vectors,
    because `Seeds` draw by sorting.

    Args:
        names: int64 `[instances]`, one for each vector or graph of the batch. Equal names give equal numbers.
        epoch: another epoch gives other numbers; at least 0.

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
        """Raise a ValueError unless these are names for this number of instances, on their device."""
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
        """Draw an int64 in [0, 2^62) for each item, from the number of its instance and its place there."""
        self._draws += 1
        return _opaque(_numbers)(self._keys, self._draws, instance, place)

    def batch_numbers(self, count: int) -> Tensor:
        """Draw `count` int64 in [0, 2^62) for the batch as a whole: `[count]`, on the device of the names.

        They depend on the set of names, the epoch and the number of earlier draws, but not on the order of the batch.
        """
        self._draws += 1
        return _opaque(_batch_numbers)(self._keys, self._draws, count)

    def shared(self, training: bool) -> "Seeds":
        """Return seeds for a draw that several processes share. They depend on the names in all processes' batches."""
        self._draws += 1
        shared = copy(self)
        shared._keys = all_reduce_sum(self._keys.sum().view(1), training)
        shared._draws += 2**32  # draw numbers that one process alone does not reach
        return shared


Randomness: TypeAlias = torch.Generator | Seeds | None
"""The source of random numbers: a generator, the names of the instances, or (None) torch's global generator."""


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Generator[None, None, None]:
    """Seed torch's global generators inside the context, and restore their states after it.

    These are the CPU's generator, and that of `device` if it has its own.
    """
    name = "cpu" if device is None or device.type == "meta" else device.type
    own = [] if name == "cpu" or device is None else [device]
    with torch.random.fork_rng(own, device_type="cuda" if name == "cpu" else name):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        for there in own:  # not by its manual_seed, which seeds the current device
            getattr(torch, name).set_rng_state(torch.Generator(there).manual_seed(seed).get_state(), there)
        yield


def own_initialization(name: str) -> AbstractContextManager[None]:
    """A context to initialise what JEPA adds to a model: the weights depend on `torch.initial_seed()` and `name`.

    A network that is built afterwards gets the same weights as without JEPA.
    """
    return seeded(mixed(torch.initial_seed(), name), torch.get_default_device())


def mixed(*parts: int | str) -> int:
    """Hash numbers and names to one number in [0, 2^62); each bit depends on all of them.

    >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
    (True, False)
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 2


def check_randomness(generator: Randomness, instances: int, device: torch.device) -> None:
    """Raise a ValueError unless `generator` can draw for this number of instances on `device`."""
    if isinstance(generator, Seeds):
        generator.check(instances, device)
    else:
        generator_fits(generator, device)


def random_keys(
    generator: Randomness, instance: Tensor, place: Callable[[], Tensor], shape: torch.Size | None = None
) -> Tensor:
    """Draw an int64 in [0, 2^62) for each item, in `shape`, by default that of `instance`.

    `instance` is the number of the instance that the item belongs to. `place` returns its place there; it is called
    only if it matters. The two broadcast to `shape`.
    """
    if isinstance(generator, Seeds):
        return generator.numbers(instance, place())
    shape = instance.shape if shape is None else shape
    if generator is None:  # generator=None does not compile for a changing number of items
        return torch.randint(2**62, shape, device=instance.device)
    return torch.randint(2**62, shape, generator=generator, device=instance.device)


def batch_normal(generator: Randomness, like: Tensor) -> Tensor:
    """Draw standard normal numbers for the batch as a whole, in shape, dtype and device of `like`.

    For draws once per batch, such as random directions. `Seeds` use `Seeds.batch_numbers`.
    """
    if not isinstance(generator, Seeds):
        return torch.empty_like(like).normal_(generator=generator)
    radius, angle = (generator.batch_numbers(like.numel()) for _ in range(2))
    return _box_muller(radius, angle).to(like).view_as(like)


def batch_uniform(generator: Randomness, like: Tensor) -> Tensor:
    """Like `batch_normal`, but uniform in [0, 1)."""
    if not isinstance(generator, Seeds):
        return torch.empty_like(like).uniform_(generator=generator)
    # A float32 has 24 bits; more bits could round up to 1.
    return ((generator.batch_numbers(like.numel()) >> 38).float() / 2**24).to(like).view_as(like)


def normal_like(values: Tensor, generator: Randomness, instance: Callable[[], Tensor]) -> Tensor:
    """Draw standard normal numbers like `values`, `[items, *]`; item i belongs to instance `instance()[i]`."""
    if not isinstance(generator, Seeds):
        return torch.empty_like(values).normal_(generator=generator)
    wide = values.reshape(len(values), values[:1].numel())
    owner = instance()
    place = places_in(owner).unsqueeze(1) * wide.size(1) + torch.arange(wide.size(1), device=values.device)
    owner = owner.unsqueeze(1).expand_as(place)
    radius, angle = (generator.numbers(owner, place) for _ in range(2))
    return _box_muller(radius, angle).to(values.dtype).view_as(values)


def _box_muller(radius: Tensor, angle: Tensor) -> Tensor:
    """Compute standard normal numbers, each from two int64 in [0, 2^62).

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


# An int64 product wraps around in torch. In the C++ code that inductor generates for a CPU its overflow is undefined,
# and a compiler once made it write beyond its arrays. So a compiled step calls these functions uncompiled.
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
    """Hide the function from a compiler. In eager mode return it unchanged, because that is faster."""
    return _OPAQUE[function] if torch.compiler.is_compiling() else function


def _mixed(number: Tensor) -> Tensor:
    """A bijection of int64 in which each bit depends on all bits."""
    return _mixed_(number.clone())


def _mixed_(number: Tensor) -> Tensor:
    """`_mixed`, in place; `number` is contiguous."""
    flat = number.view(-1)
    # On a CPU a block stays in the cache. Allocating memory would take longer than the operations.
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
    """Shift to the right as if unsigned, in place."""
    return number.bitwise_right_shift_(by).bitwise_and_(2 ** (64 - by) - 1)
