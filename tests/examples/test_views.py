"""The pictures of the views: every one of them, on the small LP and on a file's; and the page that shows them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lp import read_lp
from PIL import Image as Picture

import jepa_ssl.lp
import jepa_ssl.maskers
from jepa_ssl.contrib import symmetries as symmetries_room
from jepa_ssl.contrib.symmetries import Symmetry

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import views  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "views.md").read_text()

TINY = """\\ three rows, one of them an equality, and bounds
Maximize
 profit: 4 x + 6 y + 3 z
Subject To
 first: x + 2 y + z <= 8
 second: 2 x - y <= 7
 third: y + z = 4
Bounds
 x <= 5
 -1 <= z <= 9
End
"""


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        views.main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


SLOWER_PICTURES = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("block_masker", "fills", "permutation", "solver_state")
]


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@pytest.mark.slow
def test_it_draws_every_view_of_the_small_lp(tmp_path):
    views.main(["--folder", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == set(views.PICTURES)
    for path in tmp_path.iterdir():
        with Picture.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 150
            assert len(np.unique(np.asarray(picture))) > 10, f"{path.name} is blank"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000


@pytest.mark.slow
def test_it_draws_the_views_of_a_file_and_leaves_out_what_changes_nothing(tmp_path, capsys):
    (tmp_path / "tiny.lp").write_text(TINY)
    folder = tmp_path / "a" / "b"
    views.main([str(tmp_path / "tiny.lp"), "--folder", str(folder)])
    without = {"bounds_as_rows", "equalities_as_inequalities"}  # the canonical form has neither
    assert {path.stem for path in folder.iterdir()} == set(views.PICTURES) - without
    said = capsys.readouterr().out
    assert all(f"{name}: no picture" in said for name in without)


@pytest.mark.parametrize("name", ["entry_masker", *SLOWER_PICTURES])
def test_a_picture_is_the_same_each_time_and_follows_the_seed(name, tmp_path):
    def drawn(seed: int) -> bytes:
        torch.manual_seed(seed)
        views.save(views.PICTURES[name](views.small_lp(), seed), tmp_path / "picture.png")
        return (tmp_path / "picture.png").read_bytes()

    assert drawn(0) == drawn(0)
    if name != "solver_state":  # nothing is drawn at random
        assert drawn(0) != drawn(1)


def test_marks_are_where_the_masker_hid():
    """A cell is drawn dark if and only if the masker's own draw says so."""
    lp = views.as_rows(views.small_lp()).instance
    whole = views.flat(lp)
    masker = jepa_ssl.maskers.EntryMasker(0.3, views.Marked())
    context = masker(whole, generator=views.seeded(3)).context
    drawn = masker.draw(whole, generator=views.seeded(3))
    assert torch.equal(context.isnan(), drawn)
    sheet, blank = views.sheet_of_vector(context[0], lp), views.sheet_of_vector(whole[0], lp)
    assert np.isnan(sheet.values).sum() - np.isnan(blank.values).sum() == drawn.sum()


@pytest.mark.parametrize("name", [*views.SYMMETRIES])
def test_frames_are_where_the_image_differs(name):
    """Against a comparison cell by cell; and the mapped solution has the objective of HiGHS' own."""
    lp = views.small_lp()
    image = views.SYMMETRIES[name].symmetry.apply(lp, generator=views.seeded(0))
    source, after, changed = views.sheets(image)
    rows = [label.split()[0] for label in source.rows]  # without ≤ and =
    for (i, j), value in np.ndenumerate(after.values):
        row, column = after.rows[i].split()[0], after.columns[j]
        if row in rows and column in source.columns:
            old = source.values[rows.index(row), list(source.columns).index(column)]
            assert changed[i, j] == (not np.isclose(value, old, equal_nan=True))
        else:
            assert changed[i, j] == (not np.isnan(value))
    mapped, _ = image.map_solution(*views.optimum(lp))
    found, _ = views.optimum(image.instance)
    torch.testing.assert_close(image.instance.c @ mapped, image.instance.c @ found)


def test_the_small_lp_has_one_optimum_without_ties():
    lp = views.small_lp()
    x, lam = views.optimum(lp)
    reduced = lp.c + views.matrix(lp).T @ lam
    assert ((x > 1e-6) ^ (reduced.abs() > 1e-6)).all()  # strictly complementary: primal and dual are unique
    assert (lam.abs() > 1e-6).all()


def test_a_large_lp_is_refused_before_anything_is_drawn(tmp_path, capsys):
    file, folder = tmp_path / "large.lp", tmp_path / "pictures"
    rows = "\n".join(f" r{i}: x + y >= {i}" for i in range(views.MOST_ROWS + 1))
    file.write_text(f"Minimize\n o: x + y\nSubject To\n{rows}\nEnd\n")
    said = refused([str(file), "--folder", str(folder)], capsys)
    assert "large has 83 rows and 2 columns" in said
    assert "give a smaller LP" in said
    assert not folder.exists()


def test_what_is_no_lp_is_refused(tmp_path, capsys):
    assert "nothing.lp" in refused([str(tmp_path / "nothing.lp")], capsys)
    (tmp_path / "text.lp").write_text("a poem")
    assert "text.lp" in refused([str(tmp_path / "text.lp")], capsys)
    (tmp_path / "file").touch()
    assert "file" in refused(["--folder", str(tmp_path / "file")], capsys)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT.parent / "shared" / "lp" / "avgas.mps").exists(), reason="no real LPs beside the project")
def test_a_real_lp(tmp_path):
    path = ROOT.parent / "shared" / "lp" / "avgas.mps"
    assert read_lp(path).rows <= views.MOST_ROWS
    views.main([str(path), "--folder", str(tmp_path)])
    assert len(bytes_in(tmp_path)) == len(views.PICTURES) - 2


@pytest.mark.parametrize("name", [*jepa_ssl.maskers.__all__, *jepa_ssl.lp.__all__])
def test_the_page_names_every_public_view(name):
    assert re.search(rf"\b{name}\b", PAGE), f"docs/views.md says nothing of {name}"


def test_the_page_shows_every_picture_and_every_view_has_one():
    shown = set(re.findall(r"\(figures/views/(\w+)\.png\)", PAGE))
    assert shown == set(views.PICTURES)
    assert {path.stem for path in views.DOCS.glob("*.png")} == shown
    maskers = {name for name in jepa_ssl.maskers.__all__ if name.endswith(("Masker", "Maskers", "View"))}
    public = {name: getattr(symmetries_room, name) for name in symmetries_room.__all__}
    symmetries = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, Symmetry)}
    symmetries -= {"Symmetry"}
    assert len(maskers) >= 7
    assert len(symmetries) == 14
    for name in maskers | symmetries | {"StructureMasker", "SolverState"}:
        assert snake(name) in shown
