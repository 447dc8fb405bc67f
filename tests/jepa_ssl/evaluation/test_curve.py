"""Label curves: what every arm sees, controls that cannot be forgotten, pieces that are never mixed, and the report."""

import json
import math
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import seeded
from torch import Tensor, nn

from jepa_ssl import Encoded
from jepa_ssl.evaluation import (
    Features,
    Outcome,
    Report,
    Split,
    StillImproving,
    Supervised,
    Task,
    Trained,
    embed,
    label_curve,
    standard_controls,
    train_until_it_stops,
)

OWNER = torch.arange(30).repeat_interleave(2)
X = torch.randn(60, 5, generator=seeded(0))
Y = X[:, 0] - X[:, 1]
RAW = {"raw features": Features(X)}
REFUSED = ("random initialisation", "from scratch", "noise floor")


def curve(arms: dict[str, Any], task: Task | None = None, **options: Any) -> Report:
    options = {"label_counts": [2, 5], "seeds": 2, "refuse": REFUSED, **options}
    return label_curve(task or Task(Y, OWNER), arms, options.pop("controls", RAW), **options)


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU())


def take(ids: Tensor) -> Tensor:
    return X.view(30, 2, 5)[ids].flatten(0, 1)


# What an arm sees


def test_labelled_sets_are_nested_the_same_for_all_arms_and_apart_from_the_test():
    seen: dict[str, list[Split]] = {"one": [], "other": []}
    task = Task(Y, OWNER)

    def arm(name: str) -> Trained:
        def train(split: Split) -> Tensor:
            seen[name].append(split)
            return torch.zeros(len(task.items(split.test)))

        return Trained(train)

    curve({name: arm(name) for name in seen}, task, label_counts=[1, 3, 10], seeds=3)
    for a, b in zip(seen["one"], seen["other"], strict=True):
        assert a.labelled.tolist() == b.labelled.tolist()
        assert not set(a.labelled.tolist()) & set(a.test.tolist())
        assert sorted({*a.training.tolist(), *a.validation.tolist()}) == sorted(a.labelled.tolist())
    for few, some, many in zip(*[iter(seen["one"])] * 3, strict=True):
        assert many.labelled.tolist()[:3] == some.labelled.tolist()
        assert some.labelled.tolist()[:1] == few.labelled.tolist() == few.training.tolist() == few.validation.tolist()
        assert len(many.validation) == 2
    assert len({tuple(split.labelled.tolist()) for split in seen["one"]}) == 9  # seeds differ
    assert len({tuple(split.test.tolist()) for split in seen["one"]}) == 1


def test_items_follow_their_instances():
    task = Task(Y, torch.tensor([0, 0, 0, *range(1, 58)]), test=torch.tensor([0, 5]))
    assert task.items(torch.tensor([5, 0])).tolist() == [7, 0, 1, 2]
    assert task.pool.tolist() == [i for i in range(58) if i not in (0, 5)]


def test_the_score_is_that_of_the_probe_on_the_test():
    found = curve({"arm": Features(2.0 * X)}, label_counts=[10], seeds=1)
    assert found.score("arm", 10) == pytest.approx(found.score("raw features", 10))
    assert found.score("arm", 10) > 0.9
    assert found.score("constant prediction", 10) < 0.1


def test_features_of_a_seed_are_made_once_and_the_noise_floor_is_the_other_run():
    asked: list[int] = []

    def features(seed: int) -> Tensor:
        asked.append(seed)
        return X + torch.randn(X.shape, generator=seeded(seed))

    found = curve({"arm": Features(features)}, refuse=REFUSED[:2], noise_floor_of="arm", seeds=3)
    assert asked == [0, 1, 2, 1_000_003, 1_000_004, 1_000_005]
    apart = (found.curves["noise floor"].values - found.curves["arm"].values).mean(0)
    assert found.noise_floor() == pytest.approx(apart.abs().mean().item())
    assert found.least_effect() == max(0.02, found.noise_floor())


def test_user_metrics_and_undefined_ones():
    task = Task(Y, OWNER, metric=lambda p, y, _: -(p - y).abs().mean().item())
    assert -0.5 < curve({"arm": Features(X)}, task, label_counts=[10]).score("arm") < 0.0
    rare = Task((torch.arange(60) == 0).long(), OWNER, metric="auc", probe="logistic", test=torch.tensor([5, 6, 7]))
    found = curve({"arm": Features(X)}, rare)
    assert math.isnan(found.score("arm"))
    assert "The metric of 'arm' is undefined in 4 of 4 runs" in found.summary()


