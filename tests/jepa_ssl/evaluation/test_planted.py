"""Planted situations are called what they are."""

import pytest
import torch
from planted_tasks import CALLED, report

SENTENCES = {
    "helps": "'pretrained' helps: it is better than every control",
    "collapsed": "'pretrained' does not help: it is worse than 'random initialisation'",
    "random again": "'pretrained' is no better than 'random initialisation'",
    "no signal": "No arm predicts these labels better than a constant does",
}


@pytest.mark.parametrize("situation", CALLED)
def test_a_planted_situation_is_called_what_it_is(situation: str):
    found = report(situation, 0)
    assert found.verdict("pretrained") == CALLED[situation]
    assert SENTENCES[situation] in found.summary()


@pytest.mark.slow
@pytest.mark.parametrize("situation", CALLED)
def test_19_of_20_are_called_what_they_are(situation: str):
    verdicts = [report(situation, run, seeds=8).verdict("pretrained") for run in range(20)]
    assert verdicts.count(CALLED[situation]) >= 19, verdicts  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.parametrize("situation", ["collapsed", "no signal"])
def test_so_are_classes(situation: str):
    assert report(situation, 0, "logistic", seeds=6).verdict("pretrained") == CALLED[situation]


def test_one_or_two_seeds_are_too_few_to_tell():
    one, two = report("helps", 0, seeds=1), report("random again", 0, seeds=2)
    assert one.verdict("pretrained") == "too few seeds to tell"
    assert "One seed gives no interval" in one.summary()
    assert two.verdict("pretrained") == "too few seeds to tell"
    assert "too few seeds or labelled instances to tell 'pretrained' from" in two.summary()


def test_the_labels_saved_are_in_the_paragraph():
    found = report("helps", 0)
    needed = found.labels_needed("pretrained", "random initialisation")
    assert needed.labels < 60
    assert f"reaches 'random initialisation' with {needed}" in found.summary()


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    report("random again", 0, seeds=2)
    assert torch.equal(torch.get_rng_state(), state)
