"""The explorer's panels: words and topics on slices, two groupings side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from bokeh.document import Document
from made_study import WORDS
from matplotlib.colors import to_rgb

from popclust.normalization.stored_maps import load_volume
from popclust.presentation import (
    explorer,
    explorer_compare,
    explorer_map,
    explorer_paint,
    slices,
)
from popclust.presentation import explorer_data as data
from popclust.presentation import explorer_selection as several
from popclust.presentation.explorer_compare import transitions
from popclust.presentation.word_places import LungParts
from popclust.study import Study


@pytest.fixture
def session(worded: Study) -> explorer.Session:
    one = explorer.Session(data.read_explored(worded))
    one.show(Document())
    return one


# -- words and topics on slices ------------------------------------------------------------------------------------


def test_a_word_is_painted_where_it_is(worded: Study) -> None:
    painter = explorer_paint.Painter(worded)
    volume_id = data.read_explored(worded).volumes["volume_id"][2]
    place = worded.open_group("atlas", "reference.zarr")
    lungs = load_volume(place, "lungs")
    assert LungParts.of(lungs)
    for word in (4, 7):
        paint, legend = painter.paint(volume_id, f"word:{word}")
        seen = painter.seen(volume_id)
        assert paint is not None and seen is not None
        own, others = seen.position_mm[seen.word == word], seen.position_mm[seen.word != word]
        assert (paint(own)[:, 3] > 0).all() and (paint(own)[:, :3] == to_rgb("#d55e00")).all()
        away = np.linalg.norm(others[:, None] - own[None], axis=2).min(axis=1) > explorer_paint.REACH_MM
        assert away.any() and (paint(others[away])[:, 3] == 0).all()
        where = "upper" if word % 2 == 0 else "lower"
        assert f"texture, word {word}: {where}" in legend and f"{len(own)} places" in legend


def test_the_legend_of_topics_says_what_is_painted(worded: Study) -> None:
    painter = explorer_paint.Painter(worded)
    explored = data.read_explored(worded)
    volume_id = explored.volumes["volume_id"][1]
    paint, legend = painter.paint(volume_id, explorer_paint.STRONGEST)
    seen = painter.seen(volume_id)
    assert paint is not None and seen is not None and legend.count("<li>") == explorer_paint.N_TOPICS
    topics = worded.read_dataset("topics")
    own = topics["topic_of_volume"].sel(volume=volume_id).to_numpy()
    joint = topics["word_of_topic"].to_numpy()[:, seen.word] * own[:, None]
    share = joint / joint.sum(axis=0)
    assert legend.index(f"topic {share.mean(axis=1).argmax()}:") == min(
        legend.index(f"topic {t}:") for t in range(20) if f"topic {t}:" in legend
    )
    best = share.argmax(axis=0)
    checked = 0
    for i in range(0, len(best), 20):
        same = np.linalg.norm(seen.position_mm - seen.position_mm[i], axis=1) < 1e-9
        if f"topic {best[i]}:" in legend and len(set(best[same])) == 1:
            colour = legend.split(f"topic {best[i]}:")[0].rsplit("background:", 1)[1][:7]
            np.testing.assert_allclose(paint(seen.position_mm[[i]])[0, :3], to_rgb(colour))
            checked += 1
    assert checked > 5
    one, text = painter.paint(volume_id, "topic:3")
    assert one is not None and f"{share[3].mean():.0%} of the features" in text
    strongest = seen.position_mm[[share[3].argmax()]]
    assert one(strongest)[0, 3] > 0


def test_a_slice_is_painted_and_nothing_else_changes(session: explorer.Session) -> None:
    session.points.selected.indices = [2]
    viewer = session.viewer
    plain = {p: picture.text for p, picture in viewer.pictures.items()}
    assert viewer.key.text == ""
    viewer.painted.value = "topics"
    assert all(viewer.pictures[p].text != plain[p] for p in plain) and "topic" in viewer.key.text
    assert "painted: the 5 strongest topics" in viewer.pictures["axial"].text
    viewer.painted.value = ""
    assert {p: picture.text for p, picture in viewer.pictures.items()} == plain
    names = [name for choices in viewer.painted.options.values() for _, name in choices]
    assert len(names) == 2 + 20 + sum(WORDS.values()) and any(name.startswith("topic 0: ") for name in names)
    volume = viewer.volume.slice(0, 20)
    tile = slices.slice_tile(volume, None, "axial", 60, paint=lambda p: np.tile([1.0, 0.0, 0.0, 1.0], (len(p), 1)))
    assert (tile.reshape(-1, 3) == [255, 0, 0]).all(axis=1).mean() > 0.5


def test_without_features_nothing_is_painted(worded: Study, tmp_path: Path) -> None:
    shutil.copytree(worded.url, tmp_path / "s")
    study = Study.open(str(tmp_path / "s"))
    volume_id = data.read_explored(study).volumes["volume_id"][0]
    study.remove("features", f"{volume_id}.zarr")
    paint, text = explorer_paint.Painter(study).paint(volume_id, "topics")
    assert paint is None and "no longer holds" in text
    study.remove("vocabulary")
    assert explorer_paint.Painter(study).choices == {"": [("", "nothing")]}


# -- two groupings -------------------------------------------------------------------------------------------------


def test_transitions_count_every_volume() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    found = transitions(first, second)
    assert found["n"].sum() == 300
    for row in found.itertuples():
        both = (first == row.first) & (second == row.second)
        assert row.n == both.sum()
        assert row.share_of_first == pytest.approx(both.sum() / (first == row.first).sum())
        assert row.share_of_second == pytest.approx(both.sum() / (second == row.second).sum())


def test_two_groupings_side_by_side(session: explorer.Session) -> None:
    compare = session.compare
    compare.descriptor.value = "sift"
    compare.n_clusters.value = "5"
    assert (compare.grouping.descriptor, compare.grouping.n_clusters) == ("sift", 5)
    second = data.clusters_of(session.explored, compare.grouping)["cluster"].to_numpy()
    assert session.points.data["group2"] == second.tolist()
    assert session.points.data["group"] == session.clusters["cluster"].tolist()
    names = [item.label.value for item in compare.map.legend.items]
    assert names == [f"group {k}" for k in range(5)]
    for item in compare.map.legend.items:
        assert session.points.data["category2"][item.index] == item.label.value
    assert sum(compare.flows.data["n"]) == len(second) and "adjusted Rand index" in compare.text.text
    session.tabs.active = 3
    compare.flows.selected.indices = [0]
    assert session.tabs.active == 3
    a, b = compare.flows.data["first"][0], compare.flows.data["second"][0]
    wanted = np.flatnonzero((session.clusters["cluster"].to_numpy() == a) & (second == b)).tolist()
    assert session.points.selected.indices == wanted and len(wanted) == compare.flows.data["n"][0]
    assert f"Group {a} of the first grouping, {b} of the second" in session.chosen.text
    session.points.selected.indices = [3]
    assert compare.map._rings.data == session.map._rings.data and compare.map._rings.data["x"]
    session.n_clusters.value = "3"
    session.regroup()
    assert set(compare.flows.data["first"]) == {0, 1, 2}


def test_a_comparison_of_pictures_is_painted_when_it_is_looked_at(
    worded: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer_map, "MANY", 10)
    monkeypatch.setattr(explorer_compare, "MANY", 10)
    session = explorer.Session(data.read_explored(worded))
    session.show(Document())
    compare = session.compare
    session.points.selected.indices = [3]
    assert compare.map._picture.data["image"] == [] and compare.text.text == ""
    session.tabs.active = 3
    assert len(compare.map._picture.data["image"]) == 1 and "adjusted Rand index" in compare.text.text
    assert compare.map._rings.data == session.map._rings.data and compare.map._rings.data["x"]
    compare.descriptor.value = "sift"
    looks = data.appearance(session.explored, data.clusters_of(session.explored, compare.grouping), "cluster")
    assert compare.map._key.data["category"] == list(data.categories(looks))


# -- without a mouse -----------------------------------------------------------------------------------------------


def test_what_the_mouse_chooses_can_be_named(session: explorer.Session) -> None:
    explored, group = session.explored, session.clusters["cluster"].to_numpy()
    session.volume.value = f" {explored.volumes['volume_id'][4]} "
    assert session.points.selected.indices == [4] and session.viewer.volume_id == explored.volumes["volume_id"][4]
    session.volume.value = "<i>nobody"
    assert "There is no volume &#39;&lt;i&gt;nobody&#39; on the map" in session.chosen.text
    session.category.value = "group 1"
    assert session.points.selected.indices == np.flatnonzero(group == 1).tolist()
    assert "<h3>group 1</h3>" in session.chosen.text and "Exploratory" in session.chosen.text
    session.colour.value = "scanner"
    assert session.category.options == ["", *data.categories(session.looks)] and session.category.value == ""
    for term_id, term in list(explored.term_names.items())[:4]:
        for k in range(3):
            session.cell_group.value, session.cell_term.value = str(k), term_id
            found = several.volumes_of_cell(explored, session.clusters, k, term_id)
            assert session.points.selected.indices == found
            assert (f"Group {k} with {term}" in session.chosen.text) and (found or "no volume" in session.chosen.text)


def test_the_same_row_can_be_chosen_again(session: explorer.Session) -> None:
    session.points.selected.indices = [3]
    for _ in range(2):
        near = several.neighbours_of(session.explored, session.points.selected.indices[0])
        session.alike.selected.indices = [0]
        assert session.points.selected.indices == [near["index"][0]] and session.alike.selected.indices == []
    session.cells.selected.indices = [0]
    chosen = session.points.selected.indices
    session.points.selected.indices = [5]
    session.cells.selected.indices = [0]
    assert session.points.selected.indices == chosen
    if session.tests.data["term_id"]:
        session.tests.selected.indices = [0]
        session.colour.value = "sex"
        assert session.tests.selected.indices == []
