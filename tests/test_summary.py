"""The summary page: complete, escaped, self-contained, silent about patients, and right in a real browser."""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from chromium import browser
from made_study import TERMS, MadeStudy, make_study, run_card

from popclust.presentation import figures, maps
from popclust.presentation import summary_content as content
from popclust.presentation.summary import write_summary
from popclust.presentation.view import StudyView, read_view
from popclust.settings import Settings
from popclust.study import Study

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'&"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._silent = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data


def written(study: Study, card: dict[str, object] | None = None) -> str:
    url = write_summary(study, run_card() if card is None else card)
    assert url == study.path("summary", "index.html")
    return Path(url).read_text("utf-8")


# -- self-contained and safe ---------------------------------------------------------------------------------------


def test_nothing_comes_from_outside(page: str) -> None:
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert "@import" not in page and "url(" not in page
    assert len(page) < 10_000_000


def test_everything_is_escaped(tmp_path: Path) -> None:
    kinds = (HOSTILE, "\u202e" + "x" * 500, "\u05d0\u05d1\u05d2")
    terms = {term: f"{kinds[i % 3]}{i}" for i, term in enumerate(TERMS)}
    study = make_study(tmp_path / "s", 40, with_volumes=False, with_quarantine=True, terms=terms).study
    quarantine = study.read_table("quarantine")
    study.write_table("quarantine", quarantine.assign(message=HOSTILE, stage=HOSTILE))
    card = {**run_card(), "popclust": HOSTILE, "packages": {HOSTILE: HOSTILE}, "inputs": {"x": HOSTILE}}
    card["stages"] = [{"stage": HOSTILE, "total": HOSTILE, "reused": 0, "quarantined": 0, "seconds": 1.0}]
    text = written(study, card)
    parsed = Page(text)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == 1
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert parsed.text.count(HOSTILE) >= 6 and parsed.text.count("x" * 500) >= 1
    with browser() as tab:
        tab.goto(f"file://{study.path('summary', 'index.html')}")
        assert tab.evaluate("window.hacked") is None and tab.errors == []
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=900, deviceScaleFactor=1, mobile=False)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_names_no_patient_date_or_place(tmp_path: Path) -> None:
    overrides = {"ingest": {"sources": ["/pacs/Doe_Jane_19610203"]}, "terms": {"reports": "/ris/doe_jane.csv"}}
    study = make_study(tmp_path / "s", 24, with_volumes=False, overrides=overrides).study
    text = written(study).lower()
    cohort = study.read_table("cohort")
    assert "doe" not in text and str(tmp_path) not in text
    assert not any(value in text for value in cohort["patient_id"])
    assert not any(value in text for value in cohort["acquired_on"])
    assert "ingest.sources" in text and "a place outside the study is not shown" in text


# -- what it says --------------------------------------------------------------------------------------------------


def test_headline_counts(made: MadeStudy, view: StudyView) -> None:
    numbers = {fact.label: fact.value for fact in content.headline(view)}
    cohort = view.cohort.set_index("volume_id")
    assert numbers == {
        "series seen": "46",
        "volumes grouped": "38",
        "patients": str(cohort.loc[view.groups["volume_id"], "patient_id"].nunique()),
        "volumes with a report": "35",
        "groups (K)": str(made.study.record("associate")["n_clusters"]),
        "significant associations (Q)": str(made.study.record("associate")["Q"]),
    }


def test_groups_and_associations_are_those_of_the_tables(view: StudyView) -> None:
    rows = content.group_rows(view)
    assert [r.n_volumes for r in rows] == view.groups["cluster"].value_counts().sort_index().tolist()
    assert sum(r.share for r in rows) == pytest.approx(1.0)
    shaken = dataclasses.replace(view, groups=view.groups.assign(stability=view.groups["cluster"] * 1.0))
    assert [r.is_unstable for r in content.group_rows(shaken)] == [r.cluster == 0 for r in rows]
    tests = view.reported_associations()
    found = content.association_rows(view)
    assert len(found) == (tests["p_holm"] <= 0.05).sum() == view.record["Q"]
    assert [r.p_holm_value for r in found] == sorted(r.p_holm_value for r in found)
    assert len(content.association_rows(view, 2)) == 2
    row = found[0]
    [same] = [t for t in tests.itertuples() if (t.cluster, t.term) == (row.cluster, row.term)]
    assert row.n_in_group == f"{same.V} of {same.R}" and row.is_more == (same.direction > 0)


