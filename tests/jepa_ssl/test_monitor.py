"""The alarm: what is planted is found, what is well is left alone, and each episode is said once."""

import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import seeded
from collapses import PLANTED, has_happened, healthy_losses, shown
from torch import nn

from jepa_ssl import EntryMasker, JEPAObjective, JEPATerm, MLPPredictor, StopGradTeacher, TargetNetwork, VICReg
from jepa_ssl.diagnostics import effective_rank, mean_cosine, prediction_cosine, spread, teacher_distance
from jepa_ssl.monitor import CollapseMonitor, CollapseWarning
from jepa_ssl.protocols import Encoded, JEPALoss


def watch(monitor: CollapseMonitor, losses: Iterable[JEPALoss]) -> list[str]:
    """What the monitor warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for loss in losses:
            monitor.observe(loss)
            monitor.step()
    assert all(issubclass(warning.category, CollapseWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def one(z: torch.Tensor, loss: float = 1.0, **features: torch.Tensor) -> JEPALoss:
    return JEPALoss(torch.tensor(loss), {}, {"node": z}, {"node": z}, Encoded({"node": z}, features))


def cloud(step: int, items: int = 64) -> torch.Tensor:
    return F.normalize(torch.randn(items, 16, generator=seeded(step)), dim=-1)


# ---- both rates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "batch"), [*((kind, 70) for kind in PLANTED), ("constant", 8), ("slow drift", 8)])
def test_each_planted_collapse_is_said_within_fifty_steps_and_once(kind: str, batch: int):
    monitor, planted, happened = CollapseMonitor(), 105, 1000
    streams = {"b"} if kind == "one stream only" else {"a", "b"}
    said: list[str] = []
    for step, loss in enumerate(healthy_losses(0, batch=batch, steps=400), start=1):
        loss = shown(loss, kind, step - planted)
        if has_happened(loss, kind, step - planted):
            happened = min(step, happened)
        said += watch(monitor, [loss])
        assert not (said and step < planted)
        if step == happened + 50:
            assert {episode.what for episode in monitor.episodes} == streams
        if step == happened + 80:
            assert len(said) == len(monitor.episodes) == len(streams)
            return
    pytest.fail("it never happened")


@pytest.mark.parametrize("batch", [8, 70])
def test_what_is_well_is_left_alone(batch: int):
    """Its features grow threefold and lose some of their rank."""
    assert watch(CollapseMonitor(), healthy_losses(1, batch=batch, steps=200)) == []


def test_a_dip_is_not_said_unless_it_lasts():
    well, ill = [one(cloud(step)) for step in range(60)], [one(F.normalize(1.0 + 0.01 * cloud(0), dim=-1))] * 60
    assert watch(CollapseMonitor(), [*well[:10], *ill, *well]) == []  # at first a long one is left alone
    assert watch(CollapseMonitor(), [*well, *well, *ill[:25], *well]) == []
    assert len(watch(CollapseMonitor(), [*well, *well, *ill, *well])) == 1


# ---- what it says ------------------------------------------------------------------------------------------


def collapsing(step: int) -> JEPALoss:
    line = F.normalize(cloud(step)[:, :1] * torch.ones(16) + 1e-4 * cloud(step + 1), dim=-1)
    return one(cloud(step), 0.8) if step <= 110 else one(line, 0.1)


def test_the_sentence_names_stream_step_numbers_and_a_remedy():
    (message,) = watch(CollapseMonitor(), map(collapsing, range(1, 161)))
    found = re.match(
        r"Stream 'node' has collapsed by step (\d+), since step (\d+): rank ([\d.]+) -> ([\d.]+), while the loss went "
        r"0\.8 -> 0\.1; add a regularizer, VICReg\(\) or SIGReg\(\), or .*SolverState with a TargetNetwork\.$",
        message,
    )
    assert found
    by, since, before, after = (float(number) for number in found.groups())
    assert since == 120
    assert 120 < by <= 155
    assert before > 12
    assert after < 1.1


@pytest.mark.parametrize(
    ("regularizer", "network", "advice"),
    [
        (
            None,
            False,
            r"add a regularizer, VICReg\(\) or SIGReg\(\), or predict .* SolverState with a TargetNetwork\.$",
        ),
        (
            VICReg(),
            False,
            r"raise regularizer_weight, which is 0\.3, or predict .* SolverState with a TargetNetwork\.$",
        ),
        (None, True, r"add a regularizer, VICReg\(\) or SIGReg\(\), or lower the learning rate\.$"),
        (VICReg(), True, r"; raise regularizer_weight, which is 0\.3, or lower the learning rate\.$"),
    ],
)
@pytest.mark.parametrize("later", [False, True], ids=["", "set later"])
def test_the_remedy_is_not_what_the_objective_does_already(regularizer: Any, network: bool, advice: str, later: bool):
    monitor = CollapseMonitor()
    teacher: Any = TargetNetwork({"node": (16, 16)}) if network else StopGradTeacher()
    predictor, options = MLPPredictor({"node": 16}), {"regularizer": regularizer, "regularizer_weight": 0.3}
    objective = JEPAObjective(EntryMasker(0.5), predictor, teacher, monitor=None if later else monitor, **options)
    objective.monitor = monitor
    (message,) = watch(monitor, map(collapsing, range(1, 161)))
    assert re.search(advice, message)


def test_the_warning_points_at_the_line_of_the_loop():
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"node": 16}), StopGradTeacher(), monitor=CollapseMonitor())
    term = JEPATerm(nn.Identity(), jepa)

    def loop() -> None:
        for step in range(1, 161):
            term.objective.monitor.observe(collapsing(step))  # pyright: ignore
            term.update()

    with pytest.warns(CollapseWarning) as said:
        loop()
    assert said[0].filename == __file__


def test_features_that_shrink_have_a_remedy_of_their_own():
    losses = (one(cloud(step), node=cloud(step) * (1.0 if step < 110 else 1e-4)) for step in range(160))
    (message,) = watch(CollapseMonitor(), losses)
    assert re.search(r"feature spread 0\.\d+ -> .*e-05.*shrink towards zero: lower weight decay", message)


def test_an_encoder_that_is_collapsed_from_the_start_is_said():
    monitor = CollapseMonitor()
    (message,) = watch(monitor, (one(F.normalize(1.0 + 0.01 * cloud(step), dim=-1)) for step in range(130)))
    assert re.match(
        r"Stream 'node' is collapsed from the start.*mean cosine 0\.9999\d -> 0\.9999\d.*standardise", message
    )
    assert monitor.episodes[0].since == 1


def test_an_episode_ends_with_a_recovery_and_the_next_one_is_said_again():
    monitor = CollapseMonitor()
    well, ill = [one(cloud(step)) for step in range(100)], [one(torch.ones(64, 16)) for _ in range(100)]
    assert len(watch(monitor, [*well, *ill, *well, *ill])) == 2
    first, second = monitor.episodes
    assert 100 < first.since < 120
    assert first.until is not None
    assert 200 < first.until <= 250
    assert 300 < second.since < 320
    assert second.until is None


def test_the_log_holds_the_measures_of_the_pool_and_the_warning():
    rows: list[tuple[dict[str, Any], int]] = []
    monitor = CollapseMonitor(log=lambda row, step: rows.append((row, step)))
    losses = list(healthy_losses(0, batch=16, streams=("a",), steps=10))
    assert watch(monitor, [*losses, *losses]) == []
    assert [step for _, step in rows] == [5, 15]  # the reference, and the measurement at step 10
    row, latest = rows[1][0], losses[6:10]
    z, features, p, t = (
        torch.cat([part["a"] for part in parts])
        for parts in (
            [loss.context.embeddings for loss in latest],
            [loss.context.features for loss in latest],
            [loss.predictions for loss in latest],
            [loss.targets for loss in latest],
        )
    )
    expected = {
        "rank": effective_rank(z),
        "spread": spread(z),
        "mean_cosine": mean_cosine(z),
        "feature_rank": effective_rank(features),
        "feature_spread": spread(features),
        "feature_mean_cosine": mean_cosine(features),
        "prediction_cosine": prediction_cosine(p, t),
        "teacher_distance": teacher_distance(z, t),
    }
    assert row == pytest.approx(
        {f"monitor/{name}/a": value.item() for name, value in expected.items()}
        | {"monitor/step": 10, "monitor/loss": losses[9].total.item()},
        rel=1e-5,
    )
    said = watch(monitor, [shown(losses[0], "constant", 0)] * 120)
    assert [row["monitor/warning"] for row, _ in rows if "monitor/warning" in row] == said


def test_padding_and_what_is_not_finite_raise_no_alarm():
    valid = torch.arange(64) < 40

    def padded(step: int) -> JEPALoss:
        z = torch.where(valid.unsqueeze(1), cloud(step), torch.nan)
        return JEPALoss(torch.tensor(1.0), {}, {"node": z}, {"node": z}, Encoded({"node": z}, {}, {"node": valid}))

    rows: list[dict[str, Any]] = []
    monitor = CollapseMonitor(log=lambda row, step: rows.append(row))
    assert watch(monitor, map(padded, range(60))) == []
    assert rows[-1]["monitor/rank/node"] == pytest.approx(effective_rank(cloud(49)[valid]).item(), rel=1e-5)
    assert watch(CollapseMonitor(), [one(torch.full((64, 16), torch.nan))] * 60) == []


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_the_reference_is_finite(wrong: float):
    """In half precision the first steps overflow until their scale is found."""
    monitor = CollapseMonitor()
    assert not watch(monitor, [one(cloud(step) * wrong) for step in range(5)])
    assert not watch(monitor, [one(cloud(step)) for step in range(150)])
    assert len(watch(monitor, [one(1e-6 * cloud(step)) for step in range(50)])) == 1


def test_what_was_seen_once_counts_once():
    """A stream that pauses, for its LPs are not in the batches or the task is trained alone, is not measured again."""
    rows: list[dict[str, Any]] = []
    monitor = CollapseMonitor(log=lambda row, _: rows.append(row))
    assert not watch(monitor, [one(cloud(step)) for step in range(120)])
    assert not watch(monitor, [one(0.01 * cloud(step)) for step in range(10)])  # a single low value is no alarm
    for _ in range(100):
        monitor.step()
    assert not monitor.episodes
    assert rows[-1]["monitor/step"] == 130


def test_a_large_batch_is_not_kept_alive_and_nothing_carries_a_gradient():
    monitor = CollapseMonitor(items=32)
    z = torch.randn(1000, 16, requires_grad=True)
    monitor.observe(one(z * 2.0))
    kept = monitor._pools["node"].batches[0]  # pyright: ignore[reportPrivateUsage]
    assert all(part.shape == (32, 16) and not part.requires_grad for part in kept.values())
    assert all(part.untyped_storage().nbytes() == 32 * 16 * 4 for part in kept.values())


def test_padding_takes_no_place_of_real_items():
    """Every fourth item is real: every 256 // 64th, from the first, would be padding."""
    valid = torch.arange(256) % 4 == 3

    def padded(step: int, scale: float = 1.0) -> JEPALoss:
        z = scale * torch.where(valid.unsqueeze(1), cloud(step, 256), torch.nan)
        return JEPALoss(torch.tensor(1.0), {}, {"node": z}, {"node": z}, Encoded({"node": z}, {}, {"node": valid}))

    rows: list[dict[str, Any]] = []
    monitor = CollapseMonitor(log=lambda row, _: rows.append(row))
    assert not watch(monitor, map(padded, range(150)))
    assert rows[-1]["monitor/rank/node"] == pytest.approx(effective_rank(cloud(139, 256)[valid]).item(), rel=1e-5)
    assert len(watch(monitor, [padded(step, 1e-6) for step in range(50)])) == 1


