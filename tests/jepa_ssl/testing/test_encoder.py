"""`check_encoder` passes what is right, and finds every planted fault."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from builders import ragged_graphs
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_ssl import BipartiteGraph, Encoded, EntryMasker, FlatVectors, MLPProjector, ModelEncoder, NodeMasker, Views
from jepa_ssl.testing import check_encoder

FLAT = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
PADDED = FlatVectors(FLAT.where(torch.arange(6) < 4, 0.0), (torch.arange(6) < 4).expand(5, 6).contiguous())
GRAPH = ragged_graphs([3, 5, 2], [4, 2, 6])
GRAPH_WIDTH = {"constraint": GRAPH.constraint_features.size(1), "variable": GRAPH.variable_features.size(1)}


class Flat(nn.Module):
    """An encoder of vectors; the faults below are subclasses of it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.projector = MLPProjector({"instance": 16}, 4)

    def features(self, flat: Tensor) -> Tensor:
        return self.trunk(flat)

    def forward(self, instance: Any) -> Any:
        flat = torch.where(instance.valid, instance.values, 0.0) if isinstance(instance, FlatVectors) else instance
        return self.projector({"instance": self.features(flat)})


class Graph(nn.Module):
    """A round of messages over a bipartite graph."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleDict({kind: nn.Linear(width, 8) for kind, width in GRAPH_WIDTH.items()})
        self.message = nn.Linear(8, 8)

    def forward(self, g: BipartiteGraph) -> Any:
        c, v = self.own["constraint"](g.constraint_features), self.own["variable"](g.variable_features)
        rows, columns = g.edge_index
        weight = g.edge_attr.flatten().unsqueeze(1)
        received = torch.zeros_like(c).index_add(0, rows, weight * self.message(v)[columns])
        return {"constraint": c + received, "variable": v.tanh()}


@pytest.mark.parametrize("instance", [FLAT, PADDED, FLAT.double()], ids=["bare", "padded", "float64"])
def test_a_flat_encoder_passes(instance: Any):
    encoder = Flat().to(instance.dtype if isinstance(instance, Tensor) else torch.float32)
    check_encoder(encoder, instance, views=EntryMasker(0.5), trunk=encoder.trunk)


def test_a_graph_encoder_passes():
    encoder = Graph()
    check_encoder(encoder, GRAPH, views=NodeMasker(0.4), trunk=encoder.message)


def test_a_function_passes():
    weight = torch.randn(6, 4, requires_grad=True)
    check_encoder(lambda flat: {"instance": flat @ weight}, FLAT, views=EntryMasker(0.5))


def test_nothing_of_the_encoder_is_changed_and_the_global_random_numbers_stay():
    encoder, state = Flat(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    check_encoder(encoder, FLAT, views=EntryMasker(0.5))
    assert torch.equal(state, torch.get_rng_state())
    assert encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


class NoDictionary(Flat):
    def forward(self, instance: Any) -> Any:
        return self.features(instance)


class PerNode(Flat):
    """A row for each entry, where a vector has one embedding."""

    def forward(self, instance: Any) -> Any:
        return {"instance": self.features(instance).repeat(6, 1)}


class Unflattened(Flat):
    def forward(self, instance: Any) -> Any:
        return {"instance": self.features(instance).unsqueeze(0)}


class Infinite(Flat):
    def features(self, flat: Tensor) -> Tensor:
        return super().features(flat) / 0.0


class Deaf(Flat):
    def features(self, flat: Tensor) -> Tensor:
        return super().features(torch.zeros_like(flat))


class Restless(Flat):
    def features(self, flat: Tensor) -> Tensor:
        return F.dropout(super().features(flat), 0.5)


class Uncopyable(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.rows = (row for row in range(3))


class Closure(Flat):
    def __init__(self) -> None:
        super().__init__()
        trunk = self.trunk
        self.run = lambda flat: trunk(flat)

    def features(self, flat: Tensor) -> Tensor:
        return self.run(flat)


class BatchSize(Flat):
    """A weight outside the module: it is not registered, and not copied."""

    weights = nn.Linear(6, 16)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential()

    def features(self, flat: Tensor) -> Tensor:
        return type(self).weights(flat)


class Shared(Flat):
    def __deepcopy__(self, memo: Any) -> Any:
        copied = Shared()
        copied.trunk, copied.projector = self.trunk, self.projector
        return copied


class Detached(Flat):
    def features(self, flat: Tensor) -> Tensor:
        return super().features(flat).detach()


class WithoutGradient(Flat):
    def features(self, flat: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(flat)


class Halfway(Flat):
    """The second layer of the trunk has no part in the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16))

    def features(self, flat: Tensor) -> Tensor:
        return self.trunk[0](flat)


