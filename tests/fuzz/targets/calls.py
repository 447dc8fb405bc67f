"""Every public function and class, with one or two of its arguments exchanged for odd ones."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import jepa_ssl
from jepa_ssl import diagnostics, freezing, joint, losses, lp, maskers, predictors, protocols
from jepa_ssl.instances import check_numbers
from jepa_ssl.integrations import pyg  # noqa: F401 - so that it is there to be fuzzed
from jepa_ssl.lp.layout import flatten, unflatten, valid_entries

from ..judging import Input, Target
from .pool import OTHERS, odd, seeded, unwritten

Arguments = dict[str, Any]
Entry = tuple[Callable[..., Any], Callable[[torch.Generator], Arguments]]


def graph(g: torch.Generator) -> jepa_ssl.BipartiteGraph:
    """Two graphs, of 3 + 4 and of 2 + 2 nodes."""
    edges = torch.tensor([[0, 0, 1, 2, 2, 3, 4], [0, 1, 2, 3, 0, 4, 5]])
    c, e, v = (torch.randn(n, k, generator=g) for n, k in ((5, 3), (7, 1), (6, 2)))
    return jepa_ssl.BipartiteGraph(c, edges, e, v, torch.tensor([0, 3, 5]), torch.tensor([0, 4, 6]))


def flat(g: torch.Generator) -> Tensor:
    return torch.randn(3, 11, generator=g)  # an LP of two rows and three columns


def padded(g: torch.Generator) -> jepa_ssl.FlatVectors:
    return jepa_ssl.FlatVectors(flat(g), torch.arange(11) < torch.tensor([[11], [5], [1]]))


def sparse_lp(g: torch.Generator) -> lp.SparseLP:
    free = lp.SparseLP.inequalities_of(graph(g))
    return replace(free, equality=torch.arange(5) == 1, lower=torch.zeros(6))


def dense_lp(g: torch.Generator) -> lp.DenseLP:
    return lp.DenseLP(
        torch.randn(3, 2, 3, generator=g),
        torch.randn(3, 2, generator=g),
        torch.randn(3, 3, generator=g),
        torch.tensor([[True, True], [True, False], [True, True]]),
        torch.tensor([[True, True, True], [True, True, False], [True, True, True]]),
        torch.zeros(3, 2, dtype=torch.bool),
        torch.zeros(3, 3),
        torch.full((3, 3), torch.inf),
    )


def cloud(g: torch.Generator) -> dict[str, Tensor]:
    return {"constraint": torch.randn(5, 4, generator=g), "variable": torch.randn(6, 4, generator=g)}


def valid(_: torch.Generator) -> dict[str, Tensor]:
    return {"constraint": torch.arange(5) < 4}


def two(g: torch.Generator) -> Arguments:
    return {"predictions": torch.randn(5, 4, generator=g), "targets": torch.randn(5, 4, generator=g)}


def loss(g: torch.Generator) -> protocols.JEPALoss:
    encoded = jepa_ssl.Encoded(cloud(g), cloud(g), valid(g))
    return protocols.JEPALoss(torch.tensor(0.5), {"total": torch.tensor(0.5)}, cloud(g), cloud(g), encoded)


class Encoder(nn.Module):
    """Of the graphs above."""

    def __init__(self) -> None:
        super().__init__()
        self.constraint, self.variable = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, seen: Any) -> dict[str, Tensor]:
        return {
            "constraint": self.constraint(seen.constraint_features),
            "variable": self.variable(seen.variable_features),
        }


def masker(kind: Any, **defaults: Any) -> Callable[..., Any]:
    def call(instance: Any, generator: Any, **given: Any) -> Any:
        return kind(**{**defaults, **given})(instance, generator=generator)

    return call


def symmetry(kind: Any) -> Callable[..., Any]:
    return lambda instance, generator, **given: kind(**given).apply(instance, generator=generator)


def regularized(kind: Any) -> Callable[..., Any]:
    return lambda embeddings, valid, generator, **given: kind(**given)(embeddings, valid=valid, generator=generator)


def objective(
    encoder: Any, instance: Any, generator: Any, teacher: Any, views: Any, predictor: Any, **given: Any
) -> Any:
    jepa = jepa_ssl.JEPAObjective(views, predictor, teacher, **given)
    made = jepa(encoder, instance, generator=generator)
    made.total.backward()
    jepa.update(encoder)


def states(instance: Any, generator: Any, start: Any, **given: Any) -> Any:
    return lp.SolverState(**given).states(instance, start=start, generator=generator)


def fitted(instance: Any, others: Any, **given: Any) -> Any:
    return lp.SolverState(**given).fit(others)(instance)


def watched(losses: Any, norms: Any, **given: Any) -> None:
    monitor = jepa_ssl.CollapseMonitor(**given)
    for _ in range(3):
        monitor.observe(losses)
        monitor.observe_gradients(norms)
        monitor.step()


def balanced(task: Any, jepa: Any, **given: Any) -> Any:
    shared = [torch.ones(3, requires_grad=True)]
    return jepa_ssl.GradientBalance(shared, **given)(task * shared[0].sum(), jepa * shared[0].sum())


def schedule(kind: Any) -> Callable[..., Any]:
    return lambda step, **given: kind(**given)(step)


def ema(encoder: Any, target: Any, moved: Any, **given: Any) -> Any:
    teacher = jepa_ssl.EMATeacher(encoder, **given)
    teacher.update(moved)
    return teacher(encoder, target)


def views_of(g: torch.Generator, **given: Any) -> jepa_ssl.Views[Any, Any]:
    return jepa_ssl.NodeMasker(0.5, **given)(graph(g), generator=g)


def predicted(embeddings: Any, condition: Any, **given: Any) -> Any:
    return predictors.ConditionalMLPPredictor(**given)(embeddings, condition)


def _node_arguments(g: torch.Generator) -> Arguments:
    return {
        "ratio": {"constraint": 0.5, "variable": 0.4},
        "indicator": False,
        "hide_edges": True,
        "derived": {"constraint": [1]},
    }


def _entries() -> dict[str, Entry]:
    """Name -> what is called, and arguments that it takes."""
    on_flat = lambda g: {"instance": flat(g), "generator": g}  # noqa: E731
    on_padded = lambda g: {"instance": padded(g), "generator": g}  # noqa: E731
    on_graph = lambda g: {"instance": graph(g), "generator": g}  # noqa: E731
    structure = {"m": 2, "n": 3, "constraints": 0.5, "variables": 0.4, "coefficients": 0.3, "only_nonzero": True}
    steps = {"steps": (2, 5), "restart_every": 2, "rebalance": True, "start_scale": 0.0, "average": False}
    dims = {"constraint": 4, "variable": 4}
    entries: dict[str, Entry] = {
        "FlatVectors": (lambda values: values.check_values(), lambda g: {"values": padded(g)}),
        "BipartiteGraph": (lambda seen: seen.check_values(), lambda g: {"seen": graph(g)}),
        "BipartiteGraph.single": (
            lambda **a: jepa_ssl.BipartiteGraph.single(**a).check_values(),
            lambda g: {
                "constraint_features": torch.ones(2, 1),
                "edge_index": torch.tensor([[0, 1], [1, 2]]),
                "edge_attr": torch.ones(2, 1),
                "variable_features": torch.ones(3, 1),
            },
        ),
        "check_numbers": (check_numbers, lambda g: {"instance": graph(g)}),
        "EntryMasker": (masker(jepa_ssl.EntryMasker), lambda g: {"ratio": 0.5, "indicator": False, **on_flat(g)}),
        "EntryMasker, padded": (
            masker(jepa_ssl.EntryMasker),
            lambda g: {"ratio": 0.7, "indicator": True, **on_padded(g)},
        ),
        "GroupMasker": (
            masker(maskers.GroupMasker),
            lambda g: {"ratio": 0.5, "groups": [[0, 1], [2], [3, 10]], **on_padded(g)},
        ),
        "StructureMasker": (masker(lp.StructureMasker), lambda g: {**structure, **on_padded(g)}),
        "NodeMasker": (masker(jepa_ssl.NodeMasker), lambda g: {**_node_arguments(g), **on_graph(g)}),
        "BlockMasker": (
            masker(jepa_ssl.BlockMasker),
            lambda g: {"hops": 2, "blocks": 2, **_node_arguments(g), **on_graph(g)},
        ),
        "EdgeMasker": (
            masker(jepa_ssl.EdgeMasker),
            lambda g: {"ratio": 0.5, "indicator": True, "derived": {"variable": [0]}, **on_graph(g)},
        ),
        "hidden_share": (
            lambda seen, instance: maskers.hidden_share(seen, instance),
            lambda g: {"seen": views_of(g, indicator=True), "instance": graph(g)},
        ),
        "hidden_and_degree": (predictors.hidden_and_degree, lambda g: {"views": views_of(g)}),
        "Seeds": (
            lambda names, epoch, instance: jepa_ssl.EntryMasker(0.5, maskers.GaussianNoise())(
                instance, generator=jepa_ssl.Seeds(names, epoch)
            ),
            lambda g: {"names": torch.arange(3), "epoch": 1, "instance": flat(g)},
        ),
        "LearnedToken": (
            lambda widths, instance, generator: jepa_ssl.NodeMasker(0.5, maskers.LearnedToken(widths), hide_edges=True)(
                instance, generator=generator
            ),
            lambda g: {"widths": {"constraint": 3, "variable": 1, "edge": 1}, **on_graph(g)},
        ),
        "GaussianNoise": (
            lambda std, instance, generator: jepa_ssl.EntryMasker(0.5, maskers.GaussianNoise(std))(
                instance, generator=generator
            ),
            lambda g: {"std": 0.1, **on_padded(g)},
        ),
        "Shuffled": (
            masker(jepa_ssl.NodeMasker, fill=maskers.Shuffled(), hide_edges=True),
            lambda g: {"ratio": 0.5, **on_graph(g)},
        ),
        "ComposeMaskers": (
            lambda makers, instance, generator: jepa_ssl.ComposeMaskers(*makers)(instance, generator=generator),
            lambda g: {"makers": [jepa_ssl.NodeMasker(0.4), jepa_ssl.EdgeMasker(0.3)], **on_graph(g)},
        ),
        "MultiView": (
            lambda makers, instance, generator: jepa_ssl.MultiView(*makers)(instance, generator=generator),
            lambda g: {"makers": [jepa_ssl.EntryMasker(0.4), jepa_ssl.EntryMasker(0.7)], **on_padded(g)},
        ),
        "flatten": (flatten, lambda g: {"A": dense_lp(g).A, "b": dense_lp(g).b, "c": dense_lp(g).c}),
        "unflatten": (unflatten, lambda g: {"vectors": flat(g), "m": 2, "n": 3}),
        "valid_entries": (valid_entries, lambda g: {"mask_m": dense_lp(g).mask_m, "mask_n": dense_lp(g).mask_n}),
        "DenseLP.inequalities": (
            lp.DenseLP.inequalities,
            lambda g: {n: getattr(dense_lp(g), n) for n in ("A", "b", "c", "mask_m", "mask_n")},
        ),
        "DenseLP.of_vectors": (lp.DenseLP.of_vectors, lambda g: {"vectors": padded(g), "m": 2, "n": 3}),
        "DenseLP.vectors": (lambda lps: lps.vectors(), lambda g: {"lps": dense_lp(g)}),
        "SparseLP.graph": (lambda lps: lps.graph(), lambda g: {"lps": sparse_lp(g)}),
        "SparseLP.of_graph": (lp.SparseLP.of_graph, lambda g: {"graph": sparse_lp(g).graph()}),
        "SparseLP.inequalities_of": (
            lp.SparseLP.inequalities_of,
            lambda g: {"graph": graph(g), "b": 1, "c": 0, "coefficient": 0},
        ),
        "SparseLP.equal_weights": (lambda lps: lps.equal_weights(), lambda g: {"lps": sparse_lp(g)}),
        "SolverState.states, sparse": (
            states,
            lambda g: {"instance": sparse_lp(g), "generator": g, "start": (torch.ones(6), torch.ones(5)), **steps},
        ),
        "SolverState.states, dense": (
            states,
            lambda g: {"instance": dense_lp(g), "generator": g, "start": None, **steps},
        ),
        "SolverState": (fitted, lambda g: {"instance": sparse_lp(g), "others": [sparse_lp(g), dense_lp(g)], **steps}),
        "split_states": (
            lambda of, reached: lp.split_states(of, reached),
            lambda g: {"of": sparse_lp(g), "reached": lp.SolverState(3).states(sparse_lp(g))},
        ),
        "MLPPredictor": (
            lambda embeddings, **a: jepa_ssl.MLPPredictor(**a)(embeddings),
            lambda g: {"dims": dims, "hidden": 8, "embeddings": cloud(g)},
        ),
        "MLPProjector": (
            lambda embeddings, **a: jepa_ssl.MLPProjector(**a)(embeddings),
            lambda g: {"widths": dims, "dim": 3, "embeddings": cloud(g)},
        ),
        "ConditionalMLPPredictor": (
            predicted,
            lambda g: {
                "dims": dims,
                "condition_sizes": dims,
                "embeddings": cloud(g),
                "condition": cloud(g),
                "hidden": 8,
            },
        ),
        "cosine_loss": (jepa_ssl.cosine_loss, two),
        "smooth_l1_loss": (jepa_ssl.smooth_l1_loss, two),
        "squared_error": (losses.squared_error, two),
        "VICReg": (
            regularized(jepa_ssl.VICReg),
            lambda g: {
                "embeddings": cloud(g),
                "valid": valid(g),
                "generator": g,
                "variance_weight": 1.0,
                "covariance_weight": 0.04,
                "on_sphere": True,
            },
        ),
        "SIGReg": (
            regularized(jepa_ssl.SIGReg),
            lambda g: {
                "embeddings": cloud(g),
                "valid": valid(g),
                "generator": g,
                "slices": 8,
                "items": 4,
                "points": 3,
                "on_sphere": True,
            },
        ),
        "JEPAObjective": (
            objective,
            lambda g: {
                "encoder": Encoder(),
                **on_graph(g),
                "teacher": jepa_ssl.StopGradTeacher(),
                "views": jepa_ssl.NodeMasker(0.5),
                "predictor": jepa_ssl.MLPPredictor(dims),
                "stream_weights": {"constraint": 1.0, "variable": 0.5},
                "regularizer": jepa_ssl.VICReg(),
                "regularizer_weight": 0.3,
            },
        ),
        "EMATeacher": (
            ema,
            lambda g: {"encoder": Encoder(), "moved": Encoder(), "target": graph(g), "momentum": 0.9, "warmup": 2},
        ),
        "TargetNetwork": (
            lambda target, **a: jepa_ssl.TargetNetwork(**a)(None, target),
            lambda g: {
                "sizes": {"constraint": (4, 3), "variable": (4, 3)},
                "hidden": 8,
                "learned": True,
                "seed": 3,
                "target": cloud(g),
            },
        ),
        "CosineSchedule": (
            schedule(jepa_ssl.CosineSchedule),
            lambda g: {"start": 0.9, "end": 1.0, "steps": 7, "step": 3},
        ),
        "LinearSchedule": (
            schedule(jepa_ssl.LinearSchedule),
            lambda g: {"start": 0.9, "end": 1.0, "steps": 7, "step": 3},
        ),
        "JointSchedule": (
            lambda epoch, **a: jepa_ssl.JointSchedule(**a)(epoch),
            lambda g: {"jepa_weight": 0.2, "task_weight": 1.0, "pretrain_epochs": 2, "epoch": 3},
        ),
        "LossWeights": (
            lambda task, jepa, losses: joint.LossWeights(task, jepa).combine(lambda: losses.total, lambda: losses),
            lambda g: {"task": 1.0, "jepa": 0.2, "losses": loss(g)},
        ),
        "GradientBalance": (
            balanced,
            lambda g: {"task": torch.tensor(2.0), "jepa": torch.tensor(0.1), "every": 2, "smoothing": 0.9},
        ),
        "CollapseMonitor": (
            watched,
            lambda g: {
                "losses": loss(g),
                "norms": {"task": torch.tensor(1.0), "jepa": torch.tensor(0.1)},
                "every": 2,
                "items": 8,
            },
        ),
        "freeze": (
            lambda module: freezing.unfreeze(freezing.freeze(module)),
            lambda g: {"module": Encoder()},
        ),
        "describe": (diagnostics.describe, lambda g: {"embeddings": cloud(g)}),
        "gradient_share": (
            lambda losses, w: diagnostics.gradient_share({k: v * w.sum() for k, v in losses.items()}, [w]),
            lambda g: {
                "losses": {"task": torch.tensor(1.0), "jepa": torch.tensor(2.0)},
                "w": torch.ones(3, requires_grad=True),
            },
        ),
        "uniformity": (
            diagnostics.uniformity,
            lambda g: {
                "embeddings": cloud(g)["constraint"],
                "valid": valid(g)["constraint"],
                "t": 2.0,
                "pairs": 4,
                "generator": g,
            },
        ),
    }
    for name in ("spread", "spread_per_dimension", "effective_rank", "mean_cosine"):
        entries[name] = (
            getattr(diagnostics, name),
            lambda g: {"embeddings": cloud(g)["constraint"], "valid": valid(g)["constraint"]},
        )
    for name in ("alignment", "teacher_distance", "prediction_cosine"):
        call = getattr(diagnostics, name)
        entries[name] = (
            lambda a, b, valid, call=call: call(a, b, valid),
            lambda g: {"a": cloud(g)["constraint"], "b": cloud(g)["constraint"], "valid": valid(g)["constraint"]},
        )
    options: dict[str, Mapping[str, Any]] = {
        "RowScale": {"factor": 4.0},
        "ColumnScale": {"factor": 4.0},
        "ObjectiveScale": {"factor": 4.0},
        "RHSScale": {"factor": 4.0},
        "Translation": {"std": 1.0},
    }
    for name in (
        "RowScale",
        "ColumnScale",
        "ObjectiveScale",
        "RHSScale",
        "Translation",
        "Negation",
        "Permutation",
        "RedundantRow",
        "DuplicateRow",
        "ColumnSplit",
        "IdleVariable",
        "BoundsAsRows",
        "EqualitiesAsInequalities",
    ):
        for form, made in (("sparse", sparse_lp), ("dense", dense_lp)):
            given = options.get(name, {})
            entries[f"{name}, {form}"] = (
                symmetry(getattr(lp, name)),
                lambda g, made=made, given=given: {"instance": made(g), "generator": g, **given},
            )
    return entries


def target() -> Target:
    entries = _entries()
    names = list(entries)

    def make(rng: random.Random) -> Input:
        g = seeded(rng)
        name = rng.choice(names)
        call, arguments = entries[name]
        given = arguments(g)
        chosen = rng.sample(list(given), min(len(given), rng.choice((0, 1, 1, 1, 2))))
        mistyped = bool(chosen) and rng.random() < 0.1
        state = rng.getstate()

        def run() -> None:
            rng.setstate(state)
            changed = {n: rng.choice(OTHERS) if mistyped else odd(rng, given[n]) for n in chosen}
            made.said = {n: repr(value)[:200] for n, value in changed.items()}
            arguments = {**given, **changed}
            result = unwritten(lambda: call(**arguments), arguments)
            del result

        made = _Said(name)
        return Input(made, run, mistyped=mistyped)

    return make


class _Said:
    """Which call it is, and with what, which is known once the odd values have been made."""

    def __init__(self, name: str) -> None:
        self.name, self.said = name, {}

    def __str__(self) -> str:
        return f"{self.name} with {self.said}"