def test_a_metric_of_the_users_own_is_called_by_its_name():
    def gap(predictions: Tensor, labels: Tensor, groups: Tensor) -> float:
        return -(predictions - labels).abs().mean().item()

    class Gap:
        __call__ = staticmethod(gap)

    assert [Task(Y, OWNER, metric=metric).metric_name for metric in ("auc", gap, Gap())] == ["auc", "gap", "Gap"]


@pytest.mark.parametrize(("probe", "metric"), [("ridge", "r2"), ("logistic", "auc")])
def test_the_standard_controls_run_and_are_reproducible(probe: Any, metric: str):
    task = Task(Y if probe == "ridge" else (Y > 0).long(), OWNER, metric=metric, probe=probe)

    def once() -> Report:
        controls = standard_controls(task, make, take, X, scratch=Supervised(make, take, lr=0.02, cap=60, patience=5))
        return label_curve(task, {"copy": Features(X)}, controls, label_counts=[16], seeds=1)

    state = torch.get_rng_state()
    with pytest.warns(StillImproving, match="cap of 60 steps"):
        first, second = once(), once()
    assert str(first) == str(second)
    assert torch.equal(state, torch.get_rng_state())
    assert first.score("from scratch") > first.score("constant prediction") + 0.2
    assert "'from scratch' hit its cap of training steps in" in first.summary()
    assert not first.curves["random initialisation"].values.equal(first.curves["noise floor"].values)


# Controls


def test_fine_tuning_starts_from_the_given_weights_and_leaves_them_alone():
    task, pretrained = Task(Y, OWNER), make()
    before = deepcopy(pretrained.state_dict())
    arm = Supervised(lambda: deepcopy(pretrained), take, cap=40, patience=3)
    with pytest.warns(StillImproving):
        predictions = arm(task, task.split(10, 0)).predictions
    assert predictions.shape == (24,)
    assert all(torch.equal(before[name], value) for name, value in pretrained.state_dict().items())


def test_training_stops_by_itself_and_keeps_the_best_weights():
    model = nn.Linear(1, 1)
    losses = iter([5.0, 3.0, 2.0, math.nan, 4.0, 4.0])
    at: list[float] = []

    def step() -> None:
        with torch.no_grad():
            model.weight += 1.0

    def validate() -> float:
        at.append(model.weight.item())
        return next(losses)

    found = train_until_it_stops(model, step, validate, every=10, patience=3)
    assert (found.steps, found.best_step, found.validation, found.hit_cap) == (50, 20, 2.0, False)
    assert model.weight.item() == at[2]
    with pytest.raises(ValueError, match="validation loss is nan"):
        train_until_it_stops(model, step, lambda: math.nan, patience=1)


