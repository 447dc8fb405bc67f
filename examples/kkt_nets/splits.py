"""The LPs of a run: generated at first use into a cache, or read from files."""

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from atomic import writable_folder
from generators import instances
from lp import LP, read_lp, ruiz
from shards import VERSION, ShardedLPs, write_shards
from tqdm import tqdm

SPLITS = ("train", "val", "test")
RECIPE = 1  # raise it when the generators change what they make, so that no stale cache is read


def open_split(args: Namespace, split: str) -> Sequence[LP]:
    """The LPs of `"train"`, `"val"` or `"test"`, rescaled as the run asks.

    Generated LPs are made once, into a folder of `--data_root` named after all that determines them. Of `--lp_files`
    every fifth is kept for validation; fewer than five are used for all. Testing takes all of them.

    Raises:
        ValueError: `--lp_files` names a file twice, or one that holds no LP to learn from.
        OSError: `--data_root` cannot be written to, or a file cannot be read.
    """
    if args.lp_files:
        return _files(args, split)
    families, count = list(args.problems), getattr(args, f"{split}_instances")
    sizes = {family: list(getattr(args, f"{family}_size")) for family in families}
    seed = len(SPLITS) * args.data_seed + SPLITS.index(split)
    recipe = {"recipe": [RECIPE, VERSION], "sizes": sizes, "count": count, "seed": seed, "ruiz": args.ruiz_iterations}
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    root = Path(args.data_root).expanduser()
    folder = root / f"{split}-{count}-{digest}"
    if not (folder / "index.json").exists():
        writable_folder(root, "--data_root")
        generated = instances(families, sizes, count, seed)
        bar = tqdm(generated, total=count, desc=f"generating {split} LPs", unit="LP")
        with bar, suppress(FileExistsError):  # another run has just finished the same
            write_shards((ruiz(lp, args.ruiz_iterations) for lp in bar), folder)
    return ShardedLPs(folder)


def _files(args: Namespace, split: str) -> list[LP]:
    paths = sorted(args.lp_files)
    resolved = [Path(path).resolve() for path in paths]
    for path, file in zip(paths, resolved, strict=True):
        if resolved.count(file) > 1:
            raise ValueError(f"--lp_files names {path} twice; name each file once.")
    if split != "test" and len(paths) >= 5:
        paths = [path for i, path in enumerate(paths) if (i % 5 == 4) == (split == "val")]
    elif split == "val":
        print("--lp_files names fewer than five files: validation uses the training LPs.", file=sys.stderr)
    with tqdm(paths, desc=f"reading {split} LPs", unit="LP") as bar:
        return [_read(path, args.ruiz_iterations) for path in bar]


@cache  # for the splits of a run share files, and each is solved as it is read
def _read(path: str, iterations: int) -> LP:
    return ruiz(read_lp(path), iterations)
