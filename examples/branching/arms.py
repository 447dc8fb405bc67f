"""The data of one family, and what is compared on it: features of candidates, and rules that need no label."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_ssl.evaluation import (
    Features,
    Report,
    Supervised,
    Task,
    Trained,
    embed,
    label_curve,
    probe,
    standard_controls,
)

from .collect import Tree, stored, trees
from .pretraining import PRETRAINED
from .trunk import Candidates, NodeBatch, Nodes, Rule, Scaling, Trunk

HAND, RANDOM = "hand features", "random trunk"
NO_LABEL, RANDOM_LOG = "no label", "no label, random log"


@dataclass(frozen=True)
class Scale:
    """How much of everything. `size` is that of the instances, by family."""

    size: dict[str, int]
    unlabelled: int  # trees
    pool: int
    test: int
    nodes: int  # per tree
    labels: int  # labelled nodes per tree
    counts: tuple[int, ...]
    seeds: int
    steps: int  # of pretraining
    cap: int  # steps from scratch
    solved: int  # instances that SCIP solves with each rule
    logged: int = 1500  # branchings that the rules without labels learn from


SCALES = {
    "full": Scale({"setcover": 80, "auction": 50}, 80, 40, 18, 60, 12, (1, 4, 16, 64, 200), 5, 200, 2000, 8),
    "small": Scale({"setcover": 50, "auction": 40}, 3, 4, 4, 12, 4, (1, 4), 1, 4, 20, 1, 200),
}


class Labelled:
    """The labelled nodes of some trees: their candidates with strong-branching scores."""

    def __init__(self, found: list[Tree], nodes: Nodes) -> None:
        self.all, self.nodes, self.columns, self.scores = nodes, [], [], []
        for t, tree in enumerate(found):
            for node in np.unique(tree.labelled):
                here = tree.labelled == node
                self.nodes.append(int(nodes.first[t] + node))
                self.columns.append(tree.candidates[here])
                self.scores.append(torch.from_numpy(tree.scores[here]))

    def take(self, ids: Tensor) -> NodeBatch:
        some = ids.tolist()
        return self.all.batch([self.nodes[i] for i in some], [self.columns[i] for i in some])


class Study:
    """One family: its trees, collected or read from the folder, and the comparison on them."""

    def __init__(self, family: str, scale: Scale, folder: Path) -> None:
        self.family, self.scale, self.folder = family, scale, folder
        every, size = max(1, scale.nodes // scale.labels), scale.size[family]
        asked = {"unlabelled": (0, 0), "pool": (every, scale.labels), "test": (every, scale.labels)}
        there, nodes = folder / "trees", scale.nodes
        found = {
            role: trees(there, family, role, size, getattr(scale, role), nodes=nodes, every=e, labels=n)
            for role, (e, n) in asked.items()
        }
        self.scaling = Scaling.of(found["unlabelled"])
        self.log = Nodes(found["unlabelled"], self.scaling)
        explored = trees(there, family, "unlabelled", size, scale.unlabelled, nodes=nodes, rule="random")
        self.logs = {NO_LABEL: self.log, RANDOM_LOG: Nodes(explored, self.scaling)}
        both = found["pool"] + found["test"]
        self.labelled = Labelled(both, Nodes(both, self.scaling))
        in_pool = sum(len(np.unique(tree.labelled)) for tree in found["pool"])
        sizes = torch.tensor([len(scores) for scores in self.labelled.scores])
        groups = torch.arange(len(sizes)).repeat_interleave(sizes)
        test = torch.arange(in_pool, len(sizes))  # of other instances than the pool
        self.task = Task(torch.cat(self.labelled.scores), groups, metric="top1", test=test)

    @cached_property
    def data(self) -> str:
        """A digest of the log and of how it is used, on which everything that is pretrained depends."""
        found = hashlib.sha256(f"{self.scale.steps} {self.scale.logged}".encode())
        for tree in self.log.trees:
            found.update(tree.bounds.tobytes() + tree.branchings.tobytes())
        return found.hexdigest()[:16]

    def encoder(self, name: str, seed: int) -> Callable[[NodeBatch], Tensor]:
        """What makes the features of candidates."""
        if name == HAND:
            return lambda batch: batch.graph.variable_features[batch.columns]
        torch.manual_seed(seed)
        trunk = Trunk()
        if name != RANDOM:
            path = self.folder / "trunks" / f"{self.family}-{name.replace(' ', '-')}-{seed}-{self.data}.npz"
            train = PRETRAINED[name]
            weights = stored(path, lambda: {k: v.numpy() for k, v in train(self, trunk, seed).state_dict().items()})
            trunk.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
        return Candidates(trunk)

    def features(self, name: str) -> Callable[[int], Tensor]:
        return lambda seed: embed(
            self.encoder(name, seed), map(self.labelled.take, torch.arange(self.task.instances).split(64))
        )

    def gain_rule(self, arm: str, seed: int) -> Rule:
        """A rule without any label: ridge from features to the logged gains, down and up; and its encoder."""
        which, name = arm.split(": ")
        log = self.logs[which]
        listed, gains = log.branchings
        order = torch.randperm(len(gains), generator=torch.Generator().manual_seed(seed))[: self.scale.logged]
        encoder, some = self.encoder(name, seed), listed[order.numpy()]
        z = embed(encoder, [log.branched(some[i : i + 64]) for i in range(0, len(some), 64)])
        up, known = torch.from_numpy(some[:, 3]) == 1, gains[order]
        fitted = [probe(z[side], known[side]) for side in (~up, up)]
        least = 1e-3 * float(known.mean())

        def score(features: Tensor) -> Tensor:
            down, upward = (ridge(features).clamp(min=least) for ridge in fitted)
            return (down * upward).sqrt()

        return encoder, score

    def label_rule(self, name: str, seed: int, count: int) -> Rule:
        """The rule that the probe learns from `count` labelled nodes, and its encoder."""
        items = self.task.items(self.task.split(count, seed).labelled)
        z = self.features(name)(seed)[items]
        return self.encoder(name, seed), probe(z, self.task.labels[items], self.task.owner[items])

    def without_labels(self, arm: str) -> Trained:
        @cache  # the same for all numbers of labels
        def predict(seed: int) -> Tensor:
            encoder, score = self.gain_rule(arm, seed)
            return score(embed(encoder, map(self.labelled.take, self.task.test_instances.split(64))))

        return Trained(lambda split: predict(split.seed), ["gains", arm, self.data])

    def report(self) -> Report:
        arms: dict[str, Any] = {name: Features(self.features(name), [name, self.data]) for name in PRETRAINED}
        free = [f"{NO_LABEL}: {name}" for name in (HAND, RANDOM, *PRETRAINED)]
        free += [f"{RANDOM_LOG}: {name}" for name in (HAND, RANDOM)]
        arms |= {arm: self.without_labels(arm) for arm in free}
        take, cap = self.labelled.take, self.scale.cap
        scratch = Supervised(lambda: Candidates(Trunk()), take, lr=2e-3, batch_size=8, patience=5, cap=cap)
        raw = self.features(HAND)(0)
        controls = standard_controls(self.task, lambda: Candidates(Trunk()), take, raw, scratch=scratch)
        counts = [count for count in self.scale.counts if count <= len(self.task.pool)]
        folder = self.folder / "pieces" / self.family
        report = label_curve(self.task, arms, controls, label_counts=counts, seeds=self.scale.seeds, folder=folder)
        return replace(report, metric="top-1 accuracy")
