"""Probes: the numbers of scikit-learn, whole instances in a fold, and input that breaks a regression."""

import pytest
import torch
from builders import seeded
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from jepa_ssl.evaluation import probe


def some(items: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = seeded(seed)
    z = torch.randn(items, dim, generator=g) * torch.logspace(-2, 2, dim) + 5.0
    return z, z @ torch.randn(dim, generator=g) / dim + torch.randn(items, generator=g)


@pytest.mark.parametrize(("items", "dim"), [(60, 5), (20, 50), (10, 10), (3, 2)])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 100.0])
def test_ridge_is_scikit_learns(items: int, dim: int, penalty: float):
    z, y = some(items, dim)
    y = torch.stack((y, y.square()), 1)
    new, _ = some(30, dim, seed=1)
    model = make_pipeline(StandardScaler(), Ridge(alpha=penalty * items))
    expected = model.fit(z.double().numpy(), y.double().numpy()).predict(new.double().numpy())
    found = probe(z, y, penalties=[penalty])(new)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("items", "dim"), [(60, 5), (12, 40)])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_logistic_regression_is_scikit_learns(items: int, dim: int, penalty: float):
    z, y = some(items, dim)
    label = (y > y.median()).long()
    new, _ = some(30, dim, seed=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (penalty * items), tol=1e-12, max_iter=100_000))
    expected = model.fit(z.double().numpy(), label.numpy()).predict_proba(new.double().numpy())[:, 1]
    found = probe(z, label, task="logistic", penalties=[penalty])(new)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0.0, atol=1e-5)


def test_the_penalty_is_that_of_cross_validation_over_whole_instances():
    z, y = some(60, 20)
    groups = torch.arange(60) // 4
    penalties = (1e-3, 0.1, 1.0, 10.0)

    def error(penalty: float) -> float:
        total = 0.0
        for k in range(5):
            held = groups % 5 == k
            model = make_pipeline(StandardScaler(), Ridge(alpha=penalty * int((~held).sum())))
            model.fit(z[~held].double().numpy(), y[~held].numpy())
            total += ((model.predict(z[held].double().numpy()) - y[held].numpy()) ** 2).sum()
        return total

    assert probe(z, y, groups, penalties=penalties).penalty == min(penalties, key=error)


def test_copies_of_an_instance_do_not_straddle_folds():
    """Labels of noise, each item eight times: an item's copy on the other side would make overfitting look good."""
    z, y = torch.randn(12, 40).repeat_interleave(8, 0), torch.randn(12).repeat_interleave(8)
    owner = torch.arange(12).repeat_interleave(8)
    assert probe(z, y, owner).penalty >= 0.1
    assert probe(z, y).penalty == 1e-4  # without groups it does


def test_it_is_deterministic_and_leaves_the_random_state_and_its_input_alone():
    z, y = some(40, 8)
    state, before = torch.get_rng_state(), z.clone()
    first, second = (probe(z, (y > y.mean()).long(), task="logistic")(z) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(z, before)


@pytest.mark.parametrize("task", ["ridge", "logistic"])
@pytest.mark.parametrize("items", [1, 2, 3, 30])
def test_equal_labels_give_a_constant(task: str, items: int):
    z, _ = some(items, 4)
    found = probe(z, torch.ones(items), task=task)(torch.randn(5, 4))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found, torch.ones(5, dtype=torch.float64), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("task", ["ridge", "logistic"])
def test_constant_and_duplicated_features_add_nothing(task: str):
    z, y = some(40, 4)
    y = (y > y.median()).float()
    wider = torch.cat((z, torch.full((40, 2), 0.1)), 1)
    plain = probe(z, y, task=task, penalties=[0.1])(z)  # pyright: ignore[reportArgumentType]
    fitted = probe(wider, y, task=task, penalties=[0.1])  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(fitted(wider), plain)
    wider[:, 4:] = 1e6  # constant features that differ at test time are ignored
    torch.testing.assert_close(fitted(wider), plain)
    twice = probe(torch.cat((z, z), 1), y, task=task, penalties=[0.1])(torch.cat((z, z), 1))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(twice, probe(z, y, task=task, penalties=[0.05])(z))  # pyright: ignore[reportArgumentType]


def test_separable_classes_and_few_instances_converge():
    z = torch.tensor([[-1.0], [1.0]])
    found = probe(z, torch.tensor([0, 1]), task="logistic", penalties=[1e-8])(z)
    assert found[0] < 1e-3
    assert found[1] > 1 - 1e-3
    one = probe(torch.randn(6, 3), torch.randn(6), torch.zeros(6, dtype=torch.int64))
    assert one.penalty == 1.0  # a single instance leaves no choice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.full((4, 2), torch.nan)}, "features has 8 numbers that are not finite"),
        ({"labels": torch.tensor([0.0, 1.0, torch.inf, 0.0])}, "labels has 1 numbers .* first for item 2"),
        ({"features": torch.zeros(4)}, r"features is torch.float32 \[4\]"),
        ({"features": torch.zeros(0, 2), "labels": torch.zeros(0)}, "at least one item"),
        ({"labels": torch.zeros(3)}, r"labels is \[3\]"),
        ({"labels": torch.tensor([0, 1, 2, 1]), "task": "logistic"}, "other numbers than 0 and 1"),
        ({"groups": torch.zeros(3)}, "groups is"),
        ({"penalties": [0.0]}, "penalties is"),
        ({"task": "lasso"}, "task is 'lasso'"),
        ({"folds": 1}, "folds is 1"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str):
    arguments: dict[str, object] = {"features": torch.randn(4, 2), "labels": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    with pytest.raises(ValueError, match=message):
        probe(**{**arguments, **change})  # pyright: ignore[reportArgumentType]
