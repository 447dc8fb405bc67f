"""The examples of a page: flat_vector.py, bipartite_lp.py and lejepa.py run, measure what they say, and find it."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import bipartite_lp
import does_it_help
import flat_vector
import lejepa
import numpy as np
import pytest
import torch
from builders import seeded
from PIL import Image
from scipy.optimize import linprog
from torch import Tensor

from jepa_ssl import BipartiteGraph
from jepa_ssl.monitor import CollapseWarning


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def assert_drawn(path: Path) -> None:
    with Image.open(path) as picture:
        assert min(picture.size) > 500
        assert len(np.unique(np.asarray(picture))) > 10, f"{path.name} is blank"


@pytest.mark.parametrize(
    ("example", "flag", "value"),
    [
        (bipartite_lp, "--seeds", "0"),
        (bipartite_lp, "--steps", "-1"),
        (flat_vector, "--plants", "0"),
        (flat_vector, "--steps", "9"),
        (lejepa, "--steps", "0"),
        (does_it_help, "--seeds", "0"),
        (does_it_help, "--steps", "0"),
    ],
)
def test_what_cannot_be_run_is_refused(example: ModuleType, flag: str, value: str, tmp_path: Path, refused: Any):
    said = refused(example.main, flag, value, "--folder", tmp_path / "none")
    assert flag in said
    assert value in said
    assert not (tmp_path / "none").exists()


# A table that is no LP.


def test_the_probe_finds_what_is_linear_and_nothing_in_noise():
    causes = torch.randn(400, 4)
    features = causes @ torch.randn(4, 30) + 5.0
    assert flat_vector.probe(features, causes, 50) > 0.99
    assert -0.2 < flat_vector.probe(torch.randn(400, 30), causes, 50) < 0.1


def test_the_penalty_is_that_with_which_each_row_is_best_predicted_from_the_others():
    """Against all fits, each without one row."""
    labels, causes = 12, torch.randn(40, 2, dtype=torch.float64)
    x = causes @ torch.randn(2, 6, dtype=torch.float64) + torch.randn(40, 6, dtype=torch.float64)
    x = (x - x.mean(0)) / (x - x.mean(0)).std()

    def fit(rows: list[int], penalty: float) -> Tensor:
        eye = penalty * torch.eye(6, dtype=torch.float64)
        return torch.linalg.solve(x[rows].T @ x[rows] + eye, x[rows].T @ causes[rows])

    def error(penalty: float) -> float:
        kept = [[row for row in range(labels) if row != left] for left in range(labels)]
        return sum(
            (causes[left] - x[left] @ fit(rows, penalty)).square().sum().item() for left, rows in enumerate(kept)
        )

    slopes = fit([*range(labels)], min((10.0**k for k in range(5)), key=error))
    missed = causes[labels:] - x[labels:] @ slopes
    expected = 1.0 - (missed.square().sum() / causes[labels:].square().sum()).item()
    assert flat_vector.probe(x, causes, labels) == pytest.approx(expected, abs=1e-6)


def test_a_plant_is_known_by_its_number():
    def linear(plant: int, seed: int) -> Tensor:
        rows, causes = flat_vector.readings(4000, plant, seeded(seed))
        return causes.T @ rows / 4000

    assert (linear(0, 1) - linear(0, 2)).abs().max() < 0.15
    assert (linear(0, 1) - linear(1, 1)).abs().max() > 0.5


@pytest.mark.slow
def test_the_pretrained_trunk_is_ahead_of_the_random_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flat_vector.main(["--folder", str(tmp_path / "new"), "--plants", "1", "--steps", "150"])
    said = capsys.readouterr().out
    assert re.search(r"random trunk .* below the first in 4 of 4 cases\n", said)
    assert "The monitor's alarms: none." in said
    rows = [numbers(said.split(f"{arm} ")[-1].splitlines()[0]) for arm in ("pretrained trunk", "random trunk")]
    assert all(0.2 < random < trained < 0.9 for trained, random in zip(*rows, strict=False))
    assert_drawn(tmp_path / "new" / "flat_vector.png")


# A JEPA term beside the KKT residual.


def parts(graph: BipartiteGraph) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A, b and c of each LP."""
    A = torch.zeros(len(graph.constraint_features), len(graph.variable_features))
    A[tuple(graph.edge_index)] = graph.edge_attr[:, 0]
    ends = [graph.offsets(kind).tolist() for kind in bipartite_lp.SIZES]
    return [
        (A[i:j, k:m], graph.constraint_features[i:j, 0], graph.variable_features[k:m, 0])
        for i, j, k, m in zip(ends[0], ends[0][1:], ends[1], ends[1][1:], strict=False)
    ]


