"""The explorer: what it shows against the tables, where it listens, and a click in a real browser."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.stats
from bokeh.document import Document
from chromium import browser
from explorer_served import IMAGES, LEGEND, choose, place_of_volume, served, shown_text
from made_study import SHAPE, TERMS, MadeStudy, make_study

from popclust.errors import InputError
from popclust.population.neighbours import neighbours
from popclust.presentation import explorer
from popclust.presentation import explorer_data as data
from popclust.presentation import explorer_selection as several
from popclust.presentation.style import RED, shortened
from popclust.reported import Grouping
from popclust.study import Study

HOSTILE = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def explored(made: MadeStudy) -> data.Explored:
    return data.read_explored(made.study)


# -- what it shows -------------------------------------------------------------------------------------------------


def test_the_map_is_the_one_of_the_summary(made: MadeStudy, explored: data.Explored, tmp_path: Path) -> None:
    lines = made.study.read_bytes("figures", "map.csv").decode().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == explored.volumes["volume_id"].tolist()
    stale = lines[0] + "\n" + "\n".join(f"{line.split(',')[0]},9,0.5,0.5" for line in lines[1:])
    study = make_study(tmp_path / "s", 24, with_volumes=False).study
    study.write_bytes(stale.encode(), "figures", "map.csv")
    place = data.read_explored(study).volumes[["x", "y"]]
    assert len(place.drop_duplicates()) > 1


def test_every_choice_colours_every_volume(explored: data.Explored) -> None:
    clusters = data.clusters_of(explored, explored.view.reported)
    choices = [value for group in data.colour_choices(explored).values() for value, _ in group]
    assert {"cluster", "kernel", "scanner", "template_id", "topic"} < set(choices)
    for choice in choices:
        looks = data.appearance(explored, clusters, choice)
        assert len(looks) == len(explored.volumes) and looks.notna().all(axis=None)
        by_category = looks.groupby("category")[["colour", "marker"]].nunique()
        assert (by_category == 1).all(axis=None)
        assert not looks.drop_duplicates("category")[["colour", "marker"]].duplicated().any()


def test_colour_by_term_tells_no_report_from_not_mentioned(explored: data.Explored, made: MadeStudy) -> None:
    clusters = data.clusters_of(explored, explored.view.reported)
    terms = made.study.read_dataset("terms")
    term_id = next(iter(explored.term_names))
    looks = data.appearance(explored, clusters, f"term:{term_id}").set_index(explored.volumes["volume_id"])
    with_report = set(terms["volume"].values.tolist())
    for volume_id, row in looks.iterrows():
        if volume_id not in with_report:
            assert row["category"] == "no report"
        else:
            is_there = bool(terms["has_term"].sel(volume=volume_id, term=term_id))
            assert row["category"] == ("mentioned" if is_there else "not mentioned")
            assert (row["colour"] == RED) == is_there


def test_associations_are_the_significant_ones(explored: data.Explored, made: MadeStudy) -> None:
    tests = made.study.read_table("associations")
    assert 0 < len(explored.view.associations) < len(tests)  # the others are read when they are asked for
    for grouping in (explored.view.reported, data.nearest_grouping(explored.groupings.grid, "lda", 5, 1)):
        shown = data.association_table(explored, grouping)
        brute = [
            (r.cluster, r.term_id)
            for r in tests.itertuples()
            if (r.descriptor, r.n_clusters, r.seed) == (grouping.descriptor, grouping.n_clusters, grouping.seed)
            and r.p_holm <= 0.05
        ]
        assert sorted(zip(shown["cluster"], shown["term_id"], strict=True)) == sorted(brute)
        assert shown["p_holm"].is_monotonic_increasing


def test_wishes_lead_to_groupings_that_exist(explored: data.Explored) -> None:
    assert data.nearest_grouping(explored.groupings.grid, "sift", 4, 1) == Grouping("sift", 4, 1)
    assert data.nearest_grouping(explored.groupings.grid, "lda", 99, 9) == Grouping("lda", 7, 2)


def test_one_volume(explored: data.Explored, made: MadeStudy) -> None:
    clusters = data.clusters_of(explored, explored.view.reported)
    for index in (0, len(explored.volumes) - 1):
        text = data.volume_html(explored, clusters, index)
        row = explored.volumes.iloc[index]
        assert row["volume_id"] in text and row["kernel"] in text
        assert f"<td>{clusters['cluster'].iloc[index]} (distance" in text
    made_without = data.read_explored(make_study(Path(made.study.url) / "no-voxels", 24, with_volumes=False).study)
    session = explorer.Session(made_without)
    session.points.selected.indices = [0]
    assert "no voxels" in session.viewer.note.text
    assert not session.viewer.slices.visible


def test_slices_are_not_shown_where_settings_say_so(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 24, overrides={"summarize": {"show_examples": False}}).study
    session = explorer.Session(data.read_explored(study))
    session.points.selected.indices = [0]
    assert "not shown" in session.viewer.note.text
    assert not any("<img" in picture.text for picture in session.viewer.pictures.values())


def test_a_study_without_reports_or_groups(tmp_path: Path) -> None:
    explored = data.read_explored(make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study)
    assert "term in the report" not in data.colour_choices(explored)
    clusters = data.clusters_of(explored, explored.view.reported)
    assert "no report" in data.volume_html(explored, clusters, 0)
    explorer.Session(explored).show(Document())
    with pytest.raises(InputError, match="too little is grouped to explore"):
        data.read_explored(Study.create(str(tmp_path / "empty")))


def test_the_legend_names_what_is_drawn(explored: data.Explored) -> None:
    session = explorer.Session(explored)
    for choice in [value for group in data.colour_choices(explored).values() for value, _ in group]:
        session.colour.value = choice
        category = session.points.data["category"]
        named = {item.label.value: category[item.index] for item in session.map.legend.items}
        assert {shortened(c, 30) for c in category} == set(named)
        assert all(name == shortened(c, 30) for name, c in named.items())
    session.colour.value = "cluster"
    names = [item.label.value for item in session.map.legend.items]
    assert names == [f"group {k}" for k in range(len(names))]
    looks = pd.DataFrame({"category": ["no report", "group 10", "other", "group 2", "below 3", "3 to 4", "group 2"]})
    order = {"below 3": 4, "3 to 4": 5, "group 2": 3, "group 10": 1, "no report": 0, "other": 2}
    assert data.categories(looks) == order and list(data.categories(looks)) == list(order)


def test_a_click_shows_three_planes_to_scroll_through(made: MadeStudy, explored: data.Explored) -> None:
    session = explorer.Session(explored)
    session.points.selected.indices = [3]
    viewer = session.viewer
    first = {plane: picture.text for plane, picture in viewer.pictures.items()}
    assert len(set(first.values())) == 3 and all("data:image/png" in text for text in first.values())
    n_slices = SHAPE[0]
    assert f"axial slice {viewer.sliders['axial'].value + 1} of {n_slices}" in first["axial"]
    viewer.sliders["axial"].value = 2
    changed = {p for p, picture in viewer.pictures.items() if picture.text != first[p]}
    assert changed == {"axial"} and f"axial slice 3 of {n_slices}" in viewer.pictures["axial"].text
    viewer.window.value = "soft tissue"
    assert all("soft tissue window" in picture.text for picture in viewer.pictures.values())
    outlined = viewer.pictures["coronal"].text
    viewer.outline.active = False
    assert viewer.pictures["coronal"].text != outlined
    session.alike.selected.indices = [0]
    assert viewer.volume_id == session.explored.volumes["volume_id"][session.points.selected.indices[0]] != ""


def test_the_neighbours_are_the_nearest_by_topics(explored: data.Explored, made: MadeStudy) -> None:
    found = several.neighbours_of(explored, 4)
    words, topics = (made.study.read_dataset(n) for n in ("word_counts", "topics"))
    wanted = neighbours(words, topics, str(explored.volumes["volume_id"][4]), several.N_NEIGHBOURS, "lda")
    assert found["volume_id"].tolist() == wanted["volume_id"].tolist()
    np.testing.assert_allclose(found["distance"], wanted["distance"])
    root = np.sqrt(explored.topic_share)
    distance = np.linalg.norm(root - root[4], axis=1)
    distance[4] = np.inf
    assert found["index"].tolist() == np.argsort(distance, kind="stable")[: several.N_NEIGHBOURS].tolist()


def test_volumes_drawn_around_are_tested_on_the_spot(explored: data.Explored) -> None:
    session = explorer.Session(explored)
    group = session.clusters["cluster"].to_numpy()
    chosen = np.flatnonzero(group == 1).tolist()
    session.points.selected.indices = chosen
    assert "Exploratory" in session.chosen.text and f"{len(chosen)} volumes of" in session.chosen.text
    tests = several.exploratory_test(explored, chosen)
    assert tests["p_value"].is_monotonic_increasing and (tests["p_holm"] >= tests["p_value"]).all()
    patient = explored.view.cohort.set_index("volume_id")["patient_id"]
    row = tests.iloc[0]
    inside, having, both, everybody = set(), set(), set(), set()
    ids = set(explored.volumes["volume_id"].iloc[chosen])
    for volume_id, has in explored.has_term[row["term_id"]].items():
        everybody.add(patient[volume_id])
        if volume_id in ids:
            inside.add(patient[volume_id])
        if has:
            having.add(patient[volume_id])
    both = inside & having
    assert (row["V"], row["R"], row["C"], row["B"]) == (len(both), len(inside), len(having), len(everybody))
    a, b, c, d = row["V"], row["R"] - row["V"], row["C"] - row["V"], row["B"] - row["R"] - row["C"] + row["V"]
    assert row["p_value"] == pytest.approx(scipy.stats.fisher_exact([[a, b], [c, d]])[1])


def test_a_cell_of_the_matrix_leads_to_its_patients(explored: data.Explored) -> None:
    session = explorer.Session(explored)
    cells = session.cells.data
    at = next(i for i, (v, s) in enumerate(zip(cells["V"], cells["strength"], strict=True)) if v > 1 and s > 0)
    session.cells.selected.indices = [at]
    found = session.points.selected.indices
    for index in found:
        assert session.clusters["cluster"][index] == cells["cluster"][at]
        assert explored.has_term.loc[explored.volumes["volume_id"][index], cells["term_id"][at]]
    patients = explored.view.cohort.set_index("volume_id")["patient_id"].reindex(explored.volumes["volume_id"][found])
    assert patients.nunique() >= cells["V"][at] > 1  # the test counts one volume per patient, here are all
    assert f"Group {cells['cluster'][at]} with {cells['term'][at]}" in session.chosen.text


def test_a_group_shows_its_card_and_its_volumes(explored: data.Explored) -> None:
    session = explorer.Session(explored)
    session.show(Document())
    found = session.tests.data
    own = next(k for k, m in zip(found["cluster"], found["mentioned"], strict=True) if "more" in m)
    session.group.value = str(own)
    assert session.card.text.startswith(f"<h3>Group {own}</h3>") and session.tabs.active == 1
    assert session.points.selected.indices == np.flatnonzero(session.clusters["cluster"] == own).tolist()
    more = [
        t
        for k, t, m in zip(found["cluster"], found["term"], found["mentioned"], strict=True)
        if k == own and "more" in m
    ]
    assert more and all(term in session.card.text for term in more)


def test_a_session_follows_its_controls(made: MadeStudy) -> None:
    session = explorer.Session(data.read_explored(made.study))
    document = Document()
    session.show(document)
    assert len(document.roots) == 1
    session.n_clusters.value = "6"
    session.regroup()
    assert session.grouping.n_clusters == 6
    assert sorted(set(session.points.data["group"])) == list(range(6))
    session.colour.value = "kernel"
    assert set(session.points.data["category"]) <= set(session.explored.volumes["kernel"])
    session.points.selected.indices = [3]
    assert session.explored.volumes["volume_id"][3] in session.facts.text
    np.testing.assert_allclose(session.shares.data["share"], session.explored.topic_share[3])
    session.n_clusters.value = str(session.explored.view.reported.n_clusters)
    session.regroup()
    session.tests.selected.indices = [0]
    assert session.colour.value == f"term:{session.tests.data['term_id'][0]}"


# -- the server ----------------------------------------------------------------------------------------------------


def test_in_a_real_browser(tmp_path: Path) -> None:
    """Loopback only, no request elsewhere, a click shows slices, text is escaped, the legend is true."""
    terms = dict(zip(TERMS, (f"{HOSTILE}{i}" for i in range(len(TERMS))), strict=True))
    study = make_study(tmp_path / "s", 40, terms=terms).study
    cohort = study.read_table("cohort")
    study.write_table("cohort", cohort.assign(kernel=HOSTILE))
    with browser(1500, 1300) as tab, served(study) as (url, process):
        addresses = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        assert addresses == {"127.0.0.1"}
        tab.goto(url)
        # what lies in a tab that is not shown is never drawn, so the document as a whole never rests
        tab.wait_for("window.Bokeh && Bokeh.documents.length > 0 && Bokeh.index.roots.length > 0", 120)
        tab.wait_for(f"{LEGEND}.length > 0", 120)
        explored = data.read_explored(study)
        volume_id = explored.volumes["volume_id"][5]
        tab.click(*place_of_volume(tab, 5))
        tab.wait_for(f"{IMAGES}.filter(i => i.naturalWidth === 230).length === 3")
        called = {value: name for group in data.colour_choices(explored).values() for value, name in group}
        for choice in ("scanner", "age", f"term:{next(iter(explored.term_names))}", "cluster"):
            choose(tab, "colour by", called[choice])
            looks = data.appearance(explored, data.clusters_of(explored, explored.view.reported), choice)
            wanted = [shortened(name, 30) for name in data.categories(looks)]
            names = json.dumps(json.dumps(wanted, separators=(",", ":"), ensure_ascii=False))
            tab.wait_for(f"JSON.stringify({LEGEND}.map((e) => e[0])) === {names}")
            assert all(shortened(category, 30) == name for name, category in tab.evaluate(LEGEND))
        before = tab.evaluate(f"{IMAGES}.map(i => i.src)")
        choose(tab, "window", "bone")
        tab.wait_for(f"{IMAGES}.every((i, n) => i.src !== {json.dumps(before)}[n])")
        assert "bone window" in tab.evaluate(f"{IMAGES}[0].alt") and volume_id in tab.evaluate(f"{IMAGES}[0].alt")
        text = shown_text(tab)
        assert volume_id in text and HOSTILE in text
        assert tab.evaluate("window.hacked") is None
        assert tab.errors == []
        assert all(r.startswith((url, "data:", "blob:")) for r in tab.requests)


def test_other_pages_cannot_connect(made: MadeStudy) -> None:
    """A web page open in the same browser must not reach the explorer through a name that leads to loopback."""
    with served(made.study) as (url, _), browser() as tab:
        tab.goto("data:text/html,elsewhere")
        address = url.replace("http", "ws") + "ws"
        answer = tab.evaluate(
            f"new Promise(done => {{ const s = new WebSocket('{address}', ['bokeh', 'x']);"
            " s.onopen = () => done('open'); s.onerror = () => done('refused'); })"
        )
        assert answer == "refused"


def test_a_taken_port_is_one_clear_line(made: MadeStudy) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: cannot be used .*in use"):
            explorer.start_server(made.study, port)


def test_the_explorer_needs_no_dask_cluster() -> None:
    code = "import sys, popclust.presentation.explorer; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
