"""The thin adapter: its size, its names, and its loss against the formulas written out."""

import ast
import io
import tokenize
from argparse import Namespace
from pathlib import Path
from typing import Any

import jepa_adapter
import oracles
import pytest
import torch
from data.batches import FlatCollate, collate_graphs, prepare
from data.generators import generate
from jepa_adapter import FlatEncoder, GraphEncoder, instance, jepa_term
from loop.options import parse
from loop.paths import predict
from models import GNNPolicy, KKTNetMLP
from runs import MODES, PATHS, RECIPES, differences
from torch import Tensor, nn

from jepa_ssl.testing import check_encoder, check_teacher

EXAMPLE = Path(jepa_adapter.__file__).parent
each_path = pytest.mark.parametrize("path", PATHS)
each_teacher = pytest.mark.parametrize("mode", ["ema", "simsiam"])

SAMPLES = [
    prepare(generate(family, size, seed=3))
    for family, size in (("set_cover", (3, 5)), ("random", (4, 3)), ("auction", (4, 6)))
]
M, N = max(len(s.b) for s in SAMPLES), max(len(s.c) for s in SAMPLES)


def options(path: str, mode: str, *flags: str) -> Namespace:
    return parse([*PATHS[path], *(MODES | RECIPES)[mode], "--hidden_size", "8", "--embedding_size", "8", *flags])


def parts(path: str, mode: str, *flags: str) -> tuple[Any, Any, Any]:
    """Network, JEPA term and batch."""
    args = options(path, mode, *flags)
    model = GNNPolicy(args) if path == "graph" else KKTNetMLP(M, N, args.hidden_size)
    batch = collate_graphs(SAMPLES) if path == "graph" else FlatCollate(M, N)(SAMPLES)
    return model, jepa_term(model, args, torch.device("cpu")), batch


def embedded(encoder: FlatEncoder | GraphEncoder, batch: Any) -> dict[str, Tensor]:
    """Of the whole instances, by the names of the specification."""
    if isinstance(encoder, FlatEncoder):
        return {"instance": encoder.jepa_embed(batch.model_input)}
    g: Any = batch.batch_graph
    zc, zv = encoder.jepa_embed_nodes(g.constraint_features, g.edge_index, g.edge_attr, g.variable_features)
    return {"constraint": zc, "variable": zv}


def jepa_loss(jepa: Any, batch: Any) -> Any:
    return jepa.objective(jepa.encoder, instance(batch))


# ---- what the repository had to add ----------------------------------------------------------------------------------


