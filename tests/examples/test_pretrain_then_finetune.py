"""The example of re-use: pretrained trunks that are exported, loaded, and trained on."""

from dataclasses import asdict
from pathlib import Path

import pretrain_then_finetune as example
import pytest
import torch

from jepa_ssl.integrations.export import export_encoder, read_metadata

TINY = example.Plan(pretraining_lps=6, few_lps=3, test_lps=3, pretraining_steps=2, marks=(0, 2))


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two exported trunks, of seed 0."""
    for number, recipe in enumerate(("solver state", "masked nodes")):
        torch.manual_seed(10 + number)
        policy = example.GNNPolicy(example.Namespace(embedding_size=example.DIM))
        export_encoder(policy.trunk, example.file_of(recipe, tmp_path, 0))
    return tmp_path


def test_arms_of_a_seed_differ_in_their_trunk_alone(folder):
    policies = {label: example.start(arm, folder, 0) for label, arm in example.ARMS.items()}
    heads = {weights(policy.head_x).sum().item() for policy in policies.values()}
    trunks = {label: weights(policy.trunk).sum().item() for label, policy in policies.items()}
    assert len(heads) == 1
    assert len({*trunks.values()}) == 3
    for label, arm in example.ARMS.items():
        same = {trunks[other] for other, its in example.ARMS.items() if its.trunk == arm.trunk}
        assert same == {trunks[label]}


@pytest.mark.parametrize("label", example.ARMS)
def test_a_frozen_trunk_does_not_learn_and_every_other_one_does(label, folder):
    policy = example.start(example.ARMS[label], folder, 0)
    trunk, head = weights(policy.trunk), weights(policy.head_x)
    data = example.lps(2, 0)
    residuals = example.finetune(policy, data, data, marks=(0, 2))
    assert torch.equal(weights(policy.trunk), trunk) == example.ARMS[label].frozen
    assert not torch.equal(weights(policy.head_x), head)
    assert residuals[1] != residuals[0]


def test_the_residual_is_that_of_each_lp_in_the_mean():
    """However the LPs are cut into batches."""
    policy = example.start(example.ARMS["from scratch"], Path(), 0)
    data = example.LPDataset([example.ruiz(lp, 10) for lp in example.instances(example.FAMILIES, {}, 5, 0)])
    one, uneven = (
        [example.collate_graphs([data[i] for i in rows]) for rows in example.batches(range(5), size)] for size in (1, 3)
    )
    assert example.measure(policy, one) == pytest.approx(example.measure(policy, uneven), rel=1e-5)


def test_the_table_and_the_figure_have_every_arm_and_seed(tmp_path):
    found = [{label: [seed + 0.5, 0.25] for label in example.ARMS} for seed in (0, 1)]
    table = example.table(found, (1, 2)).splitlines()
    assert table[0].split() == ["start", "1", "steps", "2", "steps"]
    assert [line.split("  ")[0] for line in table[2:]] == [*example.ARMS]
    assert all(line.endswith("5.0e-01, 1.5e+00  2.5e-01, 2.5e-01") for line in table[2:])
    (axes,) = example.figure(found, (1, 2)).axes
    assert len(axes.lines) == 2 * len(example.ARMS)


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--folder", "/dev/null/x"]])
def test_what_cannot_be_used_is_refused(arguments, refused):
    assert arguments[0] in refused(example.main, *arguments)


@pytest.mark.slow
def test_it_runs_and_one_seed_alone_runs_the_same(tmp_path, capsys):
    folder, alone = tmp_path / "both", tmp_path
    found = example.main(["--folder", str(folder), "--seeds", "2"], TINY)
    said = capsys.readouterr().out
    assert all(label in said for label in example.ARMS)
    assert "2 steps of pretraining on 6 more LPs" in said
    trunks = [f"{recipe}-seed{seed}.safetensors" for recipe in ("masked_nodes", "solver_state") for seed in (0, 1)]
    assert sorted(path.name for path in folder.iterdir()) == ["finetuning.png", *trunks]
    metadata = read_metadata(folder / trunks[3])
    assert metadata == {"recipe": "solver state", "seed": 1, "dim": 64, **asdict(TINY), "marks": [0, 2]}
    assert found[0] != found[1]
    assert example.run(TINY, alone, 0) == found[0]
    for name in trunks[::2]:
        assert (alone / name).read_bytes() == (folder / name).read_bytes()
