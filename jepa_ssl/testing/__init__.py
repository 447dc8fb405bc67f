"""Checks of your own masker, encoder, teacher and LPs, for your own tests.

Each raises an AssertionError that says what is wrong.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jepa_ssl.protocols import Teacher, ViewMaker
from jepa_ssl.testing.batches import Instance
from jepa_ssl.testing.encoder import EncoderCheck
from jepa_ssl.testing.lp import LPCheck
from jepa_ssl.testing.masker import Check
from jepa_ssl.testing.masker_counts import check_counts
from jepa_ssl.testing.teacher import TeacherCheck

__all__ = ["check_encoder", "check_lp", "check_masker", "check_teacher"]


def check_masker(
    masker: ViewMaker[Any],
    instances: Iterable[Instance],
    *,
    ratio: float | Mapping[str, float] | None = None,
) -> None:
    """Raise unless `masker` keeps its promises on every batch of `instances`, under twenty seeds.

    The promises:

    - The target is the whole instance. The context has its shapes, dtypes and edges, and differs from it only where
      something is hidden, never in padding. A visible node may lose columns if it loses a coefficient.
    - Each vector or graph hides something and shows something, if it has two entries, or two nodes of each kind.
    - `hidden` and `weight` fit the streams. Each node that `hidden` names lost its features or a coefficient. All
      graphs have the same weight.
    - The instance is not written to, and what never changes shares its memory.
    - The same generator gives the same views, other seeds give others, and the global random numbers do not change.

    Indicator columns, the last ones, are recognised.

    The check sees what is hidden by the difference between the views. So give instances that do not hold the masker's
    fill values, such as random normal numbers, and that are large enough for a choice. You may add empty batches,
    single entries and single nodes.

    Args:
        masker: makes views, or a tuple of several, of a batch.
        instances: batches `[batch, entries]`, `FlatVectors` or `Graph`.
        ratio: if given, exactly `int(ratio * items)` items of each instance must be hidden, at least one and never all.
            Items are the real entries of a vector, or the nodes of each stream of a graph. Or stream -> ratio, where a
            stream of edges counts coefficients.

    >>> import torch
    >>> from jepa_ssl import EntryMasker, Views
    >>> check_masker(EntryMasker(0.5), [torch.randn(3, 8)], ratio=0.5)
    >>> check_masker(lambda flat, generator=None: Views(flat.relu(), flat), [torch.randn(3, 30)])
    Traceback (most recent call last):
    AssertionError: instances[0]: seeds 0 to 19 all give the same views, ...

    Raises:
        AssertionError: a promise is broken; the message says which, and on which instance.
    """
    for number, instance in enumerate(instances):
        check = Check(masker, instance, f"instances[{number}]")
        check.run()
        if ratio is not None:
            check_counts(check, ratio)


def check_encoder(
    encoder: Any,
    instance: Any,
    *,
    views: ViewMaker[Any] | None = None,
    trunk: nn.Module | None = None,
    rewritten: Mapping[str, tuple[Any, Mapping[str, Tensor]]] | None = None,
    in_view: Collection[str] = (),
) -> None:
    """Raise unless an objective can train `encoder`; tried on a copy of it and one batch.

    It must return finite embeddings that are not all equal, stream -> `[items, dim]`, with one row per item. A copy of
    it must run its own weights, gradients must reach the trunk, and two passes in eval mode must agree.

    The embeddings of an instance must not depend on the rest of the batch, on the order of instances, nodes and edges,
    or on padding. This is checked for a tensor `[batch, entries]`, `FlatVectors` and a `Graph`. For other types of
    batches, give the same batch in another order as `rewritten`.

    Args:
        encoder: a module; or any callable, which is not copied and must be in eval mode.
        instance: a batch of at least two instances that are not all equal.
        views: the view maker that you will use. Each stream's embeddings at hidden items must change, otherwise the
            views hide nothing that the encoder reads. In PyG data, no other attribute of hidden nodes or edges may
            change the embeddings of hidden nodes.
        trunk: a gradient must reach every weight of this submodule; without it, some weight outside
            `encoder.projector`.
        rewritten: the same batch written differently: what differs -> (batch, new places of its items). The places are
            stream -> int64 `[items]`. Example: `{"the order": jepa_ssl.integrations.pyg.in_another_order(batch)}`.
        in_view: attributes of PyG data that the views leave visible on purpose, such as positions.

    >>> from jepa_ssl import EntryMasker, ModelEncoder
    >>> encoder = ModelEncoder(nn.Linear(6, 8), {"instance": 8}, dim=4)
    >>> check_encoder(encoder, torch.randn(3, 6), views=EntryMasker(0.5), trunk=encoder.model)
    >>> check_encoder(lambda flat: {"instance": (flat - flat.mean(0)).detach()}, torch.randn(3, 6))
    Traceback (most recent call last):
    AssertionError: the embeddings carry no gradient; is the encoder called under torch.no_grad()?
    stream 'instance': an instance has other embeddings alone than in a batch; ...

    Raises:
        AssertionError: the faults, a sentence each.
    """
    check = EncoderCheck(encoder, instance)
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        check.run(views, trunk, rewritten, {in_view} if isinstance(in_view, str) else in_view)
    if check.faults:
        raise AssertionError("\n".join(check.faults))


def check_teacher(teacher: Teacher, encoder: Any, instance: Any, *, target: Any = None) -> None:
    """Raise unless `teacher` keeps its promises; tried on copies of it and of `encoder`, and one batch.

    It must be a `Teacher`. Its targets must have the streams and shapes of the encoder's embeddings. Unless it
    `learns`, neither its targets nor its weights may require a gradient. If it is a module, two passes in training must
    agree, even with dropout and BatchNorm in the encoder. It must change only in `update`, where all parameters and
    buffers of its `target_model` move towards the encoder's. Its `state_dict` must determine what it returns.

    Args:
        teacher: the one to check, `EMATeacher(encoder)` for example.
        encoder: the online encoder; a callable that is not a module is not copied.
        instance: a batch, as the encoder takes it.
        target: the target view, if it differs from `instance`: a solver's state, for example.

    >>> from jepa_ssl import EMATeacher
    >>> class Encoder(nn.Sequential):
    ...     def forward(self, flat):
    ...         return {"instance": super().forward(flat)}
    >>> encoder = Encoder(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    >>> check_teacher(EMATeacher(encoder), encoder, torch.randn(3, 6))

    Raises:
        AssertionError: the faults, a sentence each.
    """
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        check = TeacherCheck(teacher, encoder, instance if target is None else target)
        check.run(instance)
    if check.faults:
        raise AssertionError("\n".join(check.faults))


def check_lp(
    lp_of: Callable[[Any], Any],
    batch: Any,
    reference: Iterable[Sequence[Any]] | None = None,
    *,
    objective: Callable[[list[Tensor]], Any] | None = None,
) -> None:
    """Raise unless `lp_of` makes your LPs from `batch`; `SolverState` computes the states of these LPs.

    Min-max scaled or standardised features make other LPs, and so do a maximised c and rows with >=.

    Args:
        lp_of: makes a `SparseLP` or a `DenseLP` from a batch.
        batch: a batch of your loop.
        reference: `(A, b, c)` of each LP, `min c'x  s.t.  Ax <= b` with free x, as tensors or arrays `[m, n]`, `[m]`
            and `[n]`, in the order of `lp_of`'s rows and columns. `equality` `[m]`, `lower` `[n]` and `upper` `[n]`
            follow where your LP has them; A may be sparse.
        objective: your own objective to minimise. It takes a list of points, `[n]` for each LP, and returns `[LPs]`. It
            does not check A and b. A constant term does not matter.

    >>> from functools import partial
    >>> from jepa_ssl.lp import DenseLP
    >>> batch, lp_of = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), partial(DenseLP.of_vectors, m=1, n=2)
    >>> check_lp(lp_of, batch, [([[1, 2]], [3], [4, 5])])
    >>> check_lp(lp_of, batch, objective=lambda points: -points[0] @ torch.tensor([[4.0], [5.0]]))
    Traceback (most recent call last):
    AssertionError: LP 0: c'x is the negative of your objective; an LP minimises, so negate c.

    Raises:
        TypeError: neither `reference` nor `objective` is given.
        AssertionError: the faults, a sentence each.
    """
    if reference is None and objective is None:
        raise TypeError("reference is None and objective is None; give one of them to compare lp_of's LPs with.")
    check = LPCheck(lp_of(batch))
    if not check.faults and reference is not None:
        check.compare(reference)
    if not check.faults and objective is not None:
        check.evaluate(objective)
    if check.faults:
        raise AssertionError("\n".join(check.faults))
