"""Templates, escapes, line ends, abbreviations, slips of the keyboard, and what lists and histories govern."""

from __future__ import annotations

import pytest
from test_terms_described import found

from popclust.reports.cleaning import cleaned
from popclust.reports.lexicon import load_lexicon
from popclust.reports.spelling import Speller
from popclust.reports.terms import find_mentions
from popclust.settings import TermsSettings

EFFUSION, NODULE = "pleural effusion", "pulmonary nodule"
AFFIRMED, NEGATED, UNCERTAIN, HISTORICAL, OTHER = "affirmed", "negated", "uncertain", "historical", "other_person"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Pneumothorax: no", "en", {"pneumothorax": NEGATED}),
        ("Pneumothorax = no; effusion = yes", "en", {"pneumothorax": NEGATED, EFFUSION: AFFIRMED}),
        ("Effusion (-), emphysema (+)", "en", {EFFUSION: NEGATED, "emphysema": AFFIRMED}),
        ("Consolidation: N\nEmphysema: Y", "en", {"consolidation": NEGATED, "emphysema": AFFIRMED}),
        ("Pneumothorax - none\nEmphysema - mild", "en", {"pneumothorax": NEGATED, "emphysema": AFFIRMED}),
        ("Pneumothorax? None.", "en", {"pneumothorax": NEGATED}),
        ("☐ Pneumothorax ☑ Emphysema", "en", {"pneumothorax": NEGATED, "emphysema": AFFIRMED}),
        ("( ) atelectasis\n(x) emphysema", "en", {"atelectasis": NEGATED, "emphysema": AFFIRMED}),
        ("OBX|1|CE|Pneumothorax||N||||||F", "en", {"pneumothorax": NEGATED}),
        ("OBX|1|TX|CT||No effusion.|||F\nOBX|2|TX|CT||Emphysema|||F", "en", {EFFUSION: NEGATED, "emphysema": AFFIRMED}),
        ("Erguss (-), Emphysem (+)", "de", {EFFUSION: NEGATED, "emphysema": AFFIRMED}),
        ("Rundherde: keine\nErguss: ja", "de", {NODULE: NEGATED, EFFUSION: AFFIRMED}),
        ("Erguss -\nEmphysem +", "de", {EFFUSION: NEGATED, "emphysema": AFFIRMED}),
    ],
)
def test_templates(text: str, language: str, expected: dict[str, str]) -> None:
    assert found(text, language) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (
            r"{\rtf1\ansi {\b IMPRESSION:}\par No effusion\par Emphysema}",
            "en",
            {EFFUSION: NEGATED, "emphysema": AFFIRMED},
        ),
        (r"{\rtf1 Kein Pleuraerg\'fcsse\par Gro\'dfe Raumforderung}", "de", {EFFUSION: NEGATED, "mass": AFFIRMED}),
        (
            r"No effusion.\.br\Atelectasis \T\ scarring",
            "en",
            {EFFUSION: NEGATED, "atelectasis": AFFIRMED, "scar": AFFIRMED},
        ),
        ("No effusion~Emphysema", "en", {EFFUSION: NEGATED, "emphysema": AFFIRMED}),
        (
            "<r><finding>No mass</finding><finding>Emphysema</finding></r>",
            "en",
            {"mass": NEGATED, "emphysema": AFFIRMED},
        ),
    ],
)
def test_escapes(text: str, language: str, expected: dict[str, str]) -> None:
    assert found(text, language) == expected
    assert len(cleaned(text)) == len(text)


