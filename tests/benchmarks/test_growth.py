"""The table of growth: what it prints on a CPU, and that it refuses a device that is not there."""

import pytest
import torch
from benchmarks.growth import NEVER_WAIT, main


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "--device is cuda, but torch finds no GPU here" in capsys.readouterr().err


@pytest.mark.slow
def test_each_part_has_a_row_with_a_cell_for_each_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # would hold for the other tests too
    main(["--largest", "4"])
    rows = [line for line in capsys.readouterr().out.splitlines() if " MiB | " in line]
    assert [row.count(" ms, ") for row in rows] == [2] * 6 + [3] * 6
    assert all(any(row.startswith(f"| {part} |") for row in rows) for part in NEVER_WAIT)
