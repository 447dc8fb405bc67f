"""Every public function and class, with one or two of its arguments exchanged for odd ones."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from torch import Tensor

import jepa_ssl
from jepa_ssl import diagnostics, freezing, joint, losses, lp, maskers, protocols
from jepa_ssl.contrib import symmetries
from jepa_ssl.integrations import pyg  # noqa: F401 - so that it is there to be fuzzed
from jepa_ssl.lp.layout import flatten, unflatten, valid_entries

from ..judging import Input
from .pool import OTHERS, Draw, chance, made_by, odd, one, refusal, seeded, unwritten

DIMS = {"constraint": 4, "variable": 4}
Entry = tuple[Callable[..., Any], dict[str, Any]]


class Fresh:
    """An argument that is made anew for each input."""

    def __init__(self, make: Callable[[torch.Generator], Any]) -> None:
        self.make = make


def graph(g: torch.Generator) -> jepa_ssl.BipartiteGraph:
    """Two graphs, of 3 + 4 and of 2 + 2 nodes."""
    edges = torch.tensor([[0, 0, 1, 2, 2, 3, 4], [0, 1, 2, 3, 0, 4, 5]])
    c, e, v = (torch.randn(n, k, generator=g) for n, k in ((5, 3), (7, 1), (6, 2)))
    return jepa_ssl.BipartiteGraph(c, edges, e, v, torch.tensor([0, 3, 5]), torch.tensor([0, 4, 6]))


def padded(g: torch.Generator) -> jepa_ssl.FlatVectors:
    """Three LPs of two rows and three columns, two of them mostly padding."""
    return jepa_ssl.FlatVectors(torch.randn(3, 11, generator=g), torch.arange(11) < torch.tensor([[11], [5], [1]]))


def sparse_lp(g: torch.Generator) -> lp.SparseLP:
    return replace(lp.SparseLP.inequalities_of(graph(g)), equality=torch.arange(5) == 1, lower=torch.zeros(6))


def dense_lp(g: torch.Generator) -> lp.DenseLP:
    A, b, c = (torch.randn(3, *shape, generator=g) for shape in ((2, 3), (2,), (3,)))
    mask_m = torch.tensor([[True, True], [True, False], [True, True]])
    mask_n = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    return lp.DenseLP(A, b, c, mask_m, mask_n, torch.zeros(3, 2) > 0, torch.zeros(3, 3), torch.full((3, 3), torch.inf))


def cloud(g: torch.Generator) -> dict[str, Tensor]:
    return {"constraint": torch.randn(5, 4, generator=g), "variable": torch.randn(6, 4, generator=g)}


def loss(g: torch.Generator) -> protocols.JEPALoss:
    encoded = jepa_ssl.Encoded(cloud(g), cloud(g), {"constraint": torch.arange(5) < 4})
    return protocols.JEPALoss(torch.tensor(0.5), {"total": torch.tensor(0.5)}, cloud(g), cloud(g), encoded)


def views_of(g: torch.Generator) -> jepa_ssl.Views[Any, Any]:
    return jepa_ssl.NodeMasker(0.5)(graph(g), generator=g)


class Encoder(torch.nn.Module):
    """An encoder of the graphs above."""

    def __init__(self) -> None:
        super().__init__()
        self.constraint, self.variable = torch.nn.Linear(3, 4), torch.nn.Linear(2, 4)

    def forward(self, seen: Any) -> dict[str, Tensor]:
        rows, columns = seen.constraint_features, seen.variable_features
        return {"constraint": self.constraint(rows), "variable": self.variable(columns)}


def made(kind: Any, **fixed: Any) -> Callable[..., Any]:
    """Build `kind` from the arguments that its signature names, and call what was built with the others."""
    known = inspect.signature(kind).parameters

    def call(**given: Any) -> Any:
        own = {name: value for name, value in given.items() if name in known}
        built = kind(**own, **fixed)
        call_it = built.apply if isinstance(built, symmetries.Symmetry) else built
        return call_it(**{name: value for name, value in given.items() if name not in known})

    return call


def objective(
    encoder: Any, instance: Any, generator: Any, teacher: Any, views: Any, predictor: Any, **given: Any
) -> Any:
    jepa = jepa_ssl.JEPAObjective(views, predictor, teacher, **given)
    jepa(encoder, instance, generator=generator).total.backward()
    jepa.update(encoder)


def states(instance: Any, start: Any, **given: Any) -> Any:
    return lp.SolverState(**given).states(instance, start=start)


def watched(losses: Any, norms: Any, **given: Any) -> None:
    monitor = jepa_ssl.CollapseMonitor(**given)
    for _ in range(3):
        monitor.observe(losses)
        monitor.observe_gradients(norms)
        monitor.step()


def balanced(task: Any, jepa: Any, **given: Any) -> Any:
    shared = [torch.ones(3, requires_grad=True)]
    return jepa_ssl.GradientBalance(shared, **given)(task * shared[0].sum(), jepa * shared[0].sum())


def ema(encoder: Any, target: Any, moved: Any, **given: Any) -> Any:
    teacher = jepa_ssl.EMATeacher(encoder, **given)
    teacher.update(moved)
    return teacher(encoder, target)


def composed(kind: Any) -> Callable[..., Any]:
    return lambda makers, instance, generator: kind(*makers)(instance, generator=generator)


def filled(fill: Any, masker: Any, **options: Any) -> Callable[..., Any]:
    """Build a fill from the arguments, and mask with it."""
    return lambda instance, generator, **given: masker(0.5, fill(**given), **options)(instance, generator=generator)


def _of_two(measure: Any, a: Any, b: Any, valid: Any) -> Any:
    return measure(a, b, valid)


def _entries() -> dict[str, Entry]:
    """Name -> what is called, and arguments that it takes."""
    entries: dict[str, Entry] = {}

    def add(name: str, call: Callable[..., Any], *more: dict[str, Any], **given: Any) -> None:
        for part in more:
            given |= part
        entries[name] = (call, given)

    G = Fresh(lambda g: g)
    g_graph, on_graph = Fresh(graph), {"instance": Fresh(graph), "generator": G}
    on_flat = {"instance": Fresh(lambda g: torch.randn(3, 11, generator=g)), "generator": G}
    on_padded = {"instance": Fresh(padded), "generator": G}
    nodes = {"ratio": {"constraint": 0.5, "variable": 0.4}, "indicator": False, "hide_edges": True}
    nodes |= {"derived": {"constraint": [1]}}
    clouds, dense, sparse = Fresh(cloud), Fresh(dense_lp), Fresh(sparse_lp)
    steps = {"steps": (2, 5), "restart_every": 2}
    rows, marks = Fresh(lambda g: cloud(g)["constraint"]), Fresh(lambda g: torch.arange(5) < 4)
    valid = Fresh(lambda g: {"constraint": torch.arange(5) < 4})

    add("FlatVectors", lambda values: values.check_values(), values=Fresh(padded))
    add("BipartiteGraph", lambda seen: seen.check_values(), seen=g_graph)
    single = {"constraint_features": torch.ones(2, 1), "edge_index": torch.tensor([[0, 1], [1, 2]])}
    single |= {"edge_attr": torch.ones(2, 1), "variable_features": torch.ones(3, 1)}
    add("BipartiteGraph.single", lambda **a: jepa_ssl.BipartiteGraph.single(**a).check_values(), single)

    add("EntryMasker", made(jepa_ssl.EntryMasker), on_flat, ratio=0.5, indicator=False)
    add("EntryMasker, padded", made(jepa_ssl.EntryMasker), on_padded, ratio=0.7, indicator=True)
    add("GroupMasker", made(maskers.GroupMasker), on_padded, ratio=0.5, groups=[[0, 1], [2], [3, 10]])
    structure = {"m": 2, "n": 3, "constraints": 0.5, "variables": 0.4, "coefficients": 0.3, "only_nonzero": True}
    add("StructureMasker", made(lp.StructureMasker), structure, on_padded)
    add("NodeMasker", made(jepa_ssl.NodeMasker), nodes, on_graph)
    add("BlockMasker", made(jepa_ssl.BlockMasker), nodes, on_graph, hops=2, blocks=2)
    add("EdgeMasker", made(jepa_ssl.EdgeMasker), on_graph, ratio=0.5, indicator=True, derived={"variable": [0]})
    add("hidden_share", maskers.hidden_share, views=Fresh(views_of))
    token = filled(maskers.LearnedToken, jepa_ssl.NodeMasker, hide_edges=True)
    add("LearnedToken", token, on_graph, widths={"constraint": 3, "variable": 1, "edge": 1})
    add("GaussianNoise", filled(maskers.GaussianNoise, jepa_ssl.EntryMasker), on_padded, std=0.1)
    add("Shuffled", made(jepa_ssl.NodeMasker, fill=maskers.Shuffled(), hide_edges=True), on_graph, ratio=0.5)
    noisy = jepa_ssl.EntryMasker(0.5, maskers.GaussianNoise())
    seeds = {"names": Fresh(lambda g: torch.arange(3)), "epoch": 1, "instance": on_flat["instance"]}
    add("Seeds", lambda names, epoch, instance: noisy(instance, generator=jepa_ssl.Seeds(names, epoch)), seeds)
    node_and_edge = Fresh(lambda g: [jepa_ssl.NodeMasker(0.4), jepa_ssl.EdgeMasker(0.3)])
    add("ComposeMaskers", composed(jepa_ssl.ComposeMaskers), on_graph, makers=node_and_edge)
    two_of_entries = Fresh(lambda g: [jepa_ssl.EntryMasker(0.4), jepa_ssl.EntryMasker(0.7)])
    add("MultiView", composed(jepa_ssl.MultiView), on_padded, makers=two_of_entries)

    part = {name: Fresh(lambda g, n=name: getattr(dense_lp(g), n)) for name in ("A", "b", "c", "mask_m", "mask_n")}
    add("flatten", flatten, {name: part[name] for name in "Abc"})
    add("unflatten", unflatten, vectors=on_flat["instance"], m=2, n=3)
    add("valid_entries", valid_entries, {name: part[name] for name in ("mask_m", "mask_n")})
    add("DenseLP.inequalities", lp.DenseLP.inequalities, part)
    add("DenseLP.of_vectors", lp.DenseLP.of_vectors, vectors=Fresh(padded), m=2, n=3)
    add("DenseLP.vectors", lambda lps: lps.vectors(), lps=dense)
    add("SparseLP.graph", lambda lps: lps.graph(), lps=sparse)
    add("SparseLP.of_graph", lp.SparseLP.of_graph, graph=Fresh(lambda g: sparse_lp(g).graph()))
    add("SparseLP.inequalities_of", lp.SparseLP.inequalities_of, graph=g_graph, b=1, c=0, coefficient=0)
    add("SparseLP.equal_weights", lambda lps: lps.equal_weights(), lps=sparse)
    start = (torch.ones(6), torch.ones(5))
    add("SolverState.states, sparse", states, steps, instance=sparse, start=start)
    add("SolverState.states, dense", states, steps, instance=dense, start=None)
    both = Fresh(lambda g: [sparse_lp(g), dense_lp(g)])
    fitted: Any = lambda instance, others, **a: lp.SolverState(**a).fit(others)(instance)  # noqa: E731
    add("SolverState", fitted, steps, instance=sparse, others=both)
    reached = Fresh(lambda g: lp.SolverState(3).states(sparse_lp(g)))
    add("split_states", lambda of, reached: lp.split_states(of, reached), of=sparse, reached=reached)

    add("MLPPredictor", made(jepa_ssl.MLPPredictor), dims=DIMS, hidden=8, embeddings=clouds)
    add("MLPProjector", made(jepa_ssl.MLPProjector), widths=DIMS, dim=3, embeddings=clouds)
    for function in (losses.cosine_loss, losses.smooth_l1_loss, losses.squared_error):
        add(function.__name__, function, predictions=rows, targets=rows)
    regularized = {"embeddings": clouds, "valid": valid, "generator": G, "on_sphere": True}
    add("VICReg", made(jepa_ssl.VICReg), regularized, variance_weight=1.0, covariance_weight=0.04)
    add("SIGReg", made(jepa_ssl.SIGReg), regularized, slices=8, items=4)
    parts: dict[str, Any] = {"encoder": Fresh(lambda g: Encoder()), "teacher": jepa_ssl.StopGradTeacher()}
    parts |= {"views": jepa_ssl.NodeMasker(0.5), "predictor": Fresh(lambda g: jepa_ssl.MLPPredictor(DIMS))}
    parts |= {"regularizer": jepa_ssl.VICReg(), "regularizer_weight": 0.3}
    add("JEPAObjective", objective, on_graph, parts, stream_weights={"constraint": 1.0, "variable": 0.5})
    add("EMATeacher", ema, encoder=parts["encoder"], moved=parts["encoder"], target=g_graph, momentum=0.9, warmup=2)
    sizes = {"constraint": (4, 3), "variable": (4, 3)}
    target: Any = lambda target, **a: jepa_ssl.TargetNetwork(**a)(None, target)  # noqa: E731
    add("TargetNetwork", target, sizes=sizes, hidden=8, learned=True, seed=3, target=clouds)
    for kind in (jepa_ssl.CosineSchedule, jepa_ssl.LinearSchedule):
        call: Any = lambda step, kind=kind, **a: kind(**a)(step)  # noqa: E731
        add(kind.__name__, call, start=0.9, end=1.0, steps=7, step=3)
    add("JointSchedule", made(jepa_ssl.JointSchedule), jepa_weight=0.2, task_weight=1.0, pretrain=2, now=3)
    combined: Any = lambda task, jepa, losses: joint.LossWeights(task, jepa).combine(lambda: losses.total, lambda: losses)  # noqa: E731, E501  # fmt: skip
    add("LossWeights", combined, task=1.0, jepa=0.2, losses=Fresh(loss))
    norms = {"task": torch.tensor(2.0), "jepa": torch.tensor(0.1)}
    add("GradientBalance", balanced, norms, every=2, smoothing=0.9)
    add("CollapseMonitor", watched, losses=Fresh(loss), norms=norms, every=2, items=8)
    add("freeze", lambda module: freezing.unfreeze(freezing.freeze(module)), module=parts["encoder"])

    add("spread_and_rank", diagnostics.spread_and_rank, embeddings=clouds)
    share: Any = lambda losses, w: diagnostics.gradient_share({k: v * w.sum() for k, v in losses.items()}, [w])  # noqa: E731
    add("gradient_share", share, losses=norms, w=Fresh(lambda g: torch.ones(3, requires_grad=True)))
    for name in ("spread", "effective_rank", "mean_cosine"):
        add(name, getattr(diagnostics, name), embeddings=rows, valid=marks)
    for name in ("teacher_distance", "prediction_cosine"):
        add(name, partial(_of_two, getattr(diagnostics, name)), a=rows, b=rows, valid=marks)
    others = {symmetries.Compose, symmetries.Symmetry}
    for kind in {vars(symmetries)[name] for name in symmetries.__all__} - others:
        if isinstance(kind, type) and issubclass(kind, symmetries.Symmetry):
            factor = {name: 4.0 for name in ("factor", "std") if name in inspect.signature(kind).parameters}
            for form, instance in (("sparse", sparse), ("dense", dense)):
                add(f"{kind.__name__}, {form}", made(kind), factor, instance=instance, generator=G)
    return dict(sorted(entries.items()))


def inputs() -> st.SearchStrategy[Input]:
    entries = _entries()

    def make(draw: Draw) -> Input:
        g, name = seeded(draw), one(draw, list(entries))
        call, arguments = entries[name]
        given = {n: value.make(g) if isinstance(value, Fresh) else value for n, value in arguments.items()}
        chosen = draw(st.lists(st.sampled_from(list(given)), max_size=2, unique=True))
        mistyped = bool(chosen) and chance(draw, 10)
        try:
            changed = {n: one(draw, OTHERS) if mistyped else odd(draw, given[n]) for n in chosen}
        except HypothesisException:
            raise
        except Exception as error:
            return refusal(error, f"{name} with an odd {chosen}")
        said = {n: repr(value)[:200] for n, value in changed.items()}
        return Input(
            f"{name} with {said}", lambda: unwritten(lambda: call(**given | changed), given, changed), mistyped=mistyped
        )

    return made_by(make)
