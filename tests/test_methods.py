"""The text for a paper says what the study holds; the study in an analyst's hand says it too."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_study import MadeStudy, make_study, run_card

import popclust
from popclust import settings
from popclust.cli import main
from popclust.errors import InputError
from popclust.presentation import methods as module
from popclust.presentation.methods import Methods, methods
from popclust.presentation.opened import OpenedStudy
from popclust.presentation.view import read_view
from popclust.study import Study


def carded(study: Study, **changes: object) -> Study:
    """The study with the card of a run under its own settings."""
    card = {**run_card(), "settings": settings.printable(study.settings), **changes}
    study.write_json(card, "runs", f"{card['run_id']}.json")
    return study


@pytest.fixture(scope="module")
def found(made: MadeStudy) -> Methods:
    return methods(carded(made.study))


def test_the_numbers_are_the_study_s(made: MadeStudy, found: Methods):
    study, n = made.study, found.numbers
    cohort, clusters, reported = study.read_table("cohort"), study.read_table("clusters"), study.reported
    grouped = cohort[cohort["volume_id"].isin(clusters["volume_id"])]
    assert (n["n_series_seen"], n["n_volumes_included"]) == (len(cohort), int(cohort["included"].sum()))
    assert (n["n_volumes_grouped"], n["n_patients_grouped"]) == (len(clusters), grouped["patient_id"].nunique())
    assert (n["n_groups"], n["seed"]) == (reported.grouping.n_clusters, reported.grouping.seed)
    assert [n["largest_group"], n["smallest_group"]] == [
        int(clusters["cluster"].value_counts().max()),
        int(clusters["cluster"].value_counts().min()),
    ]
    tests = reported.grouping.of(study.read_table("associations"))
    significant = tests[tests["p_holm"] <= study.settings.associate.alpha]
    assert n["Q"] == reported.Q == len(significant)
    assert n["n_more_often"] + n["n_less_often"] == n["Q"]
    assert n["n_words"] == {"haralick": 60, "macro_sift": 30, "micro_sift": 30}
    assert n["n_topics"] == 20
    persons = grouped.sort_values("volume_id").drop_duplicates("patient_id")
    assert n["n_female"] == (persons["sex"] == "F").sum()
    assert n["age_years_median"] == persons["age_years"].median()


@pytest.mark.parametrize(("has", "said"), [(True, "They are more compact"), (False, "No groups:"), (None, "")])
def test_the_text_says_whether_there_are_groups_at_all(
    made: MadeStudy, has: bool | None, said: str, monkeypatch: pytest.MonkeyPatch
):
    view = read_view(made.study)
    told = replace(view, record={**view.record, "has_groups": has})
    monkeypatch.setattr(module, "read_view", lambda _: told)
    text = methods(carded(made.study)).paragraph
    assert [s for s in ("They are more compact", "No groups:") if s in text] == [said] * bool(said)


def test_the_sentences_name_these_numbers(found: Methods):
    n = found.numbers
    for said in (
        f"{n['n_volumes_grouped']} volumes of {n['n_patients_grouped']} patients",
        f"{n['n_groups']} groups of {n['smallest_group']} to {n['largest_group']} volumes",
        f"{n['Q']} associations were significant",
        f"{n['n_terms_tested']} terms in at least {n['min_term_count']} units",
        f"{n['age_years_median']:g} years old in the median",
        "cubes of 18 mm every 6 mm",
    ):
        assert said in found.paragraph
    assert "None" not in found.paragraph and "nan" not in found.paragraph
    assert found.warnings == ()


def test_settings_are_those_of_the_run_with_what_is_not_the_default(found: Methods):
    table = found.settings.set_index("setting")
    assert set(table.index[~table["default"]]) == {
        "associate.min_term_count",
        "associate.n_permutations",
        "cluster.seeds",
    }
    assert table.loc["haralick.window_mm", "value"] == 18.0
    assert table.loc["haralick.window_mm", "unit"] == "mm"
    assert not any(name.startswith("compute.") or name.endswith("sources") for name in table.index)
    text = found.as_markdown()
    rows = re.findall(r"^\| `(\w+\.\w+)` \|", text, re.MULTILINE)
    assert rows == list(table.index)
    assert len({line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| `")}) == 1


def test_the_command_writes_both_forms(made: MadeStudy, found: Methods, capsys: pytest.CaptureFixture[str]):
    assert main(["methods", made.study.url]) == 0
    assert capsys.readouterr().out == found.as_markdown()
    assert main(["methods", made.study.url, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["numbers"]["Q"] == found.numbers["Q"]
    assert read["versions"] == found.versions == {"popclust": "0.1.0", "Python": "3.11.9", **run_card()["packages"]}


def test_what_makes_it_untrue_is_said(made: MadeStudy):
    changed = made.study.with_settings("haralick", window_mm=30.0)
    assert methods(changed).warnings == (
        "study.toml has changed since the run (haralick.window_mm): run again before this is printed.",
    )
    assert "cubes of 18 mm" in methods(changed).paragraph


def test_without_reports_or_runs(tmp_path: Path):
    study = make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study
    with pytest.raises(InputError, match="no run has left its card"):
        methods(study)
    found = methods(carded(study, state="stopped"))
    assert "No reports were tested" in found.paragraph
    assert found.numbers["Q"] is None
    assert "stopped before its end" in found.warnings[0]
    new = Study.create(str(tmp_path / "new"))
    with pytest.raises(InputError, match="no grouping is reported yet"):
        methods(carded(new))


# -- in hand -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(made: MadeStudy) -> OpenedStudy:
    return popclust.open(made.study.url)


def test_an_opened_study_has_what_is_reported_in_hand(study: OpenedStudy):
    reported = study.reported
    assert repr(study) == f"<Study {study.url}>"
    assert repr(reported).startswith("<Reported: lda, ") and len(repr(reported)) < 120
    groups = reported.groups
    assert list(groups.columns) == ["n_volumes", "share", "stability", "more_often", "less_often"]
    assert list(groups.index) == list(range(reported.grouping.n_clusters))
    assert groups["n_volumes"].sum() == len(reported.clusters)
    assert groups["share"].sum() == pytest.approx(1)
    tests = reported.grouping.of(study.read_table("associations"))
    found = tests[(tests["p_holm"] <= study.settings.associate.alpha) & (tests["direction"] > 0)]
    for cluster, terms in groups["more_often"].items():
        own = found[found["cluster"] == cluster].sort_values("p_holm", kind="stable")["term"].astype(str)
        assert terms == ", ".join(own.head(5))


def test_its_figures_are_those_that_the_run_drew(study: OpenedStudy):
    figures = study.reported.figures
    assert {"map", "criterion", "associations"} <= set(figures) == set(dir(figures))
    picture = figures.map()
    assert picture._repr_png_() == study.read_bytes("figures", "map.png")
    assert repr(picture).startswith("<Picture map: ")
    with pytest.raises(AttributeError, match="no figure 'maps'; there are cohort"):
        figures.maps()
    with pytest.raises(InputError, match="no figure 'maps'"):
        figures["maps"]


def test_it_travels_to_workers_as_any_study(study: OpenedStudy):
    assert pickle.loads(pickle.dumps(study)) == study  # noqa: S301
    assert len(pickle.dumps(study)) < 10_000