def code_lines(source: str) -> set[int]:
    """Lines that hold code: no docstring, no comment, not blank."""
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in ignored]
    lines = {line for t in tokens for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module != "jepa_ssl.files":  # no part of JEPA
            names.add((node.module or "").split(".")[0])
    return names


def test_lines_of_code_are_counted_as_one_counts_them():
    assert code_lines('"""Doc.\n\nMore."""\n\n# why\nx = 1  # one\ny = [\n    2,\n]\n') == {6, 7, 8, 9}


def test_the_adapter_is_thin():
    assert len(code_lines((EXAMPLE / "jepa_adapter.py").read_text())) <= 70


def test_train_names_jepa_in_few_lines():
    source = (EXAMPLE / "train.py").read_text()
    lines = source.splitlines()
    assert len([n for n in code_lines(source) if "jepa" in lines[n - 1].lower()]) <= 25


def test_only_the_adapter_and_the_loop_know_the_package():
    importers = {file for file in EXAMPLE.rglob("*.py") if "jepa_ssl" in imported(file)}
    assert {EXAMPLE / "jepa_adapter.py", EXAMPLE / "train.py"} <= importers
    data = ("lp", "readers", "scaling", "generators", "store", "splits", "batches")
    for name in (*(f"data/{name}" for name in data), "models", "losses", "loop/paths", "loop/checkpoints"):
        file = EXAMPLE / f"{name}.py"
        assert file not in importers
        assert "jepa_adapter" not in imported(file)


# ---- encoders --------------------------------------------------------------------------------------------------------


@each_path
def test_embeddings_are_normalised_and_one_for_each_item(path):
    _, jepa, batch = parts(path, "ema")
    z = embedded(jepa.encoder, batch)
    items = {"instance": 3, "constraint": sum(len(s.b) for s in SAMPLES), "variable": sum(len(s.c) for s in SAMPLES)}
    assert {stream: tuple(e.shape) for stream, e in z.items()} == {stream: (items[stream], 8) for stream in z}
    for e in z.values():
        torch.testing.assert_close(e.norm(dim=1), torch.ones(len(e)))


def test_the_trunk_is_that_of_the_network():
    model, jepa, batch = parts("flat", "ema")
    assert isinstance(jepa.encoder, FlatEncoder)
    assert torch.equal(jepa.encoder.encode_trunk(batch.model_input), model.net(batch.model_input))
    policy, jepa, _ = parts("graph", "ema")
    assert jepa.encoder.trunk is policy.trunk
    assert policy.encode.__func__ is GNNPolicy.encode


@each_path
def test_projector_and_predictor_have_two_layers_for_each_stream(path):
    _, jepa, _ = parts(path, "ema")
    activation = nn.SELU if path == "flat" else nn.ReLU
    streams = {"instance"} if path == "flat" else {"constraint", "variable"}
    for network in (jepa.encoder.projector, jepa.objective.predictor):
        mlp_of: Any = network.streams
        mlps = dict(mlp_of.items())
        assert set(mlps) == streams
        for mlp in mlps.values():
            assert [type(layer) for layer in mlp] == [nn.Linear, activation, nn.Linear]
    assert jepa.encoder.projector is not jepa.objective.predictor


@each_path
@pytest.mark.parametrize("mode", [*MODES, *RECIPES])
def test_encoder_and_teacher_are_wired_as_the_package_checks_it(path, mode):
    if mode == "kkt":
        return
    _, jepa, batch = parts(path, mode)
    views, whole = jepa.objective.views, instance(batch)
    jepa_adapter.prepare(jepa, [batch])
    check_encoder(jepa.encoder, whole, views=views, trunk=jepa.encoder.trunk)
    check_teacher(jepa.objective.teacher, jepa.encoder, whole, target=views(whole, generator=None).target)


@each_path
def test_the_network_is_as_it_was(path):
    torch.manual_seed(0)
    model, _, _ = parts(path, "ema")
    torch.manual_seed(0)
    args = options(path, "kkt")
    plain = GNNPolicy(args) if path == "graph" else KKTNetMLP(M, N, args.hidden_size)
    assert not differences(dict(model.state_dict()), dict(plain.state_dict()))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


# ---- the loss --------------------------------------------------------------------------------------------------------


@each_path
@each_teacher
def test_the_loss_is_the_formula_on_what_was_predicted(path, mode):
    _, jepa, batch = parts(path, mode)
    views = recorded_views(jepa)
    loss = jepa_loss(jepa, batch)
    (view,) = views

    with torch.no_grad():
        context = jepa.objective.predictor(jepa.encoder(view.context).embeddings)
    targets = embedded(jepa.encoder, batch)  # on the whole instance; at first the teacher is the encoder
    for stream, target in targets.items():
        torch.testing.assert_close(loss.targets[stream], target.detach())
        torch.testing.assert_close(loss.predictions[stream], context[stream])
    if path == "flat":
        expected = oracles.flat_jepa_loss(context["instance"], targets["instance"])
    else:
        sizes = {"constraint": [len(s.b) for s in SAMPLES], "variable": [len(s.c) for s in SAMPLES]}
        expected = oracles.graph_jepa_loss(context, targets, dict(view.hidden), sizes)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def recorded_views(jepa: Any) -> list[Any]:
    views: list[Any] = []
    make = jepa.objective.views

    def record(instance: Any, **options: Any) -> Any:
        views.append(make(instance, **options))
        return views[-1]

    del jepa.objective.views  # a module, in whose place nothing else may stand
    jepa.objective.views = record
    return views


def test_the_flat_view_hides_real_entries_alone():
    _, jepa, batch = parts("flat", "ema", "--jepa_mask_ratio_entries", "0.4")
    views = recorded_views(jepa)
    jepa_loss(jepa, batch)
    for i, sample in enumerate(SAMPLES):
        m, n = len(sample.b), len(sample.c)
        real = torch.zeros(M, N, dtype=torch.bool)
        real[:m, :n] = True
        entries = torch.cat([real.flatten(), torch.arange(M) < m, torch.arange(N) < n])
        assert torch.equal(views[0].target.valid[i], entries)
        changed = views[0].context.values[i] != batch.model_input[i]
        assert not (changed & ~entries).any()
        assert 0 < int(changed.sum()) <= int(0.4 * (m * n + m + n))


def test_the_graph_view_hides_the_asked_share_of_each_graph():
    _, jepa, batch = parts("graph", "ema", "--jepa_mask_ratio_nodes", "0.4")
    views = recorded_views(jepa)
    jepa_loss(jepa, batch)
    for stream, sizes in (("constraint", [len(s.b) for s in SAMPLES]), ("variable", [len(s.c) for s in SAMPLES])):
        hidden = [int(part.sum()) for part in views[0].hidden[stream].split(sizes)]
        assert hidden == [oracles.hidden_count(size, 0.4) for size in sizes]


@each_path
def test_the_ratio_momentum_and_mode_are_those_of_the_flags(path):
    flags = ["--jepa_mask_ratio_entries", "0.11", "--jepa_mask_ratio_nodes", "0.22", "--ema_momentum", "0.7"]
    _, jepa, _ = parts(path, "ema", *flags)
    views: Any = jepa.objective.views
    assert views.ratio == (0.11 if path == "flat" else 0.22)
    assert jepa.objective.teacher.momentum == 0.7


@each_path
@each_teacher
def test_gradients_reach_what_the_optimizer_trains_and_no_head(path, mode):
    model, jepa, batch = parts(path, mode)
    jepa_loss(jepa, batch).total.backward()
    trained = [p for p in (*model.parameters(), *jepa.parameters()) if p.requires_grad]
    assert len({id(p) for p in trained}) == len(trained)
    heads = {id(p) for head in (model.head_x, model.head_lam) for p in head.parameters()}
    for parameter in trained:
        assert (parameter.grad is None) == (id(parameter) in heads)
    assert {id(p) for p in jepa.encoder.parameters()} <= {id(p) for p in trained}


@each_path
@each_teacher
def test_a_batch_is_never_written_to(path, mode):
    _, jepa, batch = parts(path, mode)
    _, _, again = parts(path, mode)
    jepa_loss(jepa, batch).total.backward()
    for one, other in zip(batch, again, strict=True):
        tensors = (one, other) if isinstance(one, Tensor) else (one.to_dict(), other.to_dict())
        assert not differences(*tensors)


# ---- one pass of the trunk less --------------------------------------------------------------------------------------


@each_path
@pytest.mark.parametrize("mode", ["simsiam", "shared", "ema"])
def test_what_the_trunk_made_for_the_task_serves_as_the_target(path, mode):
    """Joint training without a copy: two passes of the trunk in place of three, the same loss, the same gradients."""

    def step(shared: bool) -> tuple[Tensor, dict[str, Tensor], int]:
        torch.manual_seed(0)
        model, jepa, batch = parts(path, mode)
        ran: list[Any] = []
        inside = next(part for part in jepa.encoder.trunk.modules() if isinstance(part, nn.Linear))
        inside.register_forward_hook(lambda *_: ran.append(1))

        def task() -> Tensor:
            return predict(model, batch).square().mean()

        def loss() -> Any:
            return jepa.loss(instance(batch), task=task if shared else task(), epoch=0)

        for _ in range(2):  # checked, by a pass more
            loss()
        ran.clear()
        joint = loss()
        joint.total.backward()
        named = dict(model.named_parameters())
        return joint.total.detach(), {name: p.grad for name, p in named.items() if p.grad is not None}, len(ran)

    plain, saved = step(shared=False), step(shared=True)
    assert (plain[2], saved[2]) == (2 if mode == "ema" else 3, 2)
    torch.testing.assert_close(saved[:2], plain[:2])
