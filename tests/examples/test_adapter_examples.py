"""The examples of models that were not made for a JEPA term: they run, and say what they should."""

import hetero_pyg
import no_encode_method
import pytest


def test_a_model_without_encode_learns_and_keeps_its_checkpoint(capsys: pytest.CaptureFixture[str]):
    no_encode_method.main(["--steps", "40"])
    said = capsys.readouterr().out
    assert "Wired right" in said
    assert "Wired wrong, by a detached output: no gradient reaches the trunk" in said
    assert "the 16 tensors that it had: True" in said
    first, last = (float(part.split()[0]) for part in said.split("Validation loss: ")[1].split(", ")[:2])
    assert last < first


def test_hetero_data_lose_coefficients_in_both_directions(capsys: pytest.CaptureFixture[str]):
    hetero_pyg.main(["--steps", "12"])
    said = capsys.readouterr().out
    assert "Of 513 coefficients of A a batch hides 283" in said
    assert "Effective rank of the row embeddings" in said