def test_slices_of_a_large_tensor_are_not_kept_alive():
    """Encoders that embed all nodes at once return parts of one tensor."""
    monitor = CollapseMonitor()
    monitor.observe(one(torch.randn(10_000, 16, generator=seeded())[:32]))
    (kept,) = monitor._pools["node"].batches  # pyright: ignore[reportPrivateUsage]
    assert all(part.untyped_storage().nbytes() == 32 * 16 * 4 for part in kept.values())


def test_a_stream_that_is_always_empty_takes_no_room():
    monitor = CollapseMonitor(items=8)
    for _ in range(50):
        monitor.observe(one(torch.zeros(0, 16)))
        monitor.step()
    assert monitor._pools["node"].batches == []  # pyright: ignore[reportPrivateUsage]
    assert not watch(monitor, [one(cloud(step)) for step in range(20)])


def test_a_state_that_is_too_large_is_saved_without_the_latest_items():
    rows: list[dict[str, Any]] = []
    monitor = CollapseMonitor(items=8, log=lambda row, _: rows.append(row))
    losses = [one(torch.randn(8, 20_000, generator=seeded(step))) for step in range(12)]
    watch(monitor, losses)
    resumed = CollapseMonitor(items=8, log=lambda row, _: rows.append(row))
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.steps == 12
    watch(resumed, losses * 2)
    assert [row["monitor/step"] for row in rows] == [1, 10, 20, 30]