def test_embed_reads_the_trunks_features_in_eval_mode_and_in_order():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Encoded:
            return Encoded({"row": x[:, :1], "column": x}, {"row": self.drop(x), "column": x + 1})

    net = Net()
    net.drop.eval()
    assert torch.equal(embed(net, [X[:4], X[4:]], "row"), X)
    assert (net.training, net.drop.training) == (True, False)
    assert torch.equal(embed(lambda x: {"only": x}, [X]), X)
    with pytest.raises(ValueError, match=r"stream is None, but must be one of \['column', 'row'\]"):
        embed(net, [X])


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refuse": ()}, r"controls lacks \['random initialisation', 'from scratch'\]"),
        ({"refuse": ["scratch"]}, r"refuse names \['scratch'\]"),
        ({"refuse": REFUSED[:2]}, "noise_floor_of is 'random initialisation'"),
        ({"arms": {"raw features": Features(X)}}, "arms is"),
        ({"arms": {}}, "arms is"),
        ({"label_counts": [5, 19]}, "label_counts is .* up to 18"),
        ({"label_counts": []}, "label_counts is"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": [1, 1]}, "seeds is"),
        ({"arms": {"a": Features(X[:5])}}, r"features is \[5, 5\], but must be \[60, dim\]"),
        ({"arms": {"a": Features(X * math.nan)}}, "not finite"),
        ({"arms": {"a": Trained(lambda _: torch.full((24,), math.nan))}}, "arm 'a' with 2 labels and seed 0"),
        ({"arms": {"a": Trained(lambda _: torch.zeros(3))}}, "must predict the 24 items"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        curve(options.pop("arms", {"arm": Features(X)}), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": Y * math.inf}, "labels has"),
        ({"metric": "f1"}, "metric is 'f1'"),
        ({"groups": OWNER.flip(0)}, "groups is"),
        ({"groups": OWNER + 1}, "groups is"),
        ({"groups": OWNER[:-1]}, "groups is"),
        ({"test": 0.0}, "test leaves 30 instances for labels and 0"),
        ({"test": 1.0}, "test leaves 0"),
        ({"test": torch.tensor([0, 30])}, "test must hold numbers of instances"),
    ],
)
def test_a_wrong_task_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Task(**{"labels": Y, "groups": OWNER, **options})


# Pieces


def test_a_killed_run_goes_on_and_other_settings_are_computed_anew(tmp_path: Path):
    calls: list[int] = []

    def arm(settings: Any, fail_at: int = -1) -> dict[str, Any]:
        def train(split: Split) -> Outcome:
            calls.append(split.seed)
            if len(calls) == fail_at:
                raise KeyboardInterrupt
            return Outcome(torch.zeros(24), hit_cap=split.seed == 1)

        return {"arm": Trained(train, settings)}

    with pytest.raises(KeyboardInterrupt):
        curve(arm({"lr": 1}, fail_at=3), folder=tmp_path)
    first = curve(arm({"lr": 1}), folder=tmp_path)
    assert calls == [0, 0, 1, 1, 1]
    assert str(curve(arm({"lr": 1}), folder=tmp_path)) == str(first)
    assert len(calls) == 5
    assert "hit its cap of training steps in 2 of 4 runs" in first.summary()
    curve(arm({"lr": 2}), folder=tmp_path)
    assert len(calls) == 9
    curve(arm({"lr": 2}), Task(Y + 1, OWNER), folder=tmp_path)
    assert len(calls) == 13
    curve(arm({"lr": 2}), folder=tmp_path, label_counts=[2, 5, 7])  # one more count
    assert len(calls) == 15
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_piece_is_computed_anew(tmp_path: Path):
    first = curve({"arm": Features(X)}, folder=tmp_path)
    for path in tmp_path.glob("arm*"):
        path.write_text(path.read_text()[:20])
    assert str(curve({"arm": Features(X)}, folder=tmp_path)) == str(first)
    assert all(json.loads(path.read_text())["asked"] for path in tmp_path.glob("*.json"))


def test_an_arm_that_does_not_say_what_it_depends_on_is_not_stored(tmp_path: Path):
    with pytest.raises(ValueError, match="arm 'arm' does not say what it depends on"):
        curve({"arm": Features(lambda _: X)}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# The report


def test_the_report_is_read_back_as_it_was(tmp_path: Path):
    rare = Task((torch.arange(60) % 7 == 0).long(), OWNER, metric="auc", probe="logistic", test=torch.tensor([2, 3, 7]))
    for found in (curve({"arm": Features(X)}), curve({"arm": Features(X)}, rare, intervals_over="seeds")):
        found.to_json(tmp_path / "report.json")
        assert str(Report.from_json(tmp_path / "report.json")) == str(found)
        json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)  # JSON has no NaN


def test_the_figure_has_a_line_for_each_arm(tmp_path: Path):
    figure = curve({"arm": Features(X)}).plot(tmp_path / "curve.png")
    assert [line.get_label() for line in figure.axes[0].lines] == ["arm", "raw features", "constant prediction"]
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_without_matplotlib_and_tqdm_all_but_the_figure_works():
    code = """
import sys, torch
sys.modules.update(dict.fromkeys(["matplotlib", "matplotlib.figure", "tqdm", "scipy", "sklearn", "numpy"]))
from jepa_ssl.evaluation import Features, Task, label_curve
x = torch.randn(20, 3)
refused = ["random initialisation", "from scratch", "noise floor"]
raw = {"raw features": Features(x)}
report = label_curve(Task(x[:, 0]), {"arm": Features(x)}, raw, label_counts=[4], seeds=2, refuse=refused)
print(report)
try:
    report.plot()
except ImportError as error:
    assert "pip install matplotlib" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| arm |" in done.stdout


def test_all_controls_refused_is_said():
    found = curve({"arm": Features(X)}, controls={}, refuse=["raw features", *REFUSED], seeds=5)
    assert "All controls were refused, so 'arm' cannot be judged." in found.summary()
