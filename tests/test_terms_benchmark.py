"""The figures that the benchmark of report terms gives."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import terms_ct
from terms_snippets import snippet_figures

from popclust.reports.lexicon import load_lexicon

CT = """report_text,Emphysema,Lymphadenopathy,Pleural effusion
"Emphysema. No effusion.",1,0,0
"Lymph node of 4 mm; pleural effusion.",0,1,1
"Normal chest.",1,0,0
"""


def test_ct_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms_ct, "_medspacy", lambda *of: None)
    (tmp_path / "ct.csv").write_text(CT, "utf-8")
    figures = terms_ct.ct_figures(tmp_path / "ct.csv")
    assert {label: scores["f1"] for label, scores in figures["per_label"].items()} == {
        "Lymphadenopathy": 1.0,
        "Emphysema": pytest.approx(2 / 3),
        "Pleural effusion": 1.0,
    }
    assert figures["macro_f1"] == pytest.approx(8 / 9)
    assert figures["five_hard_f1"] == 1.0
    assert figures["words_per_second"] > 0


def test_snippet_figures(tmp_path: Path) -> None:
    (tmp_path / "key.tsv").write_text("eff\tRID34539\nemph\tRID4799\n", "utf-8")
    rows = [
        "Indication: effusion.\\n\\nFindings: no effusion.\teff\tnot_counted",
        "Indication: effusion.\\n\\nFindings: no effusion.\teff\tnegated",
        "Emphysema.\temph\taffirmed",
        "No emphysema.\temph\taffirmed|uncertain",
    ]
    (tmp_path / "a.tsv").write_text("\n".join(rows), "utf-8")
    figures = snippet_figures([tmp_path / "a.tsv"], tmp_path / "key.tsv", "en", load_lexicon())
    assert figures["n"] == 4
    assert figures["status_right"] == 0.75
    assert figures["precision"] == 1.0
    assert len(figures["wrong"]) == 1


def test_ct_reports_reach_their_bar(data_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms_ct, "_medspacy", lambda *of: None)
    figures = terms_ct.ct_figures(data_path("ct_reports/ctclip_manual_train.csv"))
    assert figures["macro_f1"] >= 0.88
    assert figures["five_hard_f1"] >= 0.84
    assert min(scores["f1"] for scores in figures["per_label"].values()) >= 0.70


@pytest.mark.parametrize(("language", "bar"), [("en", 0.97), ("de", 0.95)])
def test_snippets_reach_their_bar(data_path: Callable[[str], Path], language: str, bar: float) -> None:
    path = data_path(f"snippets/dev_{language}.tsv")
    assert snippet_figures([path], path.parent / "terms_key.tsv", language, load_lexicon())["status_right"] >= bar


@pytest.mark.parametrize("language", ["en", "de"])
def test_radlex_of_ones_own_finds_what_the_built_in_finds(data_path: Callable[[str], Path], language: str) -> None:
    snippets = data_path(f"snippets/dev_{language}.tsv")
    own = load_lexicon(str(data_path("radlex/radlex_2017_label_rid_parent.csv")))
    recall = [
        snippet_figures([snippets], snippets.parent / "terms_key.tsv", language, lexicon)["recall"]
        for lexicon in (load_lexicon(), own)
    ]
    assert recall[1] >= recall[0] - 0.03
