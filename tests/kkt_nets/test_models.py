"""The networks against their formulas, and the invariances that a graph network owes to graphs."""

import copy
from argparse import Namespace
from typing import Any

import pytest
import torch
from builders import seeded
from graph_trunks import CONSTRAINT_FEATURES, EDGE_FEATURES, VARIABLE_FEATURES, BipartiteConvolution
from models import GNNPolicy, KKTNetMLP
from torch import nn
from torch.nn import functional as F


def random_graph(m, n, edges, seed=0):
    generator = seeded(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cells = torch.randperm(m * n, generator=generator)[:edges]  # no edge twice
    return (
        normal(m, CONSTRAINT_FEATURES),
        torch.stack([cells // n, cells % n]),
        normal(len(cells), EDGE_FEATURES),
        normal(n, VARIABLE_FEATURES),
    )


def side_by_side(graphs):
    rows, columns, shifted = 0, 0, []
    for c, edge_index, _, v in graphs:
        shifted.append(edge_index + torch.tensor([[rows], [columns]]))
        rows, columns = rows + len(c), columns + len(v)
    c, _, e, v = (torch.cat(parts) for parts in zip(*((c, i.T, e, v) for c, i, e, v in graphs), strict=True))
    return c, torch.cat(shifted, dim=1), e, v


def built(**args: Any) -> Any:
    torch.manual_seed(0)
    return GNNPolicy(Namespace(embedding_size=8, **args)).double()


@pytest.fixture(params=["convolutions", "solver"])
def policy(request):
    return built(trunk=request.param, rounds=3)


# ---- MLP -------------------------------------------------------------------------------------------------------------


def test_mlp_is_trunk_and_heads():
    torch.manual_seed(0)
    model = KKTNetMLP(3, 2, hidden=16).double()
    assert (model.m, model.n, model.hidden) == (3, 2, 16)
    assert [type(layer) for layer in model.net] == [nn.Linear, nn.SELU] * 3
    flat = torch.randn(5, 11, dtype=torch.float64)
    h = flat
    weights: dict[str, torch.Tensor] = dict(model.named_parameters())
    for layer in (0, 2, 4):
        h = F.selu(h @ weights[f"net.{layer}.weight"].T + weights[f"net.{layer}.bias"])
    x = h @ weights["head_x.weight"].T + weights["head_x.bias"]
    lam = (h @ weights["head_lam.0.weight"].T + weights["head_lam.0.bias"]).clamp_min(0)
    torch.testing.assert_close(model(flat), torch.cat([x, lam], 1), rtol=1e-12, atol=1e-12)
    assert lam.min() == 0
    assert x.min() < 0


def test_mlp_refuses_another_width():
    with pytest.raises(ValueError, match=r"flat has shape \(1, 10\), expected m\*n\+m\+n = 11"):
        KKTNetMLP(3, 2)(torch.zeros(1, 10))


# ---- GNN -------------------------------------------------------------------------------------------------------------


def convolution_edge_by_edge(layer: BipartiteConvolution, src, dst, src_index, dst_index, edge):
    received = [torch.zeros_like(node) for node in dst]
    for e in range(len(src_index)):
        i, j = int(src_index[e]), int(dst_index[e])
        message = layer.left(dst[j]) + layer.edge(edge[e]) + layer.right(src[i])
        received[j] = received[j] + layer.final(F.relu(layer.message_norm(message)))
    nodes = [layer.output(torch.cat([layer.norm(r), node])) for r, node in zip(received, dst, strict=True)]
    return torch.stack(nodes)


def test_encode_and_forward_equal_message_passing_edge_by_edge():
    policy = built()
    c_in, (row, column), e_in, v_in = graph = random_graph(4, 3, 7)
    trunk = policy.trunk
    c, v, e = trunk.constraint_embedding(c_in), trunk.variable_embedding(v_in), trunk.edge_embedding(e_in)
    for k in range(2):
        c = convolution_edge_by_edge(trunk.to_constraints[k], v, c, column, row, e)
        v = convolution_edge_by_edge(trunk.to_variables[k], c, v, row, column, e)
    for got, expected in zip(policy.encode(*graph), (c, v), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    x, lam = policy(*graph)
    torch.testing.assert_close(x, policy.head_x(v)[:, 0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(lam, F.softplus(policy.head_lam(c)[:, 0]), rtol=1e-10, atol=1e-12)


def test_a_round_of_the_solver_trunk_is_a_preconditioned_pdhg_step_with_learned_maps():
    """On dense matrices, `dim` numbers wide: v hears A'W c, c hears A W (2 v' - v), both divided by sums of |a|."""
    policy = built(trunk="solver", rounds=2)
    c_in, (row, column), e_in, v_in = graph = random_graph(4, 3, 7)
    A = torch.zeros(4, 3, dtype=torch.float64).index_put_((row, column), e_in[:, 0])
    is_edge, trunk = (A != 0).double(), policy.trunk
    row_sums, column_sums = A.abs().sum(1, True).clamp(min=1e-6), A.abs().sum(0)[:, None].clamp(min=1e-6)
    of_row, of_column = is_edge.sum(1, True).clamp(min=1), is_edge.sum(0)[:, None].clamp(min=1)
    c = c0 = trunk.constraint_embedding(torch.cat([c_in, row_sums.log()], 1))
    v = v0 = trunk.variable_embedding(torch.cat([v_in, column_sums.log()], 1))
    to_c, to_v = trunk.to_constraints, trunk.to_variables
    for _ in range(2):
        h = to_c.norm(c)
        product, mean = A.T @ to_v.product(h) / column_sums, is_edge.T @ to_v.mean(h).relu() / of_column
        moved = v + to_v.step(torch.cat([to_v.norm(v), product, mean, v0], 1))
        h = to_v.norm(2 * moved - v)
        product, mean = A @ to_c.product(h) / row_sums, is_edge @ to_c.mean(h).relu() / of_row
        c, v = c + to_c.step(torch.cat([to_c.norm(c), product, mean, c0], 1)), moved
    for got, expected in zip(policy.encode(*graph), (c, v), strict=True):
        torch.testing.assert_close(got, F.layer_norm(expected, (8,)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trunk", ["convolutions", "solver"])
def test_activations_that_are_computed_again_change_no_gradient(trunk):
    gradients = []
    for recompute in (False, True):
        policy = built(trunk=trunk, rounds=3)
        policy.trunk.recompute = recompute
        torch.cat([part.square() for part in policy(*random_graph(4, 3, 7))]).sum().backward()
        gradients.append([p.grad for p in policy.parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_a_batch_equals_its_graphs_one_by_one(policy):
    graphs = [random_graph(4, 3, 7, 0), random_graph(1, 1, 1, 1), random_graph(2, 6, 0, 2), random_graph(5, 2, 10, 3)]
    x, lam = policy(*side_by_side(graphs))
    alone = [policy(*graph) for graph in graphs]
    torch.testing.assert_close(x, torch.cat([a for a, _ in alone]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(lam, torch.cat([a for _, a in alone]), rtol=1e-10, atol=1e-12)


def test_permuting_nodes_permutes_the_answer_and_the_order_of_edges_is_nothing(policy):
    c, edge_index, e, v = random_graph(5, 4, 9)
    generator = seeded(1)
    rows, columns, edges = (torch.randperm(k, generator=generator) for k in (5, 4, 9))
    moved = torch.stack([rows.argsort()[edge_index[0, edges]], columns.argsort()[edge_index[1, edges]]])
    x, lam = policy(c, edge_index, e, v)
    moved_x, moved_lam = policy(c[rows], moved, e[edges], v[columns])
    torch.testing.assert_close(moved_x, x[columns], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(moved_lam, lam[rows], rtol=1e-10, atol=1e-12)


def test_a_coefficient_reaches_every_node_within_two_rounds(policy):
    """A path c0 - v0 - c1 - v1: what changes at one end is seen at the other."""
    c, v = torch.ones(2, CONSTRAINT_FEATURES).double(), torch.ones(2, VARIABLE_FEATURES).double()
    edge_index, e = torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.ones(3, 1).double()
    changed = e.clone()
    changed[0] = 2.0
    (x, lam), (other_x, other_lam) = policy(c, edge_index, e, v), policy(c, edge_index, changed, v)
    assert (x != other_x).all()
    assert (lam != other_lam).all()


@pytest.mark.parametrize(("m", "n", "edges"), [(3, 2, 0), (1, 1, 1), (4, 1, 4), (1, 5, 5)])
def test_small_graphs(policy, m, n, edges):
    x, lam = policy(*random_graph(m, n, edges))
    assert (x.shape, lam.shape) == ((n,), (m,))
    assert torch.isfinite(x).all()
    assert (lam >= 0).all()


def test_every_parameter_gets_a_gradient(policy):
    x, lam = policy(*random_graph(6, 5, 20))
    (x.square().sum() + lam.square().sum()).backward()
    assert [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_trunk_alone_encodes_and_has_no_head(policy):
    graph = random_graph(4, 3, 7)
    trunk = copy.deepcopy(policy.trunk)
    for got, expected in zip(trunk(*graph), policy.encode(*graph), strict=True):
        assert torch.equal(got, expected)
    heads = {name.split(".")[0] for name, _ in policy.named_parameters()} - {"trunk"}
    assert heads == {"head_x", "head_lam"}


def test_training_mode_changes_nothing_and_inputs_stay(policy):
    graph = random_graph(4, 3, 7)
    before = [part.clone() for part in graph]
    assert torch.equal(policy.train()(*graph)[0], policy.eval()(*graph)[0])
    assert all(torch.equal(a, b) for a, b in zip(graph, before, strict=True))


@pytest.mark.parametrize("trunk", ["convolutions", "solver"])
def test_embeddings_are_apart_at_the_start(trunk):
    """Features of scaled LPs must not land on one point before training begins."""
    torch.manual_seed(0)
    graph = [part.float() if part.is_floating_point() else part for part in random_graph(60, 40, 240)]
    for embeddings in GNNPolicy(Namespace(embedding_size=64, trunk=trunk, rounds=8)).encode(*graph):
        centred = F.normalize(embeddings - embeddings.mean(0), dim=1)
        cosine = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T
        assert cosine.mean() < 0.99
        assert torch.linalg.matrix_rank(centred, rtol=1e-2) > 8


def test_linear_layers_start_orthogonal_and_without_bias(policy):
    for layer in policy.modules():
        if isinstance(layer, nn.Linear):
            short = layer.weight if layer.out_features <= layer.in_features else layer.weight.T
            torch.testing.assert_close((short @ short.T).detach(), torch.eye(len(short)).double(), rtol=0, atol=1e-6)
            assert layer.bias is None or not layer.bias.any()


def test_trunk_compiles_as_one_graph(policy):
    graph = random_graph(4, 3, 7)
    compiled = torch.compile(policy, fullgraph=True, backend="eager")
    for got, expected in zip(compiled(*graph), policy(*graph), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("args", [Namespace(), Namespace(embedding_size=0), Namespace(embedding_size="64")])
def test_embedding_size_is_required(args):
    with pytest.raises(ValueError, match=r"args\.embedding_size is .*positive integer"):
        GNNPolicy(args)


@pytest.mark.parametrize(
    ("position", "name"), list(enumerate(["constraint_features", "edge_indices", "edge_features", "variable_features"]))
)
def test_wrong_shapes_are_refused_by_name(policy, position, name):
    graph = list(random_graph(4, 3, 7))
    graph[position] = graph[position][:, :0]
    with pytest.raises(ValueError, match=f"^{name} has shape .*expected"):
        policy(*graph)
