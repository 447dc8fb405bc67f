"""The measures of all streams at one step: computed on the device, read later on the host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_ssl.diagnostics import prediction_cosine, rank_of_gram, spread_cosine_gram, teacher_distance
from jepa_ssl.monitor.pool import Parts, Pool

GENERAL = "\0"  # in place of a stream's name, for measures of all streams; no stream may have this name


@dataclass
class Measurement:
    """The measures of a step, on their way to the host."""

    step: int
    names: list[tuple[str, str]]  # stream and measure
    values: Tensor  # [names]
    grams: dict[tuple[str, str], Tensor]  # the ranks are computed from these on the host, without waiting for a GPU
    copied: torch.cuda.Event | None = None  # recorded after the copies to the host

    @staticmethod
    def of(step: int, pools: Mapping[str, Pool], general: Mapping[str, Tensor]) -> "Measurement":
        scalars = {(GENERAL, name): value for name, value in general.items()}
        grams: dict[tuple[str, str], Tensor] = {}
        for stream, pool in pools.items():
            measures, products = _measures(pool.latest())
            scalars |= {(stream, name): value for name, value in measures.items()}
            grams |= {(stream, name): value for name, value in products.items()}
        device = general["loss"].device  # a resumed state may be on another device
        values = torch.stack([value.to(device, torch.float32) for value in scalars.values()])
        on_host = {name: g.to("cpu", non_blocking=True) for name, g in grams.items()}
        measured = Measurement(step, list(scalars), values.to("cpu", non_blocking=True), on_host)
        if values.is_cuda:
            measured.copied = torch.cuda.Event()
            measured.copied.record(torch.cuda.current_stream(values.device))
        return measured

    def read(self, items: int) -> dict[str, dict[str, float]]:
        """Return stream -> measure -> value, with the ranks of `items` items; `GENERAL` is one of the streams."""
        self.wait()
        streams: dict[str, dict[str, float]] = {}
        values: list[float] = self.values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        for (stream, name), value in zip(self.names, values, strict=True):
            streams.setdefault(stream, {})[name] = value
        for size in {products.size(0) for products in self.grams.values()}:
            alike = {name: products for name, products in self.grams.items() if products.size(0) == size}
            ranks: list[float] = rank_of_gram(torch.stack([*alike.values()]), items).tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            for (stream, name), rank in zip(alike, ranks, strict=True):
                streams[stream][name] = rank
        return streams

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def state(self) -> dict[str, Any]:
        self.wait()
        grams = [[*name, products] for name, products in self.grams.items()]
        return {"step": self.step, "names": self.names, "values": self.values, "grams": grams}

    @staticmethod
    def restored(state: Mapping[str, Any]) -> "Measurement":
        names = [(stream, measure) for stream, measure in state["names"]]
        grams = {(stream, measure): products for stream, measure, products in state["grams"]}
        return Measurement(state["step"], names, state["values"], grams)


def _measures(z: Parts) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the scalar measures of a stream's items, and the Gram matrices for its ranks."""
    valid = z.get("valid")
    scalars: dict[str, Tensor] = {}
    grams: dict[str, Tensor] = {}
    for part, prefix in (("embedding", ""), ("feature", "feature_")):
        if part in z:
            found = spread_cosine_gram(z[part], valid)
            scalars[prefix + "spread"], scalars[prefix + "mean_cosine"], grams[prefix + "rank"] = found
    if "prediction" in z and "target" in z:
        scalars["prediction_cosine"] = prediction_cosine(z["prediction"], z["target"], valid)
        if z["target"].shape == z["embedding"].shape:
            scalars["teacher_distance"] = teacher_distance(z["embedding"], z["target"], valid)
    return scalars, grams
