"""The demo, from an empty folder and again over its own."""

import demo
import pytest


def test_a_folder_of_someone_else_and_a_file_are_left_alone(tmp_path, refused):
    (tmp_path / "thesis.txt").write_text("ten years")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        assert "is not the demo's" in refused(demo.main, "--folder", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


def test_clearing_takes_only_what_the_demo_made(tmp_path):
    demo.prepare(tmp_path)
    for name in ("kkt-seed0", "evaluation", "data", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    demo.prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo", "data", "mine"]


def test_an_arm_is_judged_by_the_noise_floor():
    def report(label, kkt):
        embeddings = {"projector": {"constraint": {"effective_rank": 3.0}}}
        return {"label": label, "groups": [{"mean": {"kkt": kkt}}], "embeddings": embeddings}

    floor = [report("kkt-seed0", 2.0), report("kkt-seed1", 1.0)]
    for kkt, said in (
        (1.5, "between the two"),
        (3.0, "above both by a factor of 1.50, no more than the floor"),
        (6.0, "above both by a factor of 3.00, more than the floor"),
        (0.25, "below both by a factor of 4.00, more than the floor"),
    ):
        assert said in demo.verdict([*floor, report("jepa-ema", kkt)])


@pytest.mark.slow
def test_the_demo_runs_and_runs_again(tmp_path, capsys, monkeypatch, request):
    few = ("--train_instances", "10", "--val_instances", "5", "--test_instances", "5", "--problems", "set_cover")
    monkeypatch.setattr(demo, "SETTINGS", (*demo.SETTINGS, *few))
    folder = tmp_path / "demo"
    for epochs, smallest_picture in ((2, 10_000), (1, 0)):
        demo.main(["--folder", str(folder), "--epochs", str(epochs)])
        said = capsys.readouterr().out
        for part in ("Noise floor", "effective rank", "set_cover", *demo.arms(epochs)):
            assert part in said
        assert (folder / "comparison.png").stat().st_size > smallest_picture
        assert (folder / "evaluation" / "report.json").exists()
        request.getfixturevalue("undrawn")  # to draw it once is enough
