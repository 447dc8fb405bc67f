"""The pictures of the views: every one of them, on the small LP and on a file's; and the page that shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import views
from data.readers import read_lp
from PIL import Image as Picture

import jepa_ssl.lp
import jepa_ssl.maskers
from jepa_ssl.contrib import symmetries as symmetries_room
from jepa_ssl.contrib.symmetries import Symmetry

ROOT = Path(__file__).parents[2]
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


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    views.main(["--folder", str(folder)])
    return folder


@pytest.mark.slow
def test_it_draws_every_view_of_the_small_lp(drawn: Path):
    assert {path.stem for path in drawn.iterdir()} == set(views.PICTURES)
    for path in drawn.iterdir():
        with Picture.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 150
            assert len(np.unique(np.asarray(picture))) > 10, f"{path.name} is blank"
    assert sum(path.stat().st_size for path in drawn.iterdir()) < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["entry_masker", "block_masker", "permutation", "solver_state"])
def test_a_picture_is_the_same_each_time_and_follows_the_seed(drawn: Path, name: str, tmp_path: Path):
    def again(seed: int) -> bytes:
        torch.manual_seed(seed)
        figure = views.PICTURES[name](views.small_lp(), seed)
        assert figure is not None
        views.save(figure, tmp_path / "picture.png")
        return (tmp_path / "picture.png").read_bytes()

    first = (drawn / f"{name}.png").read_bytes()
    assert again(0) == first
    if name != "solver_state":  # it draws nothing at random
        assert again(1) != first


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_it_draws_the_views_of_a_file_and_leaves_out_what_changes_nothing(tmp_path, capsys):
    (tmp_path / "tiny.lp").write_text(TINY)
    folder = tmp_path / "a" / "b"
    views.main([str(tmp_path / "tiny.lp"), "--folder", str(folder)])
    without = {"bounds_as_rows", "equalities_as_inequalities"}  # the canonical form has neither
    assert {path.stem for path in folder.iterdir()} == set(views.PICTURES) - without
    said = capsys.readouterr().out
    assert all(f"{name}: no picture" in said for name in without)


def test_marks_are_where_the_masker_hid():
    """A cell is drawn dark if and only if the masker's own draw says so."""
    lp = views.as_rows(views.small_lp()).instance
    whole = views.flat(lp)
    masker = jepa_ssl.maskers.EntryMasker(0.3, views.Marked())
    context = masker(whole, generator=views.seeded(3)).context
    drawn = masker.draw(whole, generator=views.seeded(3))["instance"]
    assert torch.equal(context.isnan(), drawn)
    sheet, blank = views.sheet_of_vector(context[0], lp), views.sheet_of_vector(whole[0], lp)
    assert np.isnan(sheet.values).sum() - np.isnan(blank.values).sum() == drawn.sum()


@pytest.mark.parametrize("name", [*views.SYMMETRIES])
def test_frames_are_where_the_transformed_lp_differs(name):
    """Against a comparison cell by cell; and the mapped solution has the objective of HiGHS' own."""
    lp = views.small_lp()
    transformed = views.SYMMETRIES[name].symmetry.apply(lp, generator=views.seeded(0))
    source, after, changed = views.sheets(transformed)
    rows = [label.split()[0] for label in source.rows]  # without ≤ and =
    for place, value in np.ndenumerate(after.values):
        i, j = map(int, place)
        row, column = after.rows[i].split()[0], after.columns[j]
        if row in rows and column in source.columns:
            old = source.values[rows.index(row), list(source.columns).index(column)]
            assert changed[i, j] == (not np.isclose(value, old, equal_nan=True))
        else:
            assert changed[i, j] == (not np.isnan(value))
    mapped, _ = transformed.map_solution(*views.optimum(lp))
    found, _ = views.optimum(transformed.instance)
    torch.testing.assert_close(transformed.instance.c @ mapped, transformed.instance.c @ found)


def test_the_small_lp_has_one_optimum_without_ties():
    lp = views.small_lp()
    x, lam = views.optimum(lp)
    reduced = lp.c + views.matrix(lp).T @ lam
    assert ((x > 1e-6) ^ (reduced.abs() > 1e-6)).all()  # strictly complementary: primal and dual are unique
    assert (lam.abs() > 1e-6).all()


def test_a_large_lp_is_refused_before_anything_is_drawn(tmp_path, refused):
    file, folder = tmp_path / "large.lp", tmp_path / "pictures"
    rows = "\n".join(f" r{i}: x + y >= {i}" for i in range(views.MOST_ROWS + 1))
    file.write_text(f"Minimize\n o: x + y\nSubject To\n{rows}\nEnd\n")
    said = refused(views.main, file, "--folder", folder)
    assert "large has 83 rows and 2 columns" in said
    assert "give a smaller LP" in said
    assert not folder.exists()


def test_what_is_not_an_lp_is_refused(tmp_path, refused):
    assert "nothing.lp" in refused(views.main, tmp_path / "nothing.lp")
    (tmp_path / "text.lp").write_text("a poem")
    assert "text.lp" in refused(views.main, tmp_path / "text.lp")
    (tmp_path / "file").touch()
    assert "file" in refused(views.main, "--folder", tmp_path / "file")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.skipif(not (ROOT.parent / "shared" / "lp" / "avgas.mps").exists(), reason="no real LPs beside the project")
def test_a_real_lp(tmp_path, monkeypatch):
    """In one picture of each kind."""
    path = ROOT.parent / "shared" / "lp" / "avgas.mps"
    assert read_lp(path).rows <= views.MOST_ROWS
    kinds = ("entry_masker", "block_masker", "permutation", "solver_state")
    monkeypatch.setattr(views, "PICTURES", {name: views.PICTURES[name] for name in kinds})
    views.main([str(path), "--folder", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == {*kinds}


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
