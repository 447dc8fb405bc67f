"""Which instances a step of training has, and which of them each process computes at a time."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from dataset import batches

from jepa_ssl import processes


@dataclass(frozen=True)
class Deal:
    """Deals the instances of a step out like cards, so that each piece on each process gets one at least.

    Args:
        batch_size: instances of a step, over all processes and pieces.
        pieces: into how many a process splits its own, to compute one after the other.
        processes, rank: how many there are, and which of them is this one.

    Example:
        >>> deal = Deal(batch_size=5, pieces=1, processes=2, rank=1)
        >>> deal.steps([6, 1, 4, 0, 3, 5])  # the sixth alone could not be shared
        [[6, 1, 4, 0, 3, 5]]
        >>> deal.own([6, 1, 4, 0, 3])
        [[1, 0]]
    """

    batch_size: int
    pieces: int
    processes: int
    rank: int

    @staticmethod
    def of(args: Namespace) -> "Deal":
        """As the flags say.

        Raises:
            ValueError: a step has too few instances.
        """
        deal = Deal(args.batch_size, args.accumulate, processes.world_size(training=True), processes.rank())
        deal._check(f"--batch_size is {deal.batch_size}", deal.batch_size)
        return deal

    def _check(self, said: str, instances: int) -> None:
        if instances < self.hands:
            raise ValueError(
                f"{said}, but each step needs {self.hands} LPs: --accumulate is {self.pieces}, and processes there "
                f"are {self.processes}; have fewer of these, or more LPs."
            )

    @property
    def hands(self) -> int:
        return self.processes * self.pieces

    def steps(self, order: Sequence[int]) -> list[list[int]]:
        """The instances of each step of an epoch; a last step with fewer than hands joins the one before.

        Raises:
            ValueError: there are too few instances for a single step.
        """
        self._check(f"there are {len(order)} LPs to train on", len(order))
        steps = batches(order, self.batch_size)
        if len(steps[-1]) < self.hands:
            last = steps.pop()
            steps[-1] += last
        return steps

    def dealt(self, instances: Sequence[int]) -> list[list[list[int]]]:
        """The instances of each piece, and there of each process."""
        hands = [list(instances[hand :: self.hands]) for hand in range(self.hands)]
        return [hands[first : first + self.processes] for first in range(0, self.hands, self.processes)]

    def own(self, instances: Sequence[int]) -> list[list[int]]:
        """This process's part of each piece."""
        return [piece[self.rank] for piece in self.dealt(instances)]