def test_changed_settings_are_listed_with_their_meaning(view: StudyView) -> None:
    rows = {r.name: r for r in content.changed_settings(view.study.settings)}
    assert set(rows) == {"associate.min_term_count", "associate.n_permutations", "cluster.seeds"}
    assert (rows["cluster.seeds"].value, rows["cluster.seeds"].default) == ("0, 1, 2", "0, 1, 2, 3, 4")
    assert "not tested" in rows["associate.min_term_count"].doc
    assert content.changed_settings(Settings()) == []
    assert ("cluster.seeds", "0, 1, 2") in content.seeds(view.study.settings)


def test_the_run_card_is_told(page: str) -> None:
    text = Page(page).text
    for wanted in ("20260102T030405.000000Z", "3.11.9", "3 min 12 s", "5 min 1 s", "numpy", "2.4.0", "ab" * 32):
        assert wanted in text


def test_exclusions_are_sentences(page: str) -> None:
    text = Page(page).text
    assert "The reconstruction kernel is not one of the sharp ones, by its name or by the voxels." in text
    assert "the lungs found no overlap with any template" in text


# -- missing pieces ------------------------------------------------------------------------------------------------


def test_without_reports_one_sentence_says_so(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study
    text = Page(written(study)).text
    assert "There are no reports in this study" in text
    assert "No reports were given: the groups are not tested against findings." in text
    assert "Minimum term count" not in text and "Significant associations" not in text


def test_tests_of_an_earlier_run_with_reports_are_not_shown(made: MadeStudy, tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study
    for name in ("associations", "criterion"):
        study.write_table(name, made.study.read_table(name))
    view = read_view(study)
    assert view.associations.empty and view.criterion.empty


def test_rare_terms_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popclust.evaluation.counting.minimum_count", lambda settings, n_units: n_units + 1)
    study = make_study(tmp_path / "s", 24, with_volumes=False).study
    assert "No term is mentioned often enough to be tested" in Page(written(study)).text


def test_an_empty_study_has_a_page(tmp_path: Path) -> None:
    text = Page(written(Study.create(str(tmp_path / "s")), {})).text
    assert "No groups have been formed yet." in text and "Nothing was left out." in text


def test_many_terms_and_groups_stay_light(made: MadeStudy, tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 24, with_volumes=False).study
    rows = study.read_table("associations")
    reported = rows[read_view(study).reported.rows(rows)].iloc[[0]]  # type: ignore[union-attr]
    many = pd.concat([reported] * 5000, ignore_index=True)
    many["term_id"] = [f"RID{i}" for i in range(5000)]
    many["term"] = [f"term {i}" for i in range(5000)]
    study.write_table("associations", many.assign(p_holm=0.001, direction=1))
    text = written(study)
    assert len(text) < 1_000_000
    assert "The first 300; associations.parquet holds all." in Page(text).text


BYTES_PER_VOLUME = 100
"""What the page may grow by a volume: 8,000 of them add less than 1 MB to what groups, topics and slices take."""


def test_a_large_population_hardly_makes_the_page_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "embed", lambda rows, seed: maps.principal_axes(rows)[0] + 0.5)  # t-SNE takes long
    small, large = (
        make_study(
            tmp_path / str(n),
            n,
            with_volumes=False,
            overrides={"cluster": {"seeds": [0]}, "associate": {"n_permutations": 0}},
            numbers_of_clusters=range(4, 5),
        ).study
        for n in (600, 3000)
    )
    sizes = {}
    for name, study in (("small", small), ("large", large)):
        figures.write_figures(study)
        sizes[name] = len(written(study))
    assert sizes["large"] - sizes["small"] <= 2400 * BYTES_PER_VOLUME, sizes


# -- for everybody -------------------------------------------------------------------------------------------------


def test_headings_and_images_can_be_heard(page: str) -> None:
    parsed = Page(page)
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) >= 10 and all(i["alt"] and len(str(i["alt"])) > 10 for i in images)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in parsed.tags
    targets = {str(a["id"]) for _, a in parsed.tags if "id" in a}
    assert {str(a["href"])[1:] for tag, a in parsed.tags if tag == "a"} <= targets


