"""Maps of large populations: every volume is painted, the legend is true, clicks and lassos find their volumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bokeh.document import Document
from chromium import browser
from explorer_served import IMAGES, LEGEND, choose, lasso, served, tab_place, wait_for_text
from made_study import MadeStudy, make_study
from matplotlib.colors import to_rgb

from popclust.parts import Made
from popclust.population.groupings import StoredGroupings, read_groupings
from popclust.presentation import explorer, explorer_map, shading
from popclust.presentation import explorer_data as data
from popclust.reported import Grouping


@pytest.fixture
def session(made: MadeStudy, monkeypatch: pytest.MonkeyPatch) -> Iterator[explorer.Session]:
    monkeypatch.setattr(explorer_map, "MANY", 10)
    one = explorer.Session(data.read_explored(made.study))
    assert isinstance(one.map, explorer_map.PaintedMap)
    one.show(Document())
    yield one


def rgba(image: np.ndarray) -> np.ndarray:
    return image.view(np.uint8).reshape(*image.shape, 4)


def pixel_of(map_: explorer_map.PaintedMap, place: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    left, right, bottom, top = map_.window
    return (
        int((place[1] - bottom) / (top - bottom) * shape[0]),
        int((place[0] - left) / (right - left) * shape[1]),
    )


def test_every_volume_is_counted_in_the_picture() -> None:
    rng = np.random.default_rng(0)
    place, category = rng.random((5000, 2)), rng.integers(0, 4, 5000)
    pixels = shading.counted(place, category, (0, 1, 0, 1), (50, 60))
    assert pixels.count.sum() == 5000
    for row, column in ((0, 0), (20, 31), (49, 59)):
        inside = (np.floor(place[:, 1] * 50) == row) & (np.floor(place[:, 0] * 60) == column)
        assert pixels.count[row, column] == inside.sum()
        if inside.any():
            assert pixels.category[row, column] == np.bincount(category[inside]).argmax()
    image = shading.shaded(place, category, ["#ff0000", "#00ff00", "#0000ff", "#000000"], (0, 1, 0, 1), (50, 60), 1)
    seen = rgba(image)[..., 3]
    assert (seen[pixels.count > 0] >= 0.6 * 255 - 1).all()
    assert not rgba(shading.shaded(place[:0], category[:0], [], (0, 1, 0, 1), (5, 6), 1)).any()


def test_chosen_volumes_stand_out() -> None:
    place, category = np.array([[0.2, 0.2], [0.8, 0.8]]), np.array([0, 1])
    image = rgba(shading.shaded(place, category, ["#ff0000", "#0000ff"], (0, 1, 0, 1), (10, 10), 0, np.array([1])))
    assert image[8, 8, 3] == 255 and 0 < image[2, 2, 3] < 80


def test_no_two_categories_have_one_colour() -> None:
    colours = shading.told_apart([data.group_colour(k) for k in range(64)])
    assert len(set(colours)) == 64


def test_the_legend_is_true_after_every_recolouring(session: explorer.Session) -> None:
    map_, explored = session.map, session.explored
    place = explored.volumes[["x", "y"]].to_numpy()
    for choice in [value for group in data.colour_choices(explored).values() for value, _ in group]:
        session.colour.value = choice
        looks = data.appearance(explored, session.clusters, choice)
        key = map_._key.data
        assert key["category"] == list(data.categories(looks)) and len(set(key["colour"])) == len(key["colour"])
        assert [key["category"][item.index] for item in map_.legend.items] == key["category"]
        image = rgba(map_._picture.data["image"][0])
        for index in range(0, len(place), 5):
            colour = dict(zip(key["category"], key["colour"], strict=True))[looks["category"][index]]
            wanted = [round(255 * v) for v in to_rgb(colour)]
            near = np.linalg.norm((place - place[index]) * 500, axis=1) < 6
            if near.sum() == 1:  # nobody else is painted there
                assert image[pixel_of(map_, place[index], image.shape[:2])][:3].tolist() == wanted


def test_a_click_means_the_volume_below_it(session: explorer.Session) -> None:
    place = session.explored.volumes[["x", "y"]].to_numpy()
    session.map._tapped(SimpleNamespace(x=place[7, 0], y=place[7, 1]))
    assert session.viewer.volume_id == session.explored.volumes["volume_id"][7]
    session.map._tapped(SimpleNamespace(x=-5.0, y=-5.0))
    assert session.points.selected.indices == []


def test_what_is_drawn_around_is_tested_whole(session: explorer.Session) -> None:
    place = session.explored.volumes[["x", "y"]].to_numpy()
    rectangle = {"type": "rect", "x0": 0.6, "x1": -1.0, "y0": -1.0, "y1": 2.0}
    session.map._drawn_around(SimpleNamespace(final=False, geometry=rectangle))
    assert session.points.selected.indices == []
    session.map._drawn_around(SimpleNamespace(final=True, geometry=rectangle))
    wanted = np.flatnonzero(place[:, 0] <= 0.6).tolist()
    assert session.points.selected.indices == wanted and f"{len(wanted)} volumes of" in session.chosen.text
    triangle = {"type": "poly", "x": [-1, 3, -1], "y": [-1, -1, 3]}
    assert session.map.within(triangle) == np.flatnonzero(place.sum(axis=1) < 2).tolist()
    assert session.map.within({"type": "poly", "x": [0, 1], "y": [0, 1]}) == []


def test_near_volumes_say_what_they_are(session: explorer.Session) -> None:
    map_, place = session.map, session.explored.volumes[["x", "y"]].to_numpy()
    assert map_._near.data["x"] == []
    map_.plot.x_range.update(start=place[3, 0] - 0.01, end=place[3, 0] + 0.01)
    map_.plot.y_range.update(start=place[3, 1] - 0.01, end=place[3, 1] + 0.01)
    map_._rested()
    assert session.explored.volumes["volume_id"][3] in map_._near.data["volume_id"]


def test_one_patient_is_lit_in_all_panels(session: explorer.Session) -> None:
    explored = session.explored
    index = next(i for i, p in enumerate(explored.patient) if (explored.patient == p).sum() > 1)
    session.points.selected.indices = [index]
    own = np.flatnonzero(explored.patient == explored.patient[index])
    place = explored.volumes[["x", "y"]].to_numpy()
    assert session.map._rings.data == {"x": place[own, 0].tolist(), "y": place[own, 1].tolist()}
    wanted = set()
    for i in own.tolist():
        volume_id = explored.volumes["volume_id"][i]
        if volume_id in explored.has_term.index:
            row = explored.has_term.loc[volume_id]
            wanted |= {(session.clusters["cluster"][i], t) for t in explored.term_names if row[t]}
    cells = session.cells.data
    tested = {(c, t) for c, t in zip(cells["cluster"], cells["term_id"], strict=True)}
    assert len(session.matrix.ringed) == len(wanted & tested) > 0
    session.points.selected.indices = []
    assert session.map._rings.data["x"] == [] and session.matrix.ringed == set()


def test_a_selection_is_exported_as_it_is_shown(session: explorer.Session) -> None:
    session.colour.value = "scanner"
    session.points.selected.indices = [2, 5]
    lines = session._to_csv().splitlines()
    explored = session.explored
    assert len(lines) == 3 and lines[0].startswith("volume_id,group,coloured_by,category,kernel")
    first = lines[1].split(",")
    assert first[0] == explored.volumes["volume_id"][2] and first[2] == "scanner"
    assert first[3] == explored.volumes["scanner"][2]
    session.points.selected.indices = []
    assert len(session._to_csv().splitlines()) == len(explored.volumes) + 1


def test_groupings_are_read_one_at_a_time(made: MadeStudy) -> None:
    stored, whole = StoredGroupings.open(made.study), read_groupings(made.study)
    assert stored.grid.equals(whole.grid)
    for descriptor, n_clusters, seed in whole.grid.sample(5, random_state=0).itertuples(index=False):
        grouping = Grouping(descriptor, n_clusters, seed)
        assert stored.table(grouping).equals(whole.table(grouping))
    with pytest.raises(ValueError, match="there is no"):
        stored.table(Grouping("lda", 99, 0))


def test_the_reader_reads_again_what_a_run_has_changed(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 24, with_volumes=False).study
    reader = explorer.Reader(study)
    first = reader.read()
    assert reader.read() is first
    study.publish("associate", "another run", Made(study.record("associate")))
    assert reader.read() is not first


def test_a_painted_map_in_a_real_browser(made: MadeStudy) -> None:
    """A click shows slices, a lasso by mouse is tested, the legend follows; nothing on the console."""
    before = "import popclust.presentation.explorer_map as m; m.MANY = 10"
    explored = data.read_explored(made.study)
    place = explored.volumes[["x", "y"]].to_numpy()
    with browser(1500, 1300) as tab, served(made.study, before) as (url, _):
        tab.goto(url)
        tab.wait_for("window.Bokeh && Bokeh.documents.length > 0 && Bokeh.index.roots.length > 0", 120)
        tab.wait_for(f"{LEGEND}.length > 0", 120)
        tab.click(*tab_place(tab, tuple(place[5])))
        volume_id = explored.volumes["volume_id"][5]
        tab.wait_for(f"{IMAGES}.filter(i => i.naturalWidth === 230 && i.alt.includes('{volume_id}')).length === 3")
        choose(tab, "colour by", "kernel")
        clusters = data.clusters_of(explored, explored.view.reported)
        names = list(data.categories(data.appearance(explored, clusters, "kernel")))
        tab.wait_for(f"JSON.stringify({LEGEND}.map(e => e[0])) === JSON.stringify({names})")
        lasso(tab, ((-0.01, -0.01), (0.6, -0.01), (0.6, 1.01), (-0.01, 1.01)))
        text = wait_for_text(tab, f"{int((place[:, 0] < 0.6).sum())} volumes of")
        assert "Exploratory" in text
        assert tab.errors == []
