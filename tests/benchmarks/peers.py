"""Teacher, regularisers and masks beside the same parts of other libraries, in one run on one thread.

    python -m tests.benchmarks.peers

prints a table in Markdown. A library that is not installed is left out, and a line says so. Install them in an
environment of their own, because some of them bring their own torch:

    pip install pytest timm ema-pytorch lightly torch_geometric loguru
    pip install --no-deps stable-pretraining
"""

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from benchmarks.test_mask_costs import graphs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from jepa_ssl import EMATeacher, EntryMasker, NodeMasker, SIGReg, VICReg

MOMENTUM, DIM, SLICES = 0.996, 64, 128
Way = Callable[[], object]
Row = tuple[str, str, Callable[[], tuple[Way, Way]]]
"""What is measured, the peer, and a function that makes ours and theirs; it raises an ImportError without the peer."""


def loaded(name: str) -> Any:
    """A module, without the `__init__` of the packages around it: some import torchvision, which may not fit torch."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        path = ".".join(parts[:i])
        if path not in sys.modules:
            found = importlib.util.find_spec(path)
            if found is None:
                raise ModuleNotFoundError(f"{path} is not installed")
            bare = sys.modules[path] = ModuleType(path)
            bare.__path__ = list(found.submodule_search_locations or [])
    return importlib.import_module(name)


# Each updates its average once, buffers included.


def timm_update(model: nn.Module) -> Way:
    return partial(loaded("timm.utils.model_ema").ModelEmaV3(model, MOMENTUM).update, model)


def ema_pytorch_update(model: nn.Module) -> Way:
    library = importlib.import_module("ema_pytorch")
    return library.EMA(model, beta=MOMENTUM, update_after_step=0, update_every=1, use_foreach=True).update


def torch_update(model: nn.Module) -> Way:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(MOMENTUM), use_buffers=True)
    return partial(average.update_parameters, model)


def teacher_rows() -> Iterator[Row]:
    normed = [part for _ in range(16) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64))]
    models = {
        "EMA, MLP of 0.7M weights": nn.Sequential(nn.Linear(2600, 256), nn.Linear(256, 256), nn.Linear(256, 64)),
        "EMA, 72 small tensors": nn.Sequential(*(nn.Linear(46, 46) for _ in range(36))),
        "EMA, 16 layers with BatchNorm": nn.Sequential(*normed),
    }
    peers = {"timm": timm_update, "ema-pytorch": ema_pytorch_update, "torch, `AveragedModel`": torch_update}

    def pair(model: nn.Module, peer: Callable[[nn.Module], Way]) -> tuple[Way, Way]:
        return after_a_step(partial(EMATeacher(model, MOMENTUM).update, model), model), after_a_step(peer(model), model)

    for what, model in models.items():
        for name, peer in peers.items():
            yield what, name, partial(pair, model, peer)


def after_a_step(update: Way, model: nn.Module) -> Way:
    """An update behind a write to all weights, for a teacher may notice that there was none."""

    def run() -> None:
        with torch.no_grad():
            torch._foreach_mul_(list(model.parameters()), 1.0)  # pyright: ignore
        update()

    return run


def lightly_vicreg() -> Callable[[Tensor], Tensor]:
    peer = loaded("lightly.loss.vicreg_loss")
    return lambda z: peer.variance_loss(z) + 0.04 * peer.covariance_loss(z)


def stable_vicreg() -> Callable[[Tensor], Tensor]:
    package = sys.modules.setdefault("stable_pretraining.utils", ModuleType("stable_pretraining.utils"))
    vars(package)["all_gather"] = lambda z: (z,)  # as on one process
    return loaded("stable_pretraining.losses.utils").VCRegLoss(2.0, 0.04)  # it halves the variance term


def lightly_sigreg() -> Callable[[Tensor], Tensor]:
    return loaded("lightly.loss.lejepa_loss").SIGReg(num_vectors=SLICES)


def regularizer_rows() -> Iterator[Row]:
    def pair(ours: VICReg | SIGReg, peer: Callable[[], Callable[[Tensor], Tensor]], items: int) -> tuple[Way, Way]:
        z = torch.randn(items, DIM, requires_grad=True)
        theirs = peer()

        def backward(loss: Callable[[Tensor], Tensor]) -> None:
            z.grad = None
            loss(z).backward()

        def our_loss(z: Tensor) -> Tensor:
            return ours({"": z}, valid={})

        if isinstance(ours, VICReg):  # the directions of SIGReg are random
            torch.testing.assert_close(theirs(z), our_loss(z))
        return partial(backward, our_loss), partial(backward, theirs)

    for items in (256, 2560):
        yield f"VICReg, {items:,} items", "lightly", partial(pair, VICReg(), lightly_vicreg, items)
        yield f"VICReg, {items:,} items", "stable-pretraining", partial(pair, VICReg(), stable_vicreg, items)
        yield f"SIGReg, {items:,} items", "lightly", partial(pair, SIGReg(SLICES, items), lightly_sigreg, items)
    yield "SIGReg, 2,560 items, 256 of them drawn", "lightly", partial(pair, SIGReg(SLICES), lightly_sigreg, 2560)


def mask_rows() -> Iterator[Row]:
    values, graph = torch.randn(256, 2600), graphs(10**5, 50)
    features = graph.constraint_features, graph.variable_features
    one_kind = graph.edge_index + torch.tensor([[0], [len(features[0])]])  # both kinds numbered in one row
    nodes = sum(map(len, features))

    def entries() -> tuple[Way, Way]:
        peer, masker = importlib.import_module("torch_geometric.utils").mask_feature, EntryMasker(0.5)
        return partial(masker, values), partial(peer, values, 0.5, mode="all")

    def whole_nodes() -> tuple[Way, Way]:
        peer, masker = importlib.import_module("torch_geometric.utils").mask_feature, NodeMasker(0.3)
        return partial(masker, graph), lambda: [peer(x, 0.3, mode="row") for x in features]

    def nodes_and_edges() -> tuple[Way, Way]:
        peer, masker = importlib.import_module("torch_geometric.utils").dropout_node, NodeMasker(0.3, hide_edges=True)
        return partial(masker, graph), partial(peer, one_kind, 0.3, num_nodes=nodes)

    yield "masks, 256 x 2,600 entries", "PyG, `mask_feature`", entries
    yield f"masks, {nodes:,} nodes of 100 graphs", "PyG, `mask_feature`", whole_nodes
    yield f"the same, and their share of {10**5:,} edges", "PyG, `dropout_node`", nodes_and_edges


def compared(ours: Way, theirs: Way, rounds: int = 150) -> tuple[float, float]:
    """The medians of our milliseconds and of the ratio of their time to ours, measured in turns."""
    found: list[tuple[float, float]] = []
    for i in range(rounds + 5):
        times = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[which]()
            times[which] = time.perf_counter() - start
        found.append((1e3 * times[0], times[1] / times[0]))
    return statistics.median(ours for ours, _ in found[5:]), statistics.median(ratio for _, ratio in found[5:])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| part | ours, ms | peer | its time relative to ours |\n|---|---:|---|---:|")
    missing: list[str] = []
    for rows in (teacher_rows, regularizer_rows, mask_rows):
        for what, peer, make in rows():
            try:
                ours, theirs = make()
            except ImportError as error:
                missing.append(f"\nLeft out: {what}, {peer}: {error}.")
                continue
            milliseconds, ratio = compared(ours, theirs)
            print(f"| {what} | {milliseconds:.2f} | {peer} | {ratio:.2f} |", flush=True)
    print("".join(missing))


if __name__ == "__main__":
    main()
