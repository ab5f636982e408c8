"""What the summary says first: who was looked at, how far each finding stands, what warns; and the page of a volume."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chromium import browser
from made_study import MadeStudy
from test_summary import AXE, Page

from popclust.cli import main
from popclust.errors import InputError
from popclust.presentation import first_screen, volume_page
from popclust.presentation import summary_content as content
from popclust.presentation.banners import banners
from popclust.presentation.trust import trust_rows
from popclust.presentation.view import StudyView, read_view
from popclust.settings import Settings
from popclust.study import Study


def test_banners_are_loud_where_they_must_be(view: StudyView) -> None:
    texts = {b.text: b.level for b in banners(view)}
    assert texts["3 of 38 grouped volumes without a report: they shape the groups, but no test counts them."] == "note"
    [quarantine] = [t for t in texts if "quarantine" in t]
    assert quarantine.startswith("2 volumes in quarantine") and texts[quarantine] == "warning"
    assert any(t.startswith("Minimum term count in force: 5.") for t in texts)
    levels = list(texts.values())
    assert levels == sorted(levels, reverse=True)  # warnings first
    given = dataclasses.replace(Settings().normalize, transforms="given")
    settings = dataclasses.replace(view.study.settings, normalize=given)
    loud = dataclasses.replace(view, study=dataclasses.replace(view.study, settings=settings))
    first = banners(loud)[0]
    assert (first.level, first.text) == ("warning", "Known transforms were given: nothing was registered.")


def test_chance_and_instability_are_warned_of(view: StudyView) -> None:
    chance = dataclasses.replace(view, criterion=view.criterion.assign(p_value_selected=0.4))
    assert any("may be chance" in b.text and b.level == "warning" for b in banners(chance))
    unstable = dataclasses.replace(view, groups=view.groups.assign(stability=0.2))
    assert any("change with the seed" in b.text for b in banners(unstable))
    calm = dataclasses.replace(view, quarantine=view.quarantine.iloc[:0], groups=view.groups.assign(stability=0.9))
    calm = dataclasses.replace(calm, criterion=calm.criterion.assign(p_value_selected=0.01))
    assert not [b for b in banners(calm) if b.level == "warning"]


def test_the_first_screen_says_who_and_when(made: MadeStudy, page: str, view: StudyView) -> None:
    head = Page(page.partition("<main>")[0]).text
    assert "2026-01-02" in head
    patients = view.cohort.set_index("volume_id").loc[view.groups["volume_id"], "patient_id"].nunique()
    assert f"38 volumes of {patients} patients, median age " in head and "3 scanner models." in head
    partly = view.cohort.assign(sex=None, age_years=np.nan)
    partly[["manufacturer", "model"]] = None
    nothing = first_screen.population(dataclasses.replace(view, cohort=partly))
    assert nothing == f"38 volumes of {patients} patients, scanners not known."
    one = partly.index[partly["volume_id"] == view.groups["volume_id"].iloc[0]]
    partly.loc[one, ["sex", "age_years", "manufacturer", "model"]] = ["F", 53.0, "ACME", "One"]
    assert first_screen.population(dataclasses.replace(view, cohort=partly)).endswith(
        "median age 53 (53 to 53) (known of 1), 100% women (known of 1), 1 scanner model (known of 1)."
    )
    simulated = made.study.with_settings("summarize", population="Simulated people")
    assert first_screen.population(read_view(simulated)).startswith("Simulated people. 38 volumes of ")
    assert first_screen.made_on({}) == ""


def test_findings_are_counted_by_how_far_they_stand(view: StudyView) -> None:
    tests = view.reported_associations()
    found = tests[tests["p_holm"] <= view.alpha]
    outcome = np.resize(["survives", "explained away", "cannot tell"], len(found))
    gate = found.assign(outcome=outcome, because="", outcome_personal="survives", because_personal="")
    gate = gate.assign(replication="underpowered", power=0.1)
    stability = np.where(view.groups["cluster"] == found["cluster"].iloc[0], 0.2, 0.9)
    told = dataclasses.replace(view, gate=gate, groups=view.groups.assign(stability=stability))
    counts = {row.label: row.n for row in first_screen.standing(told)}
    assert [counts[n] for n in ("survive", "explained away", "cannot tell")] == [
        int((outcome == name).sum()) for name in ("survives", "explained away", "cannot tell")
    ]
    assert counts["in unstable groups"] == int((found["cluster"] == found["cluster"].iloc[0]).sum())
    lone = dataclasses.replace(view, gate=None, groups=view.groups.assign(stability=np.nan))
    assert first_screen.standing(lone) == []


def test_where_nothing_is_found_nothing_may_be_chance(view: StudyView) -> None:
    nothing = dataclasses.replace(
        view,
        associations=view.associations.assign(p_holm=1.0),
        criterion=view.criterion.assign(p_value_selected=0.4),
    )
    assert first_screen.standing(nothing) == []
    assert not any("chance" in b.text for b in banners(nothing))
    assert "permuted" not in content.verdict(nothing)


def test_the_first_sentence_says_what_stands(view: StudyView) -> None:
    tests = view.reported_associations()
    n_found = int((tests["p_holm"] <= view.alpha).sum())
    assert n_found > 2
    without = dataclasses.replace(view, gate=None)
    assert content.verdict(without).startswith(f"{n_found} significant associations link ")
    found = tests[tests["p_holm"] <= view.alpha]
    outcome = np.where(np.arange(n_found) < 2, "survives", "explained away")
    because = np.where(outcome == "survives", "", "scanner, noise_hu")
    gate = found.assign(outcome=outcome, because=because, outcome_personal="cannot tell", because_personal="age_years")
    gate = gate.assign(replication="replicated", power=0.9)
    some = dataclasses.replace(view, gate=gate)
    assert content.verdict(some).startswith(f"2 of {n_found} significant associations survive: ")
    assert f"{n_found - 2} are explained away" in content.verdict(some)
    labels = [f.label for f in content.headline(some)]
    assert labels.index("associations that survive") < labels.index("significant associations (Q)")
    rows = content.association_rows(some)
    assert [r.outcome for r in rows[:3]] == ["survives", "survives", "explained away: scanner, noise"]
    assert rows[0].outcome_personal == "cannot tell: age"
    assert rows[0].replication == "replicated (power 0.90)"
    none = dataclasses.replace(view, gate=gate.assign(outcome="explained away"))
    assert content.verdict(none).startswith("Nothing stands: none of ")
    nothing = dataclasses.replace(view, associations=view.associations.assign(p_holm=1.0))
    assert content.verdict(nothing).startswith("Nothing stands: none of ")


def test_what_could_not_be_asked_is_said(made: MadeStudy, tmp_path: Path) -> None:
    study = Study.open(str(shutil.copytree(made.study.url, tmp_path / "s")))
    columns = {"variable": ["scanner", "noise_hu"], "n": 12, "n_levels": 2, "chance": 0.5}
    asked = {
        (np.nan, np.nan): "Too few patients of each kind to ask.",
        (0.75, np.nan): "Balanced accuracy across patients: scanner 0.75 (chance 0.50).",
    }
    for accuracy, answer in asked.items():
        study.write_table("validity/predicted", pd.DataFrame({**columns, "accuracy": accuracy}))
        assert dict(trust_rows(study))["Do the topics know the scanner?"] == answer


# -- one volume ----------------------------------------------------------------------------------------------------


def test_a_page_about_one_volume(made: MadeStudy, view: StudyView, tmp_path: Path) -> None:
    row = view.quality[view.quality["accepted"]].iloc[0]
    text = volume_page.volume_page(made.study, row["volume_id"])
    parsed = Page(text)
    images = [a for tag, a in parsed.tags if tag == "img"]
    assert [str(a["alt"]).split(",")[0] for a in images] == ["axial", "coronal", "sagittal"] * 2
    assert f"{row['lung_dice']:.3g}" in parsed.text and "topic " in parsed.text and ", word " in parsed.text
    cohort = view.cohort.set_index("volume_id").loc[row["volume_id"]]
    assert cohort["patient_id"] not in text and cohort["acquired_on"] not in text
    (tmp_path / "one.html").write_text(text)
    with browser(390, 900) as tab:
        tab.goto(f"file://{tmp_path / 'one.html'}")
        tab.evaluate(f"(() => {{ {AXE.read_text('utf-8')} }})()")
        assert (
            tab.evaluate("axe.run(document).then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html)]))") == []
        )
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.errors == [] and not any(r.startswith("http") for r in tab.requests)


def test_a_page_about_a_volume_that_was_left_out(made: MadeStudy, view: StudyView) -> None:
    bad = view.quality[~view.quality["accepted"]].iloc[0]["volume_id"]
    assert "correlate too little" in Page(volume_page.volume_page(made.study, bad)).text
    out = view.cohort[~view.cohort["included"]].iloc[0]["volume_id"]
    text = Page(volume_page.volume_page(made.study, out)).text
    assert "not included" in text and "No slices" in text
    quiet = made.study.with_settings("summarize", show_examples=False)
    assert "<img" not in volume_page.volume_page(quiet, bad)
    with pytest.raises(InputError, match=r"no volume 'nobody' in cohort[.]parquet, which holds 46"):
        volume_page.volume_page(made.study, "nobody")
    assert main(["view", made.study.url, "nobody"]) == 2