class Positional(Flat):
    def features(self, flat: Tensor) -> Tensor:
        return super().features(flat) + 0.1 * torch.arange(len(flat)).unsqueeze(1)


class OverTheBatch(Flat):
    def features(self, flat: Tensor) -> Tensor:
        features = super().features(flat)
        return features - features.mean(0)


class ReadsPadding(Flat):
    def forward(self, instance: Any) -> Any:
        return self.projector({"instance": self.features(instance.values)})


class ReadsHalf(Flat):
    def features(self, flat: Tensor) -> Tensor:
        return super().features(torch.cat([flat[:, :3], torch.zeros_like(flat[:, 3:])], 1))


class HidesTheRest:
    """A masker of the entries that `ReadsHalf` does not read."""

    def __call__(self, instance: Tensor, *, generator: Any = None) -> Views[Any, Any]:
        return Views(instance.index_fill(1, torch.arange(3, 6), 0.0), instance)


@pytest.mark.parametrize(
    ("encoder", "instance", "sentence"),
    [
        (NoDictionary, FLAT, "returns a Tensor, but must return stream -> embeddings"),
        (PerNode, FLAT, "'instance' has 30 embeddings, but the batch has 5 of 'instance'"),
        (Unflattened, FLAT, r"'instance' is torch.float32 \[1, 5, 16\], but must be floats \[items, dim\]"),
        (Infinite, FLAT, "embeddings that are infinite or NaN"),
        (Deaf, FLAT, "all 5 embeddings of stream 'instance' are equal"),
        (Restless, FLAT, "two passes over one batch differ, so a teacher"),
        (Uncopyable, FLAT, "cannot be copied, so EMATeacher cannot follow it: TypeError"),
        (Closure, FLAT, "calls a model captured in a closure"),
        (BatchSize, FLAT, "only the encoder's projector has weights that learn"),
        (Shared, FLAT, "shares weights with it"),
        (Detached, FLAT, "no gradient reaches the trunk"),
        (WithoutGradient, FLAT, "no gradient reaches the trunk"),
        (Positional, FLAT, "depends on the order of the instances in the batch"),
        (OverTheBatch, FLAT, "an instance has other embeddings alone than in a batch"),
        (ReadsPadding, PADDED, "depends on what stands in the padding"),
    ],
)
def test_a_planted_fault_is_found(encoder: type[Flat], instance: Any, sentence: str):
    with pytest.raises(AssertionError, match=sentence):
        check_encoder(encoder(), instance)


def test_half_of_a_model_outside_the_encoder_is_found_and_left_alone():
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16))
    encoder = ModelEncoder(model, {"instance": 16}, 4, run=lambda own, flat: model[1](own[0](flat)))
    with pytest.raises(AssertionError, match="depend on weights that are not the encoder's"):
        check_encoder(encoder, FLAT)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_batch_that_is_written_to_is_found():
    class Writes(Flat):
        def features(self, flat: Tensor) -> Tensor:
            return super().features(flat.clamp_(-1, 1))

    with pytest.raises(AssertionError, match="writes to its input batch"):
        check_encoder(Writes(), FLAT.clone())


