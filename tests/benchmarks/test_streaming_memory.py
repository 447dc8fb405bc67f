"""Memory and speed of an epoch over a store of LPs, which is read one by one: both must not depend on its size.

Run `python tests/benchmarks/test_streaming_memory.py` for stores of 1,000, 10,000 and 100,000 LPs, without workers and
with two. Each is measured in a process of its own. "Anonymous" is what must fit into memory; mapped pages of files, the
store's among them, are given back whenever something else needs the memory.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples/kkt_nets"))

import numpy as np
import psutil
import torch
from data.batches import LPDataset, batches, collate_graphs, epoch_order, make_loader
from data.lp import LP
from data.store import StoredLPs, write_lps
from scipy.sparse import csr_array

SIZES, WORKERS = (1_000, 10_000, 100_000), (0, 2)
BATCH_SIZE, EVERY = 8, 25  # batches between two looks at the memory
SMAPS = Path("/proc/self/smaps_rollup")


def small_lps(count: int) -> Iterator[LP]:
    """Dense LPs of 6 rows and 4 columns, made in no time."""
    rng = np.random.default_rng(0)
    pointer, column = np.arange(0, 25, 4), np.tile(np.arange(4), 6)
    for i in range(count):
        A = csr_array((rng.standard_normal(24), column, pointer), shape=(6, 4))
        yield LP(f"small-{i}", "small", A, rng.standard_normal(6), rng.standard_normal(4))


def memory(process: psutil.Process) -> dict[str, int]:
    """Bytes of a process, a page that several share counted in equal parts."""
    lines = (SMAPS.parents[1] / str(process.pid) / SMAPS.name).read_text().splitlines()[1:]
    fields = {line.split()[0].rstrip(":"): 1024 * int(line.split()[1]) for line in lines}
    return {"anonymous": fields["Pss_Anon"], "mapped": fields["Pss_File"] + fields["Pss_Shmem"]}


def epoch(folder: str, num_workers: int) -> dict[str, float]:
    """Reads one epoch; the peaks are over the process and its workers together."""
    torch.set_num_threads(1)
    data = LPDataset(StoredLPs(folder))
    loader = make_loader(data, collate_graphs, batches(epoch_order(len(data), 0, 0), BATCH_SIZE), num_workers)
    main, peaks, read = psutil.Process(), {"anonymous": 0, "mapped": 0}, 0
    start = time.perf_counter()
    for step, batch in enumerate(loader):
        read += len(batch.b)
        if step % EVERY == 0:
            now = [memory(process) for process in (main, *main.children())]
            peaks = {kind: max(peak, sum(one[kind] for one in now)) for kind, peak in peaks.items()}
    return {"read": read, "seconds": time.perf_counter() - start, **peaks}


def measured(folder: Path, num_workers: int) -> dict[str, float]:
    """`epoch`, in a fresh process."""
    command = [sys.executable, __file__, "--epoch", str(folder), str(num_workers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not SMAPS.exists(), reason="this system does not list a process' memory")
def test_an_epoch_of_streamed_lps(tmp_path: Path):
    write_lps(small_lps(50), tmp_path / "50")
    found = measured(tmp_path / "50", num_workers=1)
    assert found["read"] == 50
    assert found["anonymous"] > 2**20


def main() -> None:
    print(f"{'LPs':>8} {'workers':>8} {'anonymous':>14} {'mapped':>12} {'LPs/s':>8}")
    with tempfile.TemporaryDirectory() as root:
        for size in SIZES:
            write_lps(small_lps(size), Path(root, str(size)))
        for num_workers in WORKERS:
            for size in SIZES:
                found = measured(Path(root, str(size)), num_workers)
                megabytes = {kind: found[kind] / 2**20 for kind in ("anonymous", "mapped")}
                print(
                    f"{size:8,} {num_workers:8} {megabytes['anonymous']:10.1f} MiB {megabytes['mapped']:8.1f} MiB "
                    f"{found['read'] / found['seconds']:8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--epoch"]:
        print(json.dumps(epoch(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
