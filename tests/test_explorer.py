"""The explorer: what it shows against the tables, where it listens, and a click in a real browser."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from bokeh.document import Document
from chromium import Page, browser
from made_study import TERMS, MadeStudy, make_study, shared_study

from popclust.errors import InputError
from popclust.presentation import explorer
from popclust.presentation import explorer_data as data
from popclust.presentation.style import RED
from popclust.reported import Grouping
from popclust.study import Study

HOSTILE = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeStudy:
    return shared_study(tmp_path_factory.getbasetemp())


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


def test_associations_are_the_significant_ones(explored: data.Explored) -> None:
    tests = explored.view.associations
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
    assert data.slices_html(explored, 0).count('src="data:image/png;base64,') == 2
    made_without = data.read_explored(make_study(Path(made.study.url) / "no-voxels", 24, with_volumes=False).study)
    assert "no voxels" in data.slices_html(made_without, 0)


def test_slices_are_not_shown_where_settings_say_so(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 24, overrides={"summarize": {"show_examples": False}}).study
    assert "<img" not in data.slices_html(data.read_explored(study), 0)


def test_a_study_without_reports_or_groups(tmp_path: Path) -> None:
    explored = data.read_explored(make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study)
    assert "term in the report" not in data.colour_choices(explored)
    clusters = data.clusters_of(explored, explored.view.reported)
    assert "no report" in data.volume_html(explored, clusters, 0)
    explorer.Session(explored).show(Document())
    with pytest.raises(InputError, match="too little is grouped to explore"):
        data.read_explored(Study.create(str(tmp_path / "empty")))


def test_a_session_follows_its_controls(made: MadeStudy) -> None:
    session = explorer.Session(data.read_explored(made.study))
    document = Document()
    session.show(document)
    assert len(document.roots) == 1
    session.n_clusters.value = 6
    session.regroup()
    assert session.grouping.n_clusters == 6
    assert sorted(set(session.points.data["group"])) == list(range(6))
    session.colour.value = "kernel"
    assert set(session.points.data["category"]) <= set(session.explored.volumes["kernel"])
    session.points.selected.indices = [3]
    assert session.explored.volumes["volume_id"][3] in session.facts.text
    np.testing.assert_allclose(session.shares.data["share"], session.explored.topic_share[3])
    session.n_clusters.value = session.explored.view.reported.n_clusters
    session.regroup()
    session.tests.selected.indices = [0]
    assert session.colour.value == f"term:{session.tests.data['term_id'][0]}"


# -- the server ----------------------------------------------------------------------------------------------------


@contextmanager
def served(study: Study) -> Iterator[tuple[str, psutil.Process]]:
    """The explorer in a process of its own."""
    code = (
        "import sys; from popclust.study import Study; from popclust.presentation.explorer import serve; "
        "serve(Study.open(sys.argv[1]), 0, lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-W", "error", "-c", code, study.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://127.0.0.1:" in line
            yield line.split(" at ")[1].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def place_of_volume(tab: Page, index: int) -> tuple[float, float]:
    """Where on the screen a volume of the map is."""
    x, y = tab.evaluate(
        """((index) => {
          const find = (view) => view.model.type === "Figure" ? view
            : (view.child_views ?? []).map(find).find((found) => found);
          const plot = find(Bokeh.index.roots[0]);
          const { x, y } = plot.model.renderers[0].data_source.data;
          const box = plot.el.getBoundingClientRect();
          return [box.x + plot.frame.x_scale.compute(x[index]), box.y + plot.frame.y_scale.compute(y[index])];
        })(INDEX)""".replace("INDEX", str(index))
    )
    return x, y


def shown_text(tab: Page) -> str:
    """Text of all shadow roots."""
    return str(
        tab.evaluate(
            """(() => {
              const texts = (node) => (node.shadowRoot ? [...node.shadowRoot.childNodes].map(texts).join(" ") : "")
                + (node.nodeType === 3 ? node.textContent : node.tagName === "STYLE" ? ""
                  : [...node.childNodes].map(texts).join(" "));
              return texts(document.body);
            })()"""
        )
    )


def test_in_a_real_browser(tmp_path: Path) -> None:
    """Loopback only, no request elsewhere, a click shows slices, text is escaped."""
    terms = dict(zip(TERMS, (f"{HOSTILE}{i}" for i in range(len(TERMS))), strict=True))
    study = make_study(tmp_path / "s", 40, terms=terms).study
    cohort = study.read_table("cohort")
    study.write_table("cohort", cohort.assign(kernel=HOSTILE))
    with browser(1280, 1100) as tab, served(study) as (url, process):
        addresses = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        assert addresses == {"127.0.0.1"}
        tab.goto(url)
        tab.wait_for("window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")
        explored = data.read_explored(study)
        volume_id = explored.volumes["volume_id"][5]
        tab.click(*place_of_volume(tab, 5))
        tab.wait_for(
            "(function images(n) { return (n.shadowRoot ? images(n.shadowRoot) : 0) + (n.tagName === 'IMG' "
            "&& n.naturalWidth === 240) + [...n.childNodes].reduce((a, c) => a + images(c), 0); })(document.body) === 2"
        )
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