def test_faults_are_found_in_half_precision_too():
    with pytest.raises(AssertionError, match="alone than in a batch"):
        check_encoder(OverTheBatch().bfloat16(), FLAT.bfloat16())
    check_encoder(Flat().bfloat16(), FLAT.bfloat16())


def test_padding_that_is_no_number_is_not_looked_at():
    class Padded(Flat):
        def forward(self, instance: Any) -> Any:
            z = super().forward(instance)["instance"]
            rows = torch.arange(len(z))
            valid = rows < max(len(z) - 1, 1)
            return Encoded({"row": z.where(valid.unsqueeze(1), torch.nan)}, valid={"row": valid})

    with pytest.raises(AssertionError) as raised:
        check_encoder(Padded(), FLAT)
    assert "infinite" not in str(raised.value)


def test_a_trunk_that_is_named_has_to_be_reached_everywhere():
    encoder = Halfway()
    check_encoder(encoder, FLAT)
    with pytest.raises(AssertionError, match=r"no gradient reaches \['trunk.1.bias', 'trunk.1.weight'\]"):
        check_encoder(encoder, FLAT, trunk=encoder.trunk)
    with pytest.raises(AssertionError, match="the trunk is not a submodule of the encoder"):
        check_encoder(encoder, FLAT, trunk=nn.Linear(2, 2))


class WithHead(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(16, 1), nn.BatchNorm1d(16, affine=False)


def test_a_trunk_that_is_a_head_or_has_no_weights_is_named():
    encoder = WithHead()
    with pytest.raises(
        AssertionError, match=r"\['head.bias', 'head.weight'\].* computed before this Linear, which may be a head"
    ):
        check_encoder(encoder, FLAT, trunk=encoder.head)
    with pytest.raises(
        AssertionError, match=r"the trunk is a BatchNorm1d without weights that learn.*name the submodule"
    ):
        check_encoder(encoder, FLAT, trunk=encoder.norm)


def test_an_encoder_of_several_arguments_is_named():
    class Several(Flat):
        def forward(self, rows: Tensor, columns: Tensor) -> Any:  # pyright: ignore
            return super().forward(rows + columns)

    function: Any = lambda rows, columns: {"instance": rows}  # noqa: E731
    for encoder in (Several(), nn.DataParallel(Several()), function):
        with pytest.raises(
            AssertionError, match=r"takes \(rows, columns\).*run=lambda model, instance: model\(\.\.\.\)"
        ):
            check_encoder(encoder, FLAT)


def one_place_too_many(flat: Tensor) -> Any:
    return {"the order": (flat.flip(0), {"instance": torch.arange(6)})}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"encoder": None}, "the encoder is None, but must be a module or a function"),
        ({"instance": FLAT[:0]}, "the batch is empty"),
        ({"trunk": "projector"}, "the trunk is the encoder's projector, which JEPA adds"),
        ({"rewritten": (FLAT, {})}, r"rewritten is a tuple.*rewritten=\{'the order': in_another_order\(batch\)\}"),
        (
            {"rewritten": {"it": (FLAT, {"node": torch.arange(5)})}},
            r"it: the items belong to \['node'\], .*\['instance'\]",
        ),
        (
            {"rewritten": one_place_too_many(FLAT)},
            "has 5 embeddings, and 5 where the order is different, but rewritten gives 6 places",
        ),
    ],
)
def test_arguments_with_which_nothing_could_be_found_are_named(arguments: dict[str, Any], sentence: str):
    encoder = Flat()
    if "trunk" in arguments:
        arguments = {"trunk": encoder.projector}
    with pytest.raises(AssertionError, match=sentence):
        check_encoder(**{"encoder": encoder, "instance": FLAT, **arguments})


def test_views_that_hide_what_is_not_read_are_found():
    check_encoder(ReadsHalf(), FLAT, views=EntryMasker(0.8))
    with pytest.raises(AssertionError, match=r"none of the 5 embeddings to predict changes.*hide nothing"):
        check_encoder(ReadsHalf(), FLAT, views=HidesTheRest())


