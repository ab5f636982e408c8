"""The explorer in a real browser: every interaction, asserted on what a person then sees."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chromium import Page, browser
from explorer_seen import (
    IN_TABLE,
    MAP,
    MATRIX,
    RING,
    SECOND,
    alone,
    changed,
    click_volume,
    go_to,
    is_coloured,
    is_painted,
    named,
    places_of,
    ringed,
    slices,
    slices_that,
    standing_out,
)
from explorer_served import (
    LEGEND,
    PARTS,
    SWATCHES,
    around,
    choose,
    figure_places,
    in_sight,
    lasso,
    open_explorer,
    point_at,
    seen,
    served,
    turn_to,
    until,
)
from made_study import make_study
from numpy.typing import NDArray

from popclust.presentation import explorer_data as data
from popclust.presentation import explorer_selection as several
from popclust.presentation.association_figure import frequent_terms
from popclust.presentation.explorer_compare import transitions
from popclust.presentation.explorer_paint import Painter
from popclust.presentation.explorer_parts import _DIVERGING
from popclust.presentation.figures import map_of_population
from popclust.presentation.style import shortened
from popclust.presentation.view import read_view
from popclust.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    few = {"associate": {"n_permutations": 0}, "cluster": {"seeds": [0, 1]}}
    folder = tmp_path_factory.mktemp("seen") / "s"
    one = make_study(folder, 60, with_words=True, overrides=few, numbers_of_clusters=range(3, 7)).study
    place = map_of_population(read_view(one)).to_csv(index=False)
    one.write_bytes(place.encode(), "figures", "map.csv")
    return one


@pytest.fixture(scope="module")
def explored(study: Study) -> data.Explored:
    return data.read_explored(study)


@pytest.fixture(scope="module")
def clusters(explored: data.Explored) -> pd.DataFrame:
    assert explored.view.reported is not None
    return data.clusters_of(explored, explored.view.reported)


@pytest.fixture(scope="module")
def opened(study: Study) -> Iterator[tuple[Page, str]]:
    with browser(1500, 1500) as tab, served(study) as (url, _):
        yield tab, url


@pytest.fixture
def tab(opened: tuple[Page, str]) -> Iterator[Page]:
    """The explorer as it is when it is opened; afterwards nothing was thrown in it."""
    page, url = opened
    page.errors.clear()
    open_explorer(page, url)
    yield page
    assert page.errors == []


# -- the matrix ----------------------------------------------------------------------------------------------------


def test_the_matrix_is_painted_and_a_click_on_a_cell_selects_its_patients(
    tab: Page, explored: data.Explored, clusters: pd.DataFrame
) -> None:
    tests = explored.tests_of(explored.view.reported)
    cells = several.matrix_cells(tests, frequent_terms(tests, 60)["term_id"].tolist(), explored.view.alpha)
    assert (cells["strength"] != 0).any()
    colours = [_DIVERGING[min(6, int((s + 5) / 10 * 7))] for s in cells["strength"]]
    turn_to(tab, "Matrix")

    def painted() -> list[bool]:
        names = zip(cells["cluster"].astype(str), cells["term"].map(lambda t: shortened(t, 30)), strict=True)
        places, picture = figure_places(tab, MATRIX, list(names)), seen(tab)
        return [is_coloured(around(picture, p, 2), c) for p, c in zip(places, colours, strict=True)]

    until(lambda: all(painted()), "every cell has its colour")
    cell = cells.loc[cells["strength"].idxmax()]
    found = several.volumes_of_cell(explored, clusters, cell["cluster"], cell["term_id"])
    tab.click(*figure_places(tab, MATRIX, [(str(cell["cluster"]), shortened(cell["term"], 30))])[0])
    tab.wait_for(in_sight(f"Group {cell['cluster']} with {cell['term']}"))
    patients = pd.Series(explored.patient[found]).nunique()
    assert tab.evaluate(in_sight(f"{len(found):,} volumes of {patients:,} patients."))
    looks = data.appearance(explored, clusters, "cluster")
    lonely = alone(places_of(tab, explored))
    until(lambda: standing_out(tab, explored, looks) == lonely & set(found), "only the patients of the cell stand out")


# -- the map -------------------------------------------------------------------------------------------------------


def test_the_map_and_its_legend_after_every_recolouring(
    tab: Page, explored: data.Explored, clusters: pd.DataFrame
) -> None:
    called = {value: name for group in data.colour_choices(explored).values() for value, name in group}
    term = next(iter(explored.term_names))
    for choice in (f"term:{term}", "topic", "scanner", "noise_hu", "failure", "age", "sex", "cluster"):
        choose(tab, "colour by", called[choice])
        looks = data.appearance(explored, clusters, choice)
        first_of = data.categories(looks)
        wanted = {shortened(name, 30): looks["colour"][index] for name, index in first_of.items()}
        tab.wait_for(f"JSON.stringify({LEGEND}.map((e) => e[0])) === JSON.stringify({json.dumps(list(wanted))})")
        for said, category in tab.evaluate(LEGEND):
            assert said == shortened(category, 30)
        lonely = alone(places_of(tab, explored))
        assert len(lonely) > 20
        until(lambda looks=looks, lonely=lonely: standing_out(tab, explored, looks) == lonely, f"coloured by {choice}")
        for said, colour in tab.evaluate(SWATCHES):
            assert is_coloured(np.array(colour[:3]), wanted[said]), (choice, said)


def test_another_grouping_changes_all_that_is_shown(tab: Page, explored: data.Explored) -> None:
    for title, wanted, asked in (("number of groups K", "6", ("lda", 6, 0)), ("seed", "1", ("lda", 6, 1))):
        choose(tab, title, wanted)
        grouping = data.nearest_grouping(explored.groupings.grid, *asked)
        tab.wait_for(in_sight(data.grouping_name(grouping)))
        looks = data.appearance(explored, data.clusters_of(explored, grouping), "cluster")
        tab.wait_for(f"{SWATCHES}.length === 6")
        lonely = alone(places_of(tab, explored))
        until(lambda looks=looks, lonely=lonely: standing_out(tab, explored, looks) == lonely, f"{title} {wanted}")
        rows = data.association_table(explored, grouping)
        assert len(rows)
        cells = [str(v) for r in rows.head(8).itertuples() for v in (r.cluster, r.term, r.mentioned, r.in_group)]
        shown = f"{PARTS}.filter((n) => n.className.includes?.('slick-row') && n.checkVisibility({{ visibilityProperty"
        shown += ": true })).flatMap((n) => [...n.children].slice(0, 4).map((c) => c.textContent))"
        until(lambda cells=cells, shown=shown: tab.evaluate(shown)[: len(cells)] == cells, f"the rows of {title}")


def test_an_association_colours_the_map_by_its_term(tab: Page, explored: data.Explored, clusters: pd.DataFrame) -> None:
    row = data.association_table(explored, explored.view.reported).iloc[0]
    point_at(tab, f"n.className.includes?.('slick-cell') && n.textContent === {json.dumps(row['term'])}")
    looks = data.appearance(explored, clusters, f"term:{row['term_id']}")
    tab.wait_for(f"{SWATCHES}.some(([text]) => text === 'mentioned')")
    lonely = alone(places_of(tab, explored))
    until(lambda: standing_out(tab, explored, looks) == lonely, "coloured by the term")


def test_what_is_drawn_around_is_tested(tab: Page, explored: data.Explored, clusters: pd.DataFrame) -> None:
    x = explored.volumes["x"]
    inside = np.flatnonzero(x < 0.5).tolist()
    lasso(tab, ((-0.01, -0.01), (0.5, -0.01), (0.5, 1.01), (-0.01, 1.01)))
    tab.wait_for(in_sight(f"{len(inside):,} volumes of {pd.Series(explored.patient[inside]).nunique():,} patients."))
    assert tab.evaluate(in_sight("Exploratory"))
    for row in several.exploratory_test(explored, inside).head(3).itertuples():
        for text in (row.term, f"{row.V} of {row.R}", f"{row.C} of {row.B}"):
            assert tab.evaluate(in_sight(text)), text
    looks, lonely = data.appearance(explored, clusters, "cluster"), alone(places_of(tab, explored))
    until(lambda: standing_out(tab, explored, looks) == lonely & set(inside), "what is inside stands out")


def test_a_group_shows_its_card(tab: Page, explored: data.Explored, clusters: pd.DataFrame) -> None:
    own = np.flatnonzero(clusters["cluster"] == 2).tolist()
    turn_to(tab, "Group")
    choose(tab, "group", "2")
    tab.wait_for(in_sight("Group 2"))
    assert tab.evaluate(in_sight(f"{len(own)} of {pd.Series(explored.patient[own]).nunique()} patients"))
    looks, lonely = data.appearance(explored, clusters, "cluster"), alone(places_of(tab, explored))
    until(lambda: standing_out(tab, explored, looks) == lonely & set(own), "the group stands out")


def test_a_selection_is_saved_as_it_is_seen(
    tab: Page, explored: data.Explored, clusters: pd.DataFrame, tmp_path: Path
) -> None:
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    choose(tab, "colour by", "scanner")
    name = explored.volumes["scanner"].iloc[0]
    choose(tab, "select all that are", name)
    own = explored.volumes[explored.volumes["scanner"] == name]
    tab.wait_for(in_sight(f"{len(own)} volumes of"))
    point_at(tab, "n.tagName === 'BUTTON' && n.textContent.startsWith('save the selection')")
    until(lambda: [p.name for p in tmp_path.iterdir()] == ["selection.csv"], "the file is there")
    saved = pd.read_csv(io.BytesIO((tmp_path / "selection.csv").read_bytes()), dtype=str)
    assert saved["volume_id"].tolist() == own["volume_id"].tolist()
    assert set(saved["coloured_by"]) == {"scanner"} and set(saved["category"]) == {name}
    assert saved["group"].astype(int).tolist() == clusters.loc[own.index, "cluster"].tolist()
    assert not set(saved) & {"patient_id", "study_id", "accession_id", "acquired_on"}


# -- one volume ----------------------------------------------------------------------------------------------------


def test_a_click_shows_three_planes_in_any_window(
    tab: Page, study: Study, explored: data.Explored, clusters: pd.DataFrame
) -> None:
    index = min(alone(places_of(tab, explored)))
    volume_id = str(explored.volumes["volume_id"][index])
    first = click_volume(tab, explored, index)
    assert set(first) == {"axial", "coronal", "sagittal"} and tab.evaluate(in_sight(volume_id))
    assert tab.evaluate(in_sight(f"{clusters['cluster'][index]} (distance to its centre"))
    handle = f"{PARTS}.find((n) => n.getAttribute?.('aria-label') === 'axial slice')"
    x, y, width, height = tab.evaluate(f"(({{ x, y, width, height }}) => [x, y, width, height])"
                                       f"({handle}.getBoundingClientRect())")  # fmt: skip
    number = next(alt for alt in slices(tab) if alt.startswith("axial")).split(" of ")[0]
    tab.drag([(x + width / 2, y + height / 2), (x + width / 2 + 40, y + height / 2)])
    until(lambda: not any(alt.startswith(number + " ") for alt in slices(tab)), "another axial slice")
    ended = int(float(tab.evaluate(f"{handle}.getAttribute('aria-valuenow')")))  # the picture follows the drag
    until(lambda: any(alt.startswith(f"axial slice {ended + 1} of") for alt in slices(tab)), "the slice of its end")
    scrolled = slices_that(tab, volume_id)
    assert changed(first, scrolled) == {"axial"}
    choose(tab, "window", "soft tissue")
    soft = slices_that(tab, "soft tissue window")
    assert changed(scrolled, soft) == set(first)
    choose(tab, "window", "lung")
    slices_that(tab, "lung window")
    point_at(tab, "n.tagName === 'INPUT' && n.type === 'checkbox'")
    until(lambda: changed(scrolled, slices_that(tab, volume_id)) == set(first), "no outline")
    bare = slices_that(tab, volume_id)
    for plane, picture in bare.items():
        is_line = (picture != scrolled[plane]).any(axis=2)
        assert 0 < is_line.mean() < 0.1 and (np.ptp(scrolled[plane][is_line].astype(int), axis=1) > 0).all()


def test_words_and_topics_are_painted_where_they_are(tab: Page, study: Study, explored: data.Explored) -> None:
    index = min(alone(places_of(tab, explored)))
    volume_id = str(explored.volumes["volume_id"][index])
    plain = click_volume(tab, explored, index)
    painter = Painter(study)
    choose(tab, "paint on the slices", "the 5 strongest topics")
    topics = slices_that(tab, "painted: the 5 strongest topics")
    keys = f"{PARTS}.filter((n) => n.className === 'key').map((n) => [n.style.background, n.parentNode.textContent])"
    colours = [colour for colour, _ in tab.evaluate(keys)]
    assert len(colours) == 5 and all("topic" in text for _, text in tab.evaluate(keys))
    hexed = ["#" + "".join(f"{int(v):02x}" for v in c[4:-1].split(",")) for c in colours]
    assert all(any(is_painted(plain[p], topics[p], colour) for p in plain) for colour in hexed[:3])
    seen_there = painter.seen(volume_id)
    assert seen_there is not None
    z = float(np.median(seen_there.position_mm[:, 0]))
    word = int(seen_there.word[np.abs(seen_there.position_mm[:, 0] - z).argmin()])
    choose(tab, "paint on the slices", painter.word_name(word))
    words = slices_that(tab, f"painted: {painter.word_name(word)}")
    assert changed(topics, words) == set(plain) and tab.evaluate(in_sight(painter.word_name(word)))
    choose(tab, "paint on the slices", "nothing")
    until(lambda: not any("painted" in alt for alt in slices(tab)), "nothing is painted")
    assert changed(plain, slices_that(tab, volume_id)) == set()


def test_the_volumes_alike_lead_from_one_to_the_next(tab: Page, explored: data.Explored) -> None:
    index = min(alone(places_of(tab, explored)))
    click_volume(tab, explored, index)
    near = several.neighbours_of(explored, index)["volume_id"].tolist()
    tab.wait_for(" && ".join(in_sight(name) for name in near))
    point_at(tab, f"n.className.includes?.('slick-cell') && n.textContent === {json.dumps(near[0])}")
    slices_that(tab, near[0])
    then = several.neighbours_of(explored, int(np.flatnonzero(explored.volumes["volume_id"] == near[0])[0]))
    tab.wait_for(" && ".join(in_sight(name) for name in then["volume_id"]))


def test_one_patient_is_lit_in_all_panels(tab: Page, explored: data.Explored, clusters: pd.DataFrame) -> None:
    patient = explored.patient
    lonely = alone(places_of(tab, explored), 24)
    index = next(i for i in sorted(lonely) if (patient == patient[i]).sum() > 1)
    own = own_of(patient, index)
    click_volume(tab, explored, index)
    until(lambda: ringed(tab, explored) == set(own), "the patient's volumes are ringed")
    turn_to(tab, "Matrix")
    cells = several.cells_of(explored, clusters, np.array(own))
    tests = explored.tests_of(explored.view.reported)
    terms = dict(frequent_terms(tests, 60).set_index("term_id")["term"])
    tested = set(zip(tests["cluster"], tests["term_id"], strict=True)) & {(k, t) for k, t in cells if t in terms}
    assert tested

    def ringed_cells() -> set[tuple[int, str]]:
        every = [(k, t) for k in sorted(clusters["cluster"].unique()) for t in terms]
        places = figure_places(tab, MATRIX, [(str(k), shortened(terms[t], 30)) for k, t in every])
        tall = abs(places[1][1] - places[0][1]) + 8
        picture = seen(tab)
        return {c for c, p in zip(every, places, strict=True)
                if is_coloured(around(picture, p, round(tall))[:, round(tall) // 2], RING)}  # fmt: skip

    until(lambda: ringed_cells() >= tested, "the patient's cells are ringed")
    turn_to(tab, "Two groupings")
    until(lambda: ringed(tab, explored, SECOND) == set(own), "the second map rings the patient too")


def own_of(patient: NDArray[np.object_], index: int) -> list[int]:
    return np.flatnonzero(patient == patient[index]).tolist()


# -- two groupings, and the keyboard -------------------------------------------------------------------------------


def test_two_groupings_side_by_side(tab: Page, explored: data.Explored, clusters: pd.DataFrame) -> None:
    turn_to(tab, "Two groupings")
    choose(tab, "second: formed on", "3D-SIFT shape")
    choose(tab, "second: number of groups K", "4")
    grouping = data.nearest_grouping(explored.groupings.grid, "sift", 4, explored.view.reported.seed)
    second = data.clusters_of(explored, grouping)
    tab.wait_for(in_sight(data.grouping_name(grouping)))
    both = [data.appearance(explored, one, "cluster") for one in (clusters, second)]
    lonely = alone(places_of(tab, explored, SECOND))
    until(lambda: standing_out(tab, explored, both[1], SECOND) == lonely, "the second map has its colours")
    row = transitions(clusters["cluster"].to_numpy(), second["cluster"].to_numpy()).iloc[0]
    inside = set(np.flatnonzero((clusters["cluster"] == row["first"]) & (second["cluster"] == row["second"])).tolist())
    share = f"{row['share_of_first']:.0%}".replace("%", " %")
    point_at(tab, f"n.className.includes?.('slick-cell') && n.textContent === {json.dumps(share)}")
    for looks, title in zip(both, (MAP, SECOND), strict=True):
        own = alone(places_of(tab, explored, title)) & inside
        until(lambda looks=looks, title=title, own=own: standing_out(tab, explored, looks, title) == own, title)


def test_the_keyboard_reaches_and_operates_what_there_is(
    tab: Page, explored: data.Explored, clusters: pd.DataFrame
) -> None:
    go_to(tab, named("colour by"))
    tab.press("ArrowDown", 40)
    tab.wait_for(f"{LEGEND}.some(([said]) => said.startsWith('topic'))")
    volume_id = str(explored.volumes["volume_id"][3])
    go_to(tab, named("go to a volume"))
    tab.call("Input.insertText", text=volume_id)
    tab.press("Enter", 13)
    slices_that(tab, volume_id)
    go_to(tab, named("Matrix"))
    tab.press("Enter", 13)
    tab.wait_for(in_sight("patients of group"))
    go_to(tab, named("axial slice"))
    old = slices_that(tab, volume_id)
    tab.press("ArrowRight", 39)
    until(lambda: changed(old, slices_that(tab, volume_id)) == {"axial"}, "the next axial slice")
    near = several.neighbours_of(explored, 3)["volume_id"].tolist()
    go_to(tab, IN_TABLE)
    tab.press("ArrowDown", 40)
    slices_that(tab, near[0])
    choose(tab, "window", "bone")
    slices_that(tab, f"{near[0]}, bone window")  # one row down, no farther