def test_text_contrasts_with_its_background() -> None:
    css = (Path(content.__file__).parent / "summary.css").read_text()
    blocks = re.findall(r":root \{([^}]*)\}", css)
    assert len(blocks) == 2 and "prefers-color-scheme: dark" in css  # by day and by night
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for text, background in [
            *((n, "paper") for n in ("ink", "muted", "blue", "red", "green", "arrow")),
            *(("red", "loud"), ("ink", "loud"), ("ink", "calm"), ("ink", "soft"), ("blue", "calm")),
        ]:
            assert contrast(colours[text], colours[background]) >= 4.5, (text, background)


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def test_in_a_real_browser(made: MadeStudy, page: str) -> None:
    """No error, no request but for the file; images appear, tables sort, nothing is wider than the window."""
    with browser(1280, 900) as tab:
        tab.goto(f"file://{made.study.path('summary', 'index.html')}")
        assert tab.errors == []
        assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}
        assert sum(url.startswith("file") for url in tab.requests) == 1
        tab.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
        tab.wait_for("[...document.images].every(i => !i.src || (i.complete && i.naturalWidth > 0))")
        assert tab.evaluate("document.compatMode") == "CSS1Compat"
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        odds = "[...document.querySelectorAll('.tall tbody tr')].map(r => Number(r.cells[5].dataset.value))"
        before = tab.evaluate(odds)
        tab.evaluate("document.querySelectorAll('.tall th button')[5].click()")
        assert tab.evaluate(odds) == sorted(before) != before
        tab.evaluate("document.querySelectorAll('.tall th button')[5].click()")
        assert tab.evaluate(odds) == sorted(before, reverse=True)
        assert tab.evaluate("document.querySelectorAll('.tall th')[5].ariaSort") == "descending"
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=False)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        wide = tab.evaluate(
            "[...document.querySelectorAll('main .picture img')].filter(i => i.offsetParent)"
            ".map(i => [Number(i.getAttribute('width')), i.getBoundingClientRect().width])"
        )
        assert wide and all(shown >= min(own, 760) for own, shown in wide)  # text is not shrunk with the window
        tab.call("Emulation.clearDeviceMetricsOverride")
        assert len(tab.call("Page.printToPDF")["data"]) > 10_000


AXE = importlib.resources.files("axe_core_python").joinpath("axe.min.js")


def test_nobody_is_shut_out(made: MadeStudy, page: str) -> None:
    """No finding of axe, wide or narrow, by day or by night; nothing on the console."""
    with browser(1400, 900) as tab:
        tab.goto(f"file://{made.study.path('summary', 'index.html')}")
        tab.evaluate(f"(() => {{ {AXE.read_text('utf-8')} }})()")
        for width, scheme in ((1400, "light"), (390, "light"), (390, "dark"), (1400, "dark")):
            tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            found = tab.evaluate(
                "axe.run(document).then(r => r.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html)]))"
            )
            assert found == [], (width, scheme)
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(20, 23, 27)"
        assert tab.errors == []


def test_pictures_open_larger_and_groups_stand_side_by_side(made: MadeStudy, page: str) -> None:
    with browser(1280, 900) as tab:
        tab.goto(f"file://{made.study.path('summary', 'index.html')}")
        assert tab.evaluate("document.querySelector('.first img').getBoundingClientRect().bottom <= innerHeight")
        tab.evaluate("document.querySelector('#group_01 + figure .larger').click()")
        shown = "document.querySelector('dialog img')"
        assert tab.evaluate("document.querySelector('dialog').open")
        assert tab.evaluate(f"{shown}.src === document.querySelector('#group_01 + figure img').src")
        small = tab.evaluate("document.querySelector('#group_01 + figure img').getBoundingClientRect().width")
        assert tab.evaluate(f"{shown}.getBoundingClientRect().width") > 1.2 * small
        tab.evaluate("document.querySelector('.close').click()")
        assert not tab.evaluate("document.querySelector('dialog').open")
        choice = "document.querySelectorAll('.card-choice')[0]"
        picture = "document.querySelectorAll('.place img')[0]"
        last = read_view(made.study).n_groups - 1
        tab.evaluate(
            f"{choice}.value = 'card_{last:02d}'; {choice}.dispatchEvent(new Event('change', {{bubbles: true}}))"
        )
        assert f"of group {last}," in tab.evaluate(f"{picture}.alt")
        tab.evaluate(f"{choice}.value = 'card_00'; {choice}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        assert "of group 0," in tab.evaluate(f"{picture}.alt")
        assert tab.errors == []


def test_group_rows_lead_to_their_profiles(page: str, view: StudyView) -> None:
    parsed = Page(page)
    links = [str(a["href"]) for tag, a in parsed.tags if tag == "a"]
    assert {f"#group_{k:02d}" for k in range(view.n_groups)} <= set(links)
    assert {f"group_{k:02d}" for k in range(view.n_groups)} <= {str(a.get("id")) for _, a in parsed.tags}