def test_the_lps_have_optima_and_there_alone_the_residual_is_0():
    graph = bipartite_lp.lps(5, seeded(0)).check_values()
    xs: list[float] = []
    lams: list[float] = []
    for A, b, c in parts(graph):
        solved = linprog(c.numpy(), A.numpy(), b.numpy(), bounds=(None, None))
        assert solved.status == 0, solved.message
        xs += solved.x.tolist()
        lams += (-solved.ineqlin.marginals).tolist()
    x, lam = torch.tensor(xs).unsqueeze(1), torch.tensor(lams).unsqueeze(1)
    assert bipartite_lp.kkt(graph, x, lam) < 1e-9
    for other in ((x + 0.1, lam), (x - 0.1, lam), (x, lam + 0.1), (x, 0.0 * lam)):
        assert bipartite_lp.kkt(graph, *other) > 1e-4


def test_an_lp_is_embedded_alike_alone_and_in_a_batch():
    graph = bipartite_lp.lps(3, seeded(0))
    seen, trunk = bipartite_lp.EARLY(graph), bipartite_lp.Trunk()
    A, b, c = parts(graph)[0]
    edges = A.nonzero().T
    alone = BipartiteGraph.single(b.unsqueeze(1), edges, A[edges[0], edges[1]].unsqueeze(1), c.unsqueeze(1))
    for stream, nodes in trunk(bipartite_lp.EARLY(alone)).items():
        torch.testing.assert_close(trunk(seen)[stream][: len(nodes)], nodes)


@pytest.mark.slow
def test_beside_kkt_the_term_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bipartite_lp.main(["--folder", str(tmp_path), "--seeds", "1", "--steps", "60"])
    alone, joint, *verdict = capsys.readouterr().out.splitlines()
    assert "JEPA" not in alone
    _, *found = numbers(joint.split("seed")[1].replace("->", ""))
    kkt, rows, columns, jepa = zip(found[::2], found[1::2], strict=True)
    assert kkt[1] < kkt[0] / 5
    assert jepa[1] < 0.7 * jepa[0]
    assert min(rows[1] / rows[0], columns[1] / columns[0]) > 0.8
    assert numbers(alone.split("seed")[1].replace("->", ""))[1] == kkt[0]  # both begin with the same network
    assert "times the KKT residual without" in verdict[0]
    assert_drawn(tmp_path / "bipartite_lp.png")


# No teacher.


@pytest.mark.slow
def test_without_sigreg_it_collapses_and_with_it_it_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.warns(CollapseWarning, match="spread") as warned:
        lejepa.main(["--folder", str(tmp_path)])
    assert len(warned) == 1
    found = [numbers(line.replace("->", "")) for line in capsys.readouterr().out.splitlines()[:2]]
    (_, with_loss, _, with_deviation, _, with_rank, _), (_, loss, before, deviation, *_) = found
    assert 0.9 < with_deviation < 1.1
    assert with_rank > 15.0
    assert deviation < before / 20
    assert loss < with_loss / 1000
    assert_drawn(tmp_path / "lejepa.png")


def test_the_spectrum_is_that_of_the_principal_axes():
    axes = torch.linalg.qr(torch.randn(3, 3))[0]
    cloud = torch.randn(20000, 3) * torch.tensor([1.0, 3.0, 2.0])
    torch.testing.assert_close(lejepa.spectrum(cloud @ axes.T), torch.tensor([9.0, 4.0, 1.0]), rtol=0.05, atol=0.0)


# The comparison with controls.


@pytest.mark.slow
def test_the_comparison_finds_that_a_later_state_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = does_it_help.main(["--folder", str(tmp_path), "--seeds", "4"])
    assert report.score("later state, frozen", 36) > report.score("random initialisation", 36) + 0.1
    assert "'later state, frozen' helps: it is better than every control" in capsys.readouterr().out
    assert_drawn(tmp_path / "does_it_help.png")
    assert len(list((tmp_path / "pieces").glob("*.json"))) == 72
