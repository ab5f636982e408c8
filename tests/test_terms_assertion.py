"""What reports say of findings: English and German constructions, sections, real annotations."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popclust.reports.lexicon import load_lexicon
from popclust.reports.phrases import phrase_status
from popclust.reports.terms import find_mentions
from popclust.reports.triggers import triggers
from popclust.settings import TermsSettings

GERMAN = Path(__file__).parent / "data" / "german_sentences.tsv"


@pytest.mark.parametrize(
    ("phrase", "sentence", "status"),
    [
        ("effusion", "No pneumothorax, consolidation or effusion.", "negated"),
        ("effusion", "No pneumothorax, large effusion, or edema.", "negated"),
        ("atelectasis", "No pneumothorax, mild atelectasis.", "affirmed"),
        ("effusion", "No pneumothorax but a small effusion.", "affirmed"),
        ("effusion", "Effusion: none.", "negated"),
        ("effusion", "Effusion: No.", "negated"),
        ("effusion", "Effusion has resolved.", "negated"),
        ("effusion", "No change in effusion.", "affirmed"),
        ("effusion", "Not only effusion.", "affirmed"),
        ("pneumonia", "Pneumonia cannot be excluded.", "uncertain"),
        ("pneumonia", "Opacity suspicious for pneumonia.", "uncertain"),
        ("pneumonia", "No opacity to suggest pneumonia.", "negated"),
        ("pneumonia", "No effusion, possible pneumonia.", "uncertain"),
        ("pneumonia", "History of pneumonia.", "historical"),
        ("pneumonia", "No history of pneumonia.", "negated"),
        ("pneumonia", "Rule out pneumonia.", "hypothetical"),
        ("pneumonia", "Pneumonia?", "hypothetical"),
        ("cancer", "Mother with lung cancer.", "other_person"),
        ("effusion", "Seen by Dr. Noeffusion. Effusion.", "affirmed"),
        ("effusion", "Heart 1.5 cm larger. effusion", "affirmed"),
        ("effusion", "no", "affirmed"),
    ],
)
def test_english_constructions(phrase: str, sentence: str, status: str) -> None:
    assert phrase_status(sentence, phrase, "en") == status


def _german_rows() -> list[dict[str, str]]:
    with GERMAN.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _status(row: dict[str, str]) -> str:
    if row["experiencer"] != "Patient":
        return "other_person"
    if row["temporality"] != "Recent":
        return row["temporality"].lower()
    return {"Negated": "negated", "Affirmed": "affirmed", "Possible": "uncertain"}[row["negation_status"]]


def test_german_sentences() -> None:
    rows = _german_rows()
    assert len(rows) >= 120
    found = [phrase_status(row["sentence"], row["phrase"], "de") for row in rows]
    wanted = [_status(row) for row in rows]
    for status in set(wanted):
        hits = sum(f == w == status for f, w in zip(found, wanted, strict=True))
        assert 2 * hits / (found.count(status) + wanted.count(status)) >= 0.95, status


def test_german_sentences_are_found_by_the_built_in_lexicon() -> None:
    rows, lexicon = _german_rows(), load_lexicon()
    mentions = find_mentions([row["sentence"] for row in rows], None, lexicon, TermsSettings())
    n_found = 0
    for i, row in enumerate(rows):
        start = row["sentence"].index(row["phrase"])
        near = mentions[(mentions["report"] == i) & (mentions["start"] < start + len(row["phrase"]))]
        near = near[(near["end"] > start) & (near["status"] == _status(row))]
        above = lexicon.ancestors or {}
        n_found += any(row["term_id"] in ("", t, *above[t]) for t in near["term_id"])
    assert n_found >= 0.95 * len(rows)


def test_annotated_sentences(data_path: Callable[[str], Path]) -> None:
    path = data_path("negation/chapman_rsAnnotations.txt")
    rows = [line.split("\t") for line in path.read_text("utf-8", "replace").splitlines()[1:]]
    found = np.array([phrase_status(row[2], row[1], "en") == "negated" for row in rows])
    truth = np.array([row[3] == "Negated" for row in rows])
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= 0.95


REPORT = """INDICATION: Rule out pneumonia, history of emphysema.

COMPARISON: Pneumothorax on prior.

FINDINGS: Small pleural effusion.
Comparison is limited.

IMPRESSION:

Atelectasis."""


def test_sections() -> None:
    found = find_mentions([REPORT], None, load_lexicon(), TermsSettings())
    assert dict(zip(found["term"], found["section"], strict=True)) == {
        "pneumonia": "indication",
        "emphysema": "indication",
        "pneumothorax": "comparison",
        "pleural effusion": "findings",
        "atelectasis": "impression",
    }


def test_german_sections_and_a_body_without_heading() -> None:
    text = "Klinik: Pneumonie?\n\nKleiner Pleuraerguss rechts.\n\nBeurteilung: Emphysem."
    found = find_mentions([text], None, load_lexicon(), TermsSettings())
    assert found["section"].tolist() == ["indication", "", "impression"]
    assert found["status"].tolist() == ["hypothetical", "affirmed", "affirmed"]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(p for p, ts in triggers("en").items() if ts[0].kind == "negated" and ts[0].before)),
    st.sampled_from(["effusion", "nodule", "fracture"]),
)
def test_every_trigger_before_a_finding_negates_it(trigger: str, finding: str) -> None:
    assert phrase_status(f"{trigger.strip()} {finding}", finding, "en") == "negated"


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["en", "de"]),
    st.lists(st.sampled_from(sorted(triggers("en")) + sorted(triggers("de"))), max_size=6),
)
def test_a_sentence_does_not_see_its_neighbours(language: str, around: list[str]) -> None:
    before = " ".join(t.strip() for t in around if ". " not in t and "." not in t)
    assert phrase_status(f"{before}; effusion; {before} x.", "effusion", language) == "affirmed"
