"""What importing the package costs beyond torch's own import, each in a new process.

Run with `make bench`, or `python tests/benchmarks/test_import_cost.py` for the ratio; `python -X importtime -c "import
jepa_ssl"` says where the time goes.
"""

import subprocess
import sys
from collections.abc import Callable

import pytest
from benchmarks.timing import least_seconds

WAYS = {"torch and einops": "import torch, einops", "jepa_ssl too": "import torch, einops, jepa_ssl"}


def importing(way: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", WAYS[way]], check=True)


@pytest.mark.parametrize("way", WAYS)
def test_importing(benchmark, way):
    if benchmark.disabled and way != "jepa_ssl too":
        pytest.skip("a start of torch that shows nothing unless it is measured")
    benchmark.group = "import in a new process"
    benchmark.pedantic(importing(way), rounds=5, warmup_rounds=1)


if __name__ == "__main__":
    torch_alone, both = least_seconds({way: importing(way) for way in WAYS}, rounds=10).values()
    print(
        f"torch and einops {torch_alone:.2f} s, with jepa_ssl {both - torch_alone:.2f} s more: {both / torch_alone:.3f}"
    )