# ---- gradients ---------------------------------------------------------------------------------------------


def with_gradients(monitor: CollapseMonitor, pairs: list[tuple[float, float]]) -> list[str]:
    said: list[str] = []
    for number, (task, jepa) in enumerate(pairs):
        monitor.observe_gradients({"task": torch.tensor(task), "jepa": torch.tensor(jepa)})
        said += watch(monitor, [one(cloud(10 * number + step)) for step in range(10)])
    return said


def test_a_jepa_gradient_out_of_proportion_is_said_once_an_episode():
    monitor = CollapseMonitor()
    well, weak, strong = (1.0, 0.3), (400.0, 0.05), (0.1, 0.3)
    said = with_gradients(monitor, [well] * 4 + [weak] * 8 + [well, weak] * 3 + [well] * 4 + [strong] * 6)
    assert len(said) == 2
    assert re.match(
        r"JEPA hardly trains the trunk: since step 50 the norm of its gradient on the shared parameters, now 0.05, is "
        r"under a thousandth of the task's, 4e\+02; raise its weight \(with GradientBalance this is the share",
        said[0],
    )
    assert re.match(r"JEPA outweighs the task: .* now 0.3, is above the task's, 0.1; lower its weight", said[1])
    assert [(e.what, e.until is None) for e in monitor.episodes] == [("gradients", False), ("gradients", True)]


