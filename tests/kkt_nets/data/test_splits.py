"""Where a run's LPs come from: the cache of generated ones, and files."""

import multiprocessing
from argparse import Namespace
from pathlib import Path

import pytest
from data import splits
from data.generators import generate
from data.lp import LP, unscaled
from data.readers import read_lp
from data.scaling import ruiz
from data.splits import SPLITS, open_split
from loop.options import parse
from runs import TINY, contents

LP_FILE = "Minimize\n obj: x + {cost} y\nSubject To\n a: x + y >= 2\nEnd\n"


def options(root: Path, *flags: str) -> Namespace:
    return parse([*TINY, "--data_root", str(root), *flags])


def stores(root: Path) -> set[str]:
    return {file.name for file in root.iterdir()}


def test_lps_are_generated_once_and_are_those_of_the_generators(tmp_path):
    args = options(tmp_path)
    first = open_split(args, "train")
    before = contents(tmp_path)
    again = open_split(args, "train")

    assert contents(tmp_path) == before
    assert len(stores(tmp_path)) == 1
    assert len(first) == len(again) == 12
    assert [lp.family for lp in first] == ["set_cover", "random"] * 6
    for lp in first:
        expected = ruiz(generate(lp.family, getattr(args, f"{lp.family}_size"), int(lp.name.rsplit("-", 1)[1])))
        assert lp.A.toarray().tolist() == expected.A.toarray().tolist()
        assert lp.b.tolist() == expected.b.tolist()
        assert lp.c.tolist() == expected.c.tolist()


@pytest.mark.slow
def test_splits_and_seeds_share_no_lp(tmp_path):
    names = [
        {lp.name for lp in open_split(options(tmp_path, "--data_seed", seed), split)}
        for seed in ("0", "1")
        for split in SPLITS
    ]
    assert len(set.union(*names)) == sum(map(len, names))


@pytest.mark.parametrize("flags", [
    ["--set_cover_size", "4", "5"], ["--data_seed", "1"], ["--train_instances", "11"], ["--ruiz_iterations", "0"],
    ["--problems", "set_cover"], ["--problems", "random", "set_cover"],
], ids=" ".join)  # fmt: skip
def test_what_changes_the_lps_changes_their_file(tmp_path, flags):
    open_split(options(tmp_path), "train")
    open_split(options(tmp_path, *flags), "train")
    assert len(stores(tmp_path)) == 2


@pytest.mark.parametrize("flags", [
    ["--auction_size", "4", "5"], ["--seed", "1"], ["--lr", "1"], ["--val_instances", "3"], ["--use_jepa"],
], ids=" ".join)  # fmt: skip
def test_what_does_not_change_the_lps_does_not_change_their_file(tmp_path, flags):
    open_split(options(tmp_path), "train")
    before = contents(tmp_path)
    open_split(options(tmp_path, *flags), "train")
    assert contents(tmp_path) == before


def test_an_interrupted_generation_leaves_nothing_and_is_done_again(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(splits, "ruiz", fail)
    with pytest.raises(OSError, match="the disk is full"):
        open_split(options(tmp_path), "train")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert len(open_split(options(tmp_path), "train")) == 12


def _open(root: Path) -> list[str]:
    return [lp.name for lp in open_split(options(root, "--train_instances", "50"), "train")]


@pytest.mark.slow
def test_two_processes_that_generate_at_once_do_not_disturb_each_other(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_open, [tmp_path, tmp_path])
    assert first == second == _open(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # no unfinished one


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_every_fifth_file_is_kept_for_validation(tmp_path, count):
    files = [tmp_path / f"{i:02d}.lp" for i in range(count)]
    for i, file in enumerate(files):
        file.write_text(LP_FILE.format(cost=i + 2))
    args = options(tmp_path / "data", "--lp_files", *map(str, reversed(files)))
    names = {split: [lp.name for lp in open_split(args, split)] for split in SPLITS}

    every = [f"{i:02d}" for i in range(count)]
    assert names["test"] == every
    if count < 5:
        assert names["train"] == names["val"] == every
    else:
        assert names["val"] == every[4::5]
        assert sorted(names["train"] + names["val"]) == every
    assert not (tmp_path / "data").exists()


def test_files_are_rescaled_as_asked(tmp_path):
    (tmp_path / "a.lp").write_text(LP_FILE.format(cost=1000))
    plain, scaled = (
        open_split(options(tmp_path, "--lp_files", str(tmp_path / "a.lp"), "--ruiz_iterations", n), "train")[0]
        for n in ("0", "10")
    )
    assert plain.scaling is None
    assert scaled.scaling is not None
    assert unscaled(scaled).c.tolist() == plain.c.tolist() == read_lp(tmp_path / "a.lp").c.tolist()


@pytest.mark.parametrize("count", [2, 5])
def test_a_file_is_read_once_for_all_splits(tmp_path, monkeypatch, count):
    files = [str(tmp_path / f"{i}.lp") for i in range(count)]
    for i, file in enumerate(files):
        Path(file).write_text(LP_FILE.format(cost=i + 2))
    read: list[str] = []

    def counted(path: str) -> LP:
        read.append(path)
        return read_lp(path)

    monkeypatch.setattr(splits, "read_lp", counted)
    for split in SPLITS:
        open_split(options(tmp_path, "--lp_files", *files), split)
    assert sorted(read) == files


def test_a_file_named_twice_is_refused(tmp_path):
    (tmp_path / "a.lp").write_text(LP_FILE.format(cost=2))
    (tmp_path / "link.lp").symlink_to(tmp_path / "a.lp")
    for other in ("a.lp", "link.lp", "../" + tmp_path.name + "/a.lp"):
        args = options(tmp_path, "--lp_files", f"{tmp_path}/a.lp", f"{tmp_path}/{other}")
        for split in SPLITS:
            with pytest.raises(ValueError, match=r"^--lp_files names .*\.lp twice; name each file once\.$"):
                open_split(args, split)


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (4, 1), (5, 0)])
def test_validation_on_the_training_lps_is_said_once(tmp_path, capsys, count, lines):
    files = [tmp_path / f"{i}.lp" for i in range(count)]
    for file in files:
        file.write_text(LP_FILE.format(cost=2))
    for split in SPLITS:
        open_split(options(tmp_path, "--lp_files", *map(str, files)), split)
    shown = capsys.readouterr()
    assert shown.err.count("--lp_files names fewer than five files: validation uses the training LPs.\n") == lines
    assert shown.out == ""


def test_a_data_root_that_cannot_be_made_is_refused_by_flag(tmp_path):
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=f"^--data_root {root} cannot be written to .*; name another folder"):
            open_split(options(root), "train")
    assert contents(tmp_path).keys() == {"file"}


def test_finished_lps_are_read_from_a_folder_that_takes_no_more(tmp_path, monkeypatch):
    open_split(options(tmp_path), "train")

    def refuse(*_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(splits, "writable_folder", refuse)
    assert len(open_split(options(tmp_path), "train")) == 12