class Swapped(Graph):
    """Reads the graph's nodes by their number."""

    def forward(self, g: BipartiteGraph) -> Any:
        z = super().forward(g)
        places = torch.arange(len(z["variable"])) - g.offsets("variable")[g.graph_of("variable")]
        return {**z, "variable": z["variable"] + places.unsqueeze(1)}


class CountsEdges(Graph):
    """Reads the graph's edges by their number."""

    def forward(self, g: BipartiteGraph) -> Any:
        z = super().forward(g)
        number = torch.arange(g.edge_index.size(1), dtype=torch.float32)
        read = torch.zeros(len(z["constraint"])).index_add(0, g.edge_index[0], number)
        return {**z, "constraint": z["constraint"] + read.unsqueeze(1)}


class Pooled(Graph):
    """One embedding a graph, under the name of a node stream."""

    def forward(self, g: BipartiteGraph) -> Any:
        z = super().forward(g)["variable"]
        return {"variable": torch.zeros(g.num_graphs, 8).index_add(0, g.graph_of("variable"), z)}


class Featureless(Graph):
    """Sees variables by their coefficients alone."""

    def forward(self, g: BipartiteGraph) -> Any:
        z = super().forward(g)
        degree = torch.zeros(len(z["variable"]), 8).index_add(0, g.edge_index[1], g.edge_attr.expand(-1, 8))
        return {**z, "variable": self.message(degree)}


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (Swapped, "'variable' depends on the order of the nodes and edges in a graph"),
        (CountsEdges, "'constraint' depends on the order of the nodes and edges in a graph"),
        (
            Pooled,
            "'variable' has 3 embeddings, but the batch has 3 of 'instance', 10 of 'constraint', 12 of 'variable'",
        ),
        (Featureless, "'variable': none of the .* embeddings to predict changes"),
    ],
)
def test_a_planted_fault_on_graphs_is_found(encoder: type[Graph], sentence: str):
    with pytest.raises(AssertionError, match=sentence):
        check_encoder(encoder(), GRAPH, views=NodeMasker(0.4))


def test_streams_that_are_hidden_and_not_encoded_are_found():
    class Constraints(Graph):
        def forward(self, g: BipartiteGraph) -> Any:
            return {"constraint": super().forward(g)["constraint"]}

    with pytest.raises(
        AssertionError, match=r"hide items of stream 'variable', but the encoder returns \['constraint'\]"
    ):
        check_encoder(Constraints(), GRAPH, views=NodeMasker(0.4))


def test_a_batch_of_another_type_is_written_otherwise_by_the_user():
    class OfDictionaries(Flat):
        def forward(self, instance: Any) -> Any:
            return Encoded(super().forward(instance["values"]))

    class AndPositions(OfDictionaries):
        def features(self, flat: Tensor) -> Tensor:
            return Positional.features(self, flat)  # pyright: ignore

    rewritten: Mapping[str, Any] = {
        "the order of the rows": ({"values": FLAT.flip(0)}, {"instance": torch.arange(5).flip(0)})
    }
    check_encoder(OfDictionaries(), {"values": FLAT}, rewritten=rewritten)
    AndPositions.features = lambda self, flat: self.trunk(flat) + 0.1 * torch.arange(len(flat)).unsqueeze(1)
    with pytest.raises(AssertionError, match="'instance' depends on the order of the rows"):
        check_encoder(AndPositions(), {"values": FLAT}, rewritten=rewritten)


def test_all_faults_are_said_at_once():
    class Many(Positional, Detached):
        pass

    with pytest.raises(AssertionError) as raised:
        check_encoder(Many(), FLAT)
    assert len(str(raised.value).splitlines()) == 2


def test_a_model_that_is_wired_by_hooks_passes():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    encoder = ModelEncoder(model, {"instance": 16}, 8, captured={"instance": "1"})
    check_encoder(encoder, FLAT, views=EntryMasker(0.5), trunk=model[0])
