"""Damaged files: whatever is cut off, flipped or zeroed, a file gives the values it had, or is refused by its name.

The tests take a sample; run this file with `--flips 1000 --every-truncation` to take all, and count.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples/kkt_nets"))

from data.generators import instances
from data.scaling import ruiz
from data.store import StoredLPs, write_lps
from loop import checkpoints
from runs import TINY, differences
from stored_lps import assert_same

from jepa_ssl.integrations.export import export_encoder, load_encoder

Check = Callable[[], None]  # raises ValueError if the file is refused, AssertionError if it gives other values
ZEROED = 512  # bytes, as of a sector that was never written


def checkpoint(folder: Path, run_training: Callable[..., Any]) -> tuple[Path, Check]:
    """Of a run with a teacher. No damaged one gets as far as torch's reader."""
    run_training("--use_jepa", "--epochs", 1, "--output_dir", folder)
    path = folder / "last.pt"
    expected, whole = checkpoints.load(path), path.read_bytes()

    def check() -> None:
        with patch.object(torch, "load", wraps=torch.load) as reader:
            try:
                assert not differences(checkpoints.load(path), expected)
            finally:
                assert not reader.called or path.read_bytes() == whole

    return path, check


def store(folder: Path) -> tuple[Path, Check]:
    """Of LPs, read through. Those that can be read are what they were, if others are damaged."""
    lps = [ruiz(lp) for lp in instances(["set_cover", "random"], {"set_cover": [3, 5], "random": [4, 3]}, 6, seed=0)]
    path = folder / "some.lps"
    write_lps(lps, path)

    def check() -> None:
        refusal = None
        read = StoredLPs(path)
        assert len(read) == len(lps)
        for i, lp in enumerate(lps):
            try:
                assert_same(read[i], lp)
            except ValueError as error:
                refusal = error
        if refusal:
            raise refusal

    return path, check


def encoder(folder: Path) -> tuple[Path, Check]:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, dtype=torch.bfloat16))

    exported, path, metadata = build(), folder / "encoder.safetensors", {"sizes": [3, 4], "lr": 1e-3}
    export_encoder(exported, path, metadata)

    def check() -> None:
        loaded = build()
        assert load_encoder(loaded, path) == metadata
        assert not differences(dict(loaded.state_dict()), dict(exported.state_dict()))

    return path, check


FILES = {
    "checkpoint": checkpoint,
    "store": lambda folder, _: store(folder),
    "encoder": lambda folder, _: encoder(folder),
}


def damages(whole: bytes, flips: int, truncations: range, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(seed)
    for length in truncations:
        yield "truncated", whole[:length]
    for _ in range(flips):
        at = rng.randrange(len(whole))
        yield "flipped", whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]
    for start in range(0, len(whole), ZEROED):
        part = whole[start : start + ZEROED]
        if any(part):
            yield "zeroed", whole[:start] + bytes(len(part)) + whole[start + len(part) :]
    yield "longer", whole + b"\0"
    yield "longer", whole + whole


def outcomes(path: Path, check: Check, flips: int, stride: int) -> tuple[Counter[str], float]:
    """How many were refused and how many gave the same, by kind of damage, and the longest it took."""
    check()
    whole, found, longest = path.read_bytes(), Counter[str](), 0.0
    for kind, content in damages(whole, flips, range(0, len(whole), stride)):
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            check()
            found[f"{kind}, the same"] += 1
        except ValueError as error:
            if str(path) not in str(error):
                raise
            found[f"{kind}, refused"] += 1
        longest = max(longest, time.perf_counter() - start)
    path.write_bytes(whole)
    check()
    return found, longest


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_gives_what_it_held_or_is_refused_by_name(tmp_path, run_training, kind):
    path, check = FILES[kind](tmp_path, run_training)
    found, _ = outcomes(path, check, flips=60, stride=max(path.stat().st_size // 60, 1))
    assert found["truncated, refused"] >= 60
    assert found["flipped, refused"] >= 40
    assert found["truncated, the same"] == found["zeroed, the same"] == 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--every-truncation", action="store_true")
    args = parser.parse_args()
    import train

    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "disabled"
    for kind, make in FILES.items():
        with tempfile.TemporaryDirectory() as name:
            flags = [*TINY, "--data_root", name]
            path, check = make(Path(name), lambda *more, flags=flags: train.main([*flags, *map(str, more)]))
            size, before = path.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found, longest = outcomes(path, check, args.flips, 1 if args.every_truncation else max(size // 60, 1))
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            counts = ", ".join(f"{count} {what}" for what, count in sorted(found.items()))
            print(f"{kind} of {size} bytes: {counts}; at most {longest:.3f} s each, memory grew by {grown} KiB")


if __name__ == "__main__":
    main()