def test_gradients_of_zero_or_not_finite():
    nan, inf = torch.nan, torch.inf
    assert with_gradients(CollapseMonitor(), [(0.0, 0.0), (nan, 1.0), (1.0, inf)] * 4) == []
    assert len(with_gradients(CollapseMonitor(), [(1.0, 0.0)] * 5)) == 1


# ---- in a training -----------------------------------------------------------------------------------------


def training(steps: int, states: dict[int, Any], start: dict[str, Any] | None = None) -> tuple[Any, ...]:
    """Plain descent in small batches, so that pools span several steps; after step 40 all embeddings are one."""
    rows: list[tuple[dict[str, Any], int]] = []
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    monitor = CollapseMonitor(log=lambda row, step: rows.append((row, step)))
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 16}), StopGradTeacher(), monitor=monitor)
    modules = {"trunk": trunk, "jepa": jepa}
    for name in start or {}:
        modules[name].load_state_dict((start or {})[name])
    weights = [*trunk.parameters(), *jepa.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        for step in range(monitor.steps, steps):
            g = seeded(step)
            if step == 40:
                torch.nn.init.zeros_(list(trunk.parameters())[2])
            loss = jepa(
                lambda x: {"instance": F.normalize(trunk(x), dim=-1)}, torch.randn(8, 12, generator=g), generator=g
            )
            for weight, gradient in zip(weights, torch.autograd.grad(loss.total, weights), strict=True):
                weight.data -= 0.01 * gradient
            jepa.update(trunk)
            if step + 1 in states:
                file = io.BytesIO()
                torch.save({name: module.state_dict() for name, module in modules.items()}, file)
                file.seek(0)
                states[step + 1] = torch.load(file, weights_only=True)
    return rows, monitor.episodes, monitor


def test_a_resumed_training_is_told_the_same():
    states: dict[int, Any] = {
        3: None,
        113: None,
        120: None,
    }  # before the reference, with something unread, and measuring
    rows, episodes, _ = training(140, states)
    assert [step for _, step in rows] == list(range(15, 140, 10))
    assert episodes
    for at, state in states.items():
        resumed_rows, resumed_episodes, _ = training(140, {}, state)
        assert resumed_rows == [(row, step) for row, step in rows if step > at]
        assert resumed_episodes == episodes


def test_only_training_is_watched_and_evaluation_is_not():
    _, _, monitor = training(5, {})
    before = monitor.get_extra_state()
    jepa = JEPAObjective(EntryMasker(0.5), MLPPredictor({"instance": 8}), StopGradTeacher(), monitor=monitor).eval()
    jepa(lambda x: {"instance": x}, torch.randn(4, 8))
    assert torch.equal(monitor.get_extra_state(), before)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="every is 0, but must be a whole number"):
        CollapseMonitor(every=0)
    with pytest.raises(ValueError, match="items is 2, but must be a whole number that is at least 8"):
        CollapseMonitor(items=2)


def test_a_stream_without_predictions_of_its_items_is_still_watched():
    loss = replace(one(cloud(0)), predictions={"node": cloud(0)[:10]}, targets={"node": cloud(0)[:10]})
    rows: list[dict[str, Any]] = []
    watch(CollapseMonitor(log=lambda row, step: rows.append(row)), [loss] * 10)
    assert "monitor/rank/node" in rows[0]
    assert "monitor/prediction_cosine/node" not in rows[0]


def test_a_warning_that_is_an_error_costs_no_row_and_no_measurement():
    rows: list[dict[str, Any]] = []
    monitor = CollapseMonitor(log=lambda row, step: rows.append(row))
    watch(monitor, [one(cloud(step)) for step in range(150)])
    raised = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        for _ in range(50):
            monitor.observe(one(torch.ones_like(cloud(0))))
            try:
                monitor.step()
            except CollapseWarning:
                raised += 1
    assert raised == 1
    assert sum("monitor/warning" in row for row in rows) == 1
    assert [row["monitor/step"] for row in rows[-3:]] == [170, 180, 190]


def test_embeddings_without_items_to_count_are_refused():
    with pytest.raises(ValueError, match=r"embeddings\['node'\] is float32 \[\], but must be \[items, dim\]"):
        CollapseMonitor().observe(one(torch.tensor(1.0)))


def test_gradients_of_other_names_are_refused():
    with pytest.raises(ValueError, match=r"norms has \['kkt'\], but must have 'task' and 'jepa'"):
        CollapseMonitor().observe_gradients({"kkt": torch.tensor(1.0)})
