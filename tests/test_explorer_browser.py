"""The explorer in a real browser: every interaction, asserted on what a person then sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from chromium import Page, browser
from explorer_served import (
    around,
    figure_places,
    in_sight,
    open_explorer,
    seen,
    served,
    turn_to,
    until,
)
from made_study import make_study
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from popclust.presentation import explorer_data as data
from popclust.presentation import explorer_selection as several
from popclust.presentation.association_figure import frequent_terms
from popclust.presentation.explorer_parts import _DIVERGING
from popclust.presentation.figures import map_of_population
from popclust.presentation.style import shortened
from popclust.presentation.view import read_view
from popclust.study import Study

MAP, SECOND, MATRIX = "near volumes look alike", "the same volumes", "terms against groups"
RING = (212, 0, 106)


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


# -- what is seen of a map -----------------------------------------------------------------------------------------


def places_of(tab: Page, explored: data.Explored, title: str = MAP) -> list[tuple[float, float]]:
    """Where each volume is on the screen."""
    return figure_places(tab, title, explored.volumes[["x", "y"]].to_numpy().tolist())


def alone(places: list[tuple[float, float]]) -> set[int]:
    """Volumes that no other lies upon."""
    at = np.array(places)
    off = np.linalg.norm(at[:, None] - at[None], axis=2) + 99 * np.eye(len(at))
    return set(np.flatnonzero(off.min(axis=1) > 12).tolist())


def standing_out(tab: Page, explored: data.Explored, looks: pd.DataFrame, title: str = MAP) -> set[int]:
    """Of the volumes that are alone, those whose colour on the screen is their own in full; others are pale."""
    places = places_of(tab, explored, title)
    picture = seen(tab)
    return {i for i in alone(places) if is_coloured(around(picture, places[i], 2), looks["colour"][i])}


def is_coloured(pixels: NDArray[np.uint8], colour: str | tuple[int, int, int]) -> bool:
    """Whether any pixel has the colour."""
    wanted = colour if isinstance(colour, tuple) else tuple(round(255 * v) for v in to_rgb(colour))
    return bool((np.abs(pixels.astype(int) - wanted).max(axis=-1) <= 3).any())


def ringed(tab: Page, explored: data.Explored, title: str = MAP) -> set[int]:
    """Volumes with a patient's ring around them."""
    places = places_of(tab, explored, title)
    picture = seen(tab)
    return {i for i, place in enumerate(places) if is_coloured(around(picture, place, 18), RING)}


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
