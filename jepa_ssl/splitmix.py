"""SplitMix64: map 64 bits to 64 bits, one to one, so that each bit depends on all bits.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; here with signed numbers.
"""

from typing import Any, cast

from torch import Tensor

GOLDEN = -7046029254386353131
_ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))
_BLOCK = 2**15  # numbers, 256 kB of them


def mixed_bits(number: Tensor) -> Tensor:
    """Return the image of each int64."""
    return mixed_bits_(number.clone())


def mixed_bits_(number: Tensor) -> Tensor:
    """Compute `mixed_bits` in place; `number` is contiguous."""
    if number.is_cpu:
        _mix_array(cast(Any, number.view(-1).numpy()).view("uint64"))
    else:
        mix_tensor(number)
    return number


def mix_tensor(number: Tensor) -> None:
    """Compute `mixed_bits_` with torch alone, for any device."""
    for by, factor in _ROUNDS:
        number.bitwise_xor_(shifted_(number.clone(), by)).mul_(factor)


def _mix_array(numbers: Any) -> None:
    """Do the same as `mix_tensor` in half the time on a CPU: NumPy can shift unsigned numbers."""
    for start in range(0, len(numbers), _BLOCK):  # a block stays in the cache
        block = numbers[start : start + _BLOCK]
        for by, factor in _ROUNDS:
            block ^= block >> by
            if factor != 1:
                block *= factor % 2**64


def shifted_(number: Tensor, by: int) -> Tensor:
    """Shift to the right in place, as if unsigned."""
    return number.bitwise_right_shift_(by).bitwise_and_(2 ** (64 - by) - 1)
