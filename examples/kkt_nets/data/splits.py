"""The LPs of a run: generated at first use into a cache, or read from files."""

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from data.generators import instances
from data.lp import LP
from data.readers import read_lp
from data.scaling import ruiz
from data.store import FORMAT, StoredLPs, write_lps
from tqdm import tqdm

from jepa_ssl.files import SUFFIX

SPLITS = ("train", "val", "test")
RECIPE = 1  # raise it when the generators change what they make, so that no stale cache is read


def open_split(args: Namespace, split: str) -> Sequence[LP]:
    """The LPs of `"train"`, `"val"` or `"test"`, rescaled as the run asks.

    LPs are generated once and stored in a file in `--data_root`, named after everything that determines them. Every
    fifth of `--lp_files` is used for validation; fewer than five files are used for both. Testing uses all files.

    Raises ValueError if `--lp_files` names a file twice, or a file without an LP to learn from. Raises OSError if the
    folder cannot be written to, or a file cannot be read.
    """
    if args.lp_files:
        return _files(args, split)
    families, count = list(args.problems), getattr(args, f"{split}_instances")
    sizes = {family: list(getattr(args, f"{family}_size")) for family in families}
    seed = len(SPLITS) * args.data_seed + SPLITS.index(split)
    recipe = {"recipe": [RECIPE, FORMAT], "sizes": sizes, "count": count, "seed": seed, "ruiz": args.ruiz_iterations}
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    root = _expanded(args.data_root)
    path = root / f"{split}-{count}-{digest}.lps"
    if not path.exists():
        writable_folder(root, "--data_root")
        generated = instances(families, sizes, count, seed)
        with tqdm(generated, total=count, desc=f"generating {split} LPs", unit="LP") as bar:
            write_lps((ruiz(lp, args.ruiz_iterations) for lp in bar), path)
    return StoredLPs(path)


def _expanded(root: str) -> Path:
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise ValueError(f"--data_root is {root}, but no home folder is known; name another folder.") from error


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


# The splits of a run share files, and each is solved as it is read.
_read = cache(lambda path, iterations: ruiz(read_lp(path), iterations))


def writable_folder(folder: Path, flag: str = "--output_dir") -> Path:
    """Make the folder that `flag` names; raise OSError if it is not writable, before hours of work are lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink(missing_ok=True)  # another run may have just tried the same
    except OSError as error:
        raise OSError(f"{flag} {folder} cannot be written to ({error.strerror}); name another folder.") from None
    return folder


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed; no other process may be writing into `folder` now."""
    for unfinished in folder.glob(f".*{SUFFIX}"):
        unfinished.unlink(missing_ok=True)
