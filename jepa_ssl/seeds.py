"""Random numbers per instance: the same graph or vector gets the same numbers in any batch."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from jepa_ssl.checks import generator_fits, whole_number
from jepa_ssl.processes import all_reduce_sum
from jepa_ssl.segments import places_in
from jepa_ssl.splitmix import GOLDEN, mixed_bits, mixed_bits_, shifted_

FunctionT = TypeVar("FunctionT", bound=Callable[..., Tensor])


class Seeds:
    """Random numbers per instance, in place of a `torch.Generator`: they depend on the name of the instance.

    A generator draws for the whole batch, so the numbers of an instance depend on the batch. `Seeds` compute the
    numbers of each item from a hash of its instance's name, its place there (without padding), and the number of
    earlier draws. So a masker hides the same items of an instance in any batch, in any order, on any device, compiled
    or not. All maskers and fills of `jepa_ssl` take `Seeds`. The parts of `ComposeMaskers` and `MultiView` draw
    different numbers.

    Like a generator, `Seeds` advance with each draw. Make new ones for each batch, from the epoch and the instances'
    numbers in the data set; each epoch then hides other items. On a CPU a draw takes one to three times as long as with
    a generator.

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
        return shifted_(_opaque(_words)(self._keys, self._draws, instance, place), 2)

    def next_draw(self) -> tuple[Tensor, int]:
        """Return what the next draw depends on, for `of_draw`, and count it as drawn."""
        self._draws += 1
        return self._keys, self._draws

    @classmethod
    def of_draw(cls, keys: Tensor, draw: int) -> "Seeds":
        """Make seeds whose first draw is the one that `next_draw` returned."""
        seeds = cls.__new__(cls)
        seeds._keys, seeds._draws = keys, draw - 1
        return seeds

    def short_keys(self, words: int) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """Draw 16 random bits for each entry, four to a word; see the function `short_keys`."""
        keys, draw = self.next_draw()
        rows, place = (torch.arange(count, device=keys.device) for count in (len(keys), words))
        found = _opaque(_words)(keys, draw, rows.unsqueeze(1), place).view(torch.int16)
        # The complement of a place is negative, so no key was made of it.
        return found, lambda row, place: shifted_(_opaque(_words)(keys, draw, row, ~place), 18)

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


def short_keys(generator: Randomness, rows: int, entries: int) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Draw 16 random bits for each entry of some rows. Use the longer keys where two of them tie.

    A hash or a generator makes four of these keys in the time of one key of 62 bits.

    Returns:
        int16 `[rows, at least entries]`, and a function from the rows and places of items, int64 tensors that
        broadcast, to a random int64 in [0, 2^46) for each. A generator's keys are on the CPU.
    """
    words = 2 * -(-entries // 8)
    if isinstance(generator, Seeds):
        return generator.short_keys(words)
    random = torch.empty((rows, words), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return random.view(torch.int16), lambda row, place: torch.randint(2**46, row.shape, generator=generator)


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
    return mixed_bits(mixed_bits(names) + epoch)


def _words(keys: Tensor, draw: int, instance: Tensor, place: Tensor) -> Tensor:
    """Return 64 random bits for each item, as int64."""
    return mixed_bits_((mixed_bits(keys + draw)[instance] + GOLDEN * place).contiguous())


def _batch_numbers(keys: Tensor, draw: int, count: int) -> Tensor:
    place = torch.arange(count, device=keys.device)
    # The sum does not depend on the order of the batch.
    return shifted_(mixed_bits_(mixed_bits(mixed_bits(keys.sum()) + draw) + GOLDEN * place), 2)


# An int64 product wraps around in torch. In the C++ code that inductor generates for a CPU its overflow is undefined,
# and a compiler once made it write beyond its arrays. So a compiled step calls these functions uncompiled.
_OPAQUE: dict[Callable[..., Tensor], Any] = {
    function: torch.library.custom_op(f"jepa_ssl::{name}", function, mutates_args=())
    for name, function in (("keys_of", _keys_of), ("words", _words), ("batch_numbers", _batch_numbers))
}


@_OPAQUE[_keys_of].register_fake
def _keys_shaped(names: Tensor, epoch: int) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return torch.empty_like(names)


@_OPAQUE[_words].register_fake
def _words_shaped(keys: Tensor, draw: int, instance: Tensor, place: Tensor) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return torch.empty_like(instance + place)


@_OPAQUE[_batch_numbers].register_fake
def _batch_numbers_shaped(keys: Tensor, draw: int, count: int) -> Tensor:  # pyright: ignore[reportUnusedFunction]
    return keys.new_empty(count)


def _opaque(function: FunctionT) -> FunctionT:
    """Hide the function from a compiler. In eager mode return it unchanged, because that is faster."""
    return _OPAQUE[function] if torch.compiler.is_compiling() else function