def test_the_element_of_an_xml_report_is_its_section() -> None:
    text = "<report><indication>Emphysema</indication><findings>Atelectasis</findings></report>"
    mentions = find_mentions([text], ["en"], load_lexicon(), TermsSettings())
    assert mentions["section"].tolist() == ["indication", "findings"]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("No pleural effusion\nEmphysema", "en", {EFFUSION: NEGATED, "emphysema": AFFIRMED}),
        ("There is no sign of\nEmphysema", "en", {"emphysema": NEGATED}),
        (
            "Kein Nachweis einer\nPneumonie, eines\nErgusses. Emphysem",
            "de",
            {"pneumonia": NEGATED, EFFUSION: NEGATED, "emphysema": AFFIRMED},
        ),
        (
            "No evidence of:\n- pneumothorax\n- mass\nEmphysema",
            "en",
            {"pneumothorax": NEGATED, "mass": NEGATED, "emphysema": AFFIRMED},
        ),
        ("Kein Erguss li. Emphysem bds. Narbe.", "de", {EFFUSION: NEGATED, "emphysema": AFFIRMED, "scar": AFFIRMED}),
        ("Atelektase im li. Unterlappen, kein Erguss.", "de", {"atelectasis": AFFIRMED, EFFUSION: NEGATED}),
        ("V. a. Pneumonie.", "de", {"pneumonia": UNCERTAIN}),
        ("Atelektasen v. a. basal, Emphysem.", "de", {"atelectasis": AFFIRMED, "emphysema": AFFIRMED}),
        ("No mass.Emphysema.", "en", {"mass": NEGATED, "emphysema": AFFIRMED}),
    ],
)
def test_ends_of_sentences(text: str, language: str, expected: dict[str, str]) -> None:
    assert found(text, language) == expected


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Chest CT negative for mass.", "en", {"mass": NEGATED}),
        ("No more than a trace of effusion.", "en", {EFFUSION: AFFIRMED}),
        ("Pneumonia has not been ruled out.", "en", {"pneumonia": UNCERTAIN}),
        ("Incomplete clearing of the consolidation.", "en", {"consolidation": AFFIRMED}),
        ("No further enlargement of the mass.", "en", {"mass": AFFIRMED}),
        ("Effusion has not resolved.", "en", {EFFUSION: AFFIRMED}),
        (
            "Neither mass nor effusion, mild emphysema.",
            "en",
            {"mass": NEGATED, EFFUSION: NEGATED, "emphysema": AFFIRMED},
        ),
        ("No consolidation and a small effusion.", "en", {"consolidation": NEGATED, EFFUSION: AFFIRMED}),
        (
            "No effusion or mass, cardiomegaly is stable.",
            "en",
            {EFFUSION: NEGATED, "mass": NEGATED, "cardiomegaly": AFFIRMED},
        ),
        (
            "Mass, fibrosis versus sarcoidosis.",
            "en",
            {"mass": AFFIRMED, "fibrosis": UNCERTAIN, "sarcoidosis": UNCERTAIN},
        ),
        ("Emphysema (old scar?) and a mass.", "en", {"emphysema": AFFIRMED, "scar": "hypothetical", "mass": AFFIRMED}),
        ("Family history: mesothelioma.", "en", {"mesothelioma": OTHER}),
        ("Sarcoidosis in her sister.", "en", {"sarcoidosis": OTHER}),
        ("Status post lobectomy for lung cancer, now effusion.", "en", {"lung cancer": HISTORICAL, EFFUSION: AFFIRMED}),
        ("Bei Z. n. Pneumonie jetzt Emphysem.", "de", {"pneumonia": HISTORICAL, "emphysema": AFFIRMED}),
        (
            "Weder Erguss noch Infiltrate, Emphysem.",
            "de",
            {EFFUSION: NEGATED, "infiltrate": NEGATED, "emphysema": AFFIRMED},
        ),
        ("Kein Pneumothorax und ein Erguss.", "de", {"pneumothorax": NEGATED, EFFUSION: AFFIRMED}),
        ("Noch geringer Erguss.", "de", {EFFUSION: AFFIRMED}),
        ("Fibrose vs. Narbe.", "de", {"fibrosis": UNCERTAIN, "scar": UNCERTAIN}),
        ("Mesotheliom bei der Mutter.", "de", {"mesothelioma": OTHER}),
        ("Karzinomverdächtige Narbe.", "de", {"malignant neoplasm": UNCERTAIN, "scar": AFFIRMED}),
        ("Infiltratfreie Lunge.", "de", {"infiltrate": NEGATED}),
    ],
)
def test_what_lists_and_histories_govern(text: str, language: str, expected: dict[str, str]) -> None:
    assert found(text, language) == expected


def test_an_indication_of_one_line_ends_with_it_where_nothing_heads_the_findings() -> None:
    mentions = find_mentions(["Reason: mass\nNo mass."], ["en"], load_lexicon(), TermsSettings())
    assert mentions["section"].tolist() == ["indication", ""]


@pytest.mark.parametrize(
    ("word", "mended"),
    [
        ("pneumothroax", "pneumothorax"),
        ("consolidaton", "consolidation"),
        ("consollidation", "consolidation"),
        ("consolidetion", "consolidation"),
        ("injection", "injection"),
        ("pneumonic", "pneumonic"),
        ("xonsolidation", "xonsolidation"),
        ("pneumothraox", "pneumothraox"),
    ],
)
def test_one_slip_in_a_long_word(word: str, mended: str) -> None:
    speller = Speller(frozenset({"pneumothorax", "consolidation", "infection", "pneumonia"}))
    assert speller.mended(f" no {word} . ") == f" no {mended} . "


def test_lost_umlauts() -> None:
    assert found("Pleuraerg?sse und Milchglastr\ufffdbung.", "de") == {
        EFFUSION: AFFIRMED,
        "ground-glass opacity": AFFIRMED,
    }
    assert found("Erguss?rechts", "de") == {EFFUSION: "hypothetical"}
