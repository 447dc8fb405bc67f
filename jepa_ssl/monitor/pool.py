"""The latest items of a stream, kept on their device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.checks import describe
from jepa_ssl.protocols import JEPALoss

Parts = dict[str, Tensor]
"""Tensors of the same items: "embedding" and, if there are any, "feature", "valid", "prediction" and "target"."""


class Pool:
    """The latest `items` items of a stream, from as many batches as needed."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.batches: list[Parts] = []
        self.size = 0  # number of items in all batches
        self.is_fresh = False  # whether some items were not measured yet

    @property
    def is_full(self) -> bool:
        return self.size >= self.items

    def add(self, parts: Mapping[str, Tensor]) -> None:
        rows = min(parts["embedding"].size(0), self.items)
        if not rows:
            return  # the stream has no items in this batch
        self.batches.append(self._some(parts))
        self.size += rows
        self.is_fresh = True
        while self.size - self.batches[0]["embedding"].size(0) >= self.items:
            self.size -= self.batches.pop(0)["embedding"].size(0)

    def _some(self, parts: Mapping[str, Tensor]) -> Parts:
        """Copy at most `items` rows, evenly spaced over the real ones. A view would keep a large batch alive."""
        rows, valid = len(parts["embedding"]), parts.get("valid")
        if valid is None and rows <= self.items:
            return {part: z.detach().clone() for part, z in parts.items()}
        place = torch.arange(min(rows, self.items), device=parts["embedding"].device)
        if valid is None:
            chosen = place * rows // self.items
            return {part: z.detach().index_select(0, chosen) for part, z in parts.items()}
        up_to = valid.cumsum(0)
        real = valid.sum()
        nth = torch.where(real >= len(place), place * real // max(len(place), 1), place)
        chosen = torch.searchsorted(up_to, nth + 1).clamp(max=rows - 1)
        # If there are fewer real items than places, the last places hold padding.
        return {part: z.detach().index_select(0, chosen) for part, z in parts.items()} | {"valid": place < real}

    def latest(self) -> Parts:
        """Return the parts that all batches have, each `[items, *]`."""
        newest = self.batches[-1]
        device = newest["embedding"].device  # a resumed state may be on another device
        shared = [part for part in newest if all(part in batch for batch in self.batches)]
        return {part: torch.cat([batch[part].to(device) for batch in self.batches])[-self.items :] for part in shared}

    def state(self) -> dict[str, Any]:
        """Return the state, with at most `items` items: the oldest batch is cut to those that count."""
        first = {part: z[max(self.size - self.items, 0) :] for part, z in self.batches[0].items()}
        return {"batches": [first, *self.batches[1:]], "is_fresh": self.is_fresh}

    def restored(self, state: Mapping[str, Any]) -> "Pool":
        """Load a saved state and return this pool."""
        self.batches, self.is_fresh = list(state["batches"]), state["is_fresh"]
        self.size = sum(len(batch["embedding"]) for batch in self.batches)
        return self


def parts_of(loss: JEPALoss, stream: str) -> Parts:
    """Extract the parts of a stream from a loss.

    Raises:
        ValueError: the embeddings are not `[items, dim]`.
    """
    embedding = loss.context.embeddings[stream]
    if embedding.ndim != 2:
        raise ValueError(
            f"loss.context.embeddings[{stream!r}] is {describe(embedding)}, but must be [items, dim]; give one row for "
            f"each item."
        )
    parts = {
        "embedding": embedding,
        "feature": loss.context.features.get(stream),
        "valid": loss.context.valid.get(stream),
        "prediction": loss.predictions.get(stream),
        "target": loss.targets.get(stream),
    }
    # If views add or drop items, predictions and targets are of other items.
    return {part: z for part, z in parts.items() if z is not None and z.shape[:1] == embedding.shape[:1]}
