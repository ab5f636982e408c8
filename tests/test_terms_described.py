"""Findings that are described by an observation and its organ, not named."""

from __future__ import annotations

import pytest

from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.parts import composed_findings, part_names
from popclust.reports.terms import find_mentions
from popclust.settings import TermsSettings


def found(text: str, language: str = "en", lexicon: Lexicon | None = None) -> dict[str, str]:
    """Label and status of each mention."""
    mentions = find_mentions([text], [language], lexicon or load_lexicon(), TermsSettings())
    return dict(zip(mentions["term"], mentions["status"], strict=True))


@pytest.mark.parametrize(
    ("text", "language", "term"),
    [
        ("The size of the heart is increased.", "en", "cardiomegaly"),
        ("Increased cardiothoracic ratio.", "en", "cardiomegaly"),
        ("Das Herz ist deutlich vergrößert.", "de", "cardiomegaly"),
        ("Several plaques in the left coronary artery.", "en", "coronary artery calcification"),
        ("Koronarien mit Kalkplaques.", "de", "coronary artery calcification"),
        ("Some fluid lies in the pericardial recess.", "en", "pericardial effusion"),
        ("Flüssigkeit im Perikard.", "de", "pericardial effusion"),
        ("The walls of the bronchi are thickened.", "en", "bronchial wall thickening"),
        ("Thickness increase of peribronchial and septal structures.", "en", "bronchial wall thickening"),
        ("Thickened interlobular septa on both sides.", "en", "interlobular septal thickening"),
        ("Sequelae in the apex of the left lung.", "en", "fibrotic sequela of the lung"),
        ("A vague density in the right lower lobe.", "en", "opacity"),
        ("A 4 mm nodule close to the fissure.", "en", "pulmonary nodule"),
    ],
)
def test_an_observation_with_its_organ(text: str, language: str, term: str) -> None:
    assert found(text, language)[term] == "affirmed"


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("Effusion around the spleen.", "pleural effusion"),
        ("Pericardium with a little effusion.", "pleural effusion"),
        ("The density of the liver is lower than that of the spleen.", "opacity"),
        ("The thyroid has a hypodense nodule.", "pulmonary nodule"),
        ("Heart of normal size; the pulmonary artery is enlarged.", "cardiomegaly"),
        ("No increase in heart size.", "cardiomegaly"),
        ("The heart has not enlarged.", "cardiomegaly"),
        ("A stent in the LAD.", "lymphadenopathy"),
        ("Sequelae of rib fractures.", "fibrotic sequela of the lung"),
    ],
)
def test_another_organ_makes_another_finding(text: str, term: str) -> None:
    assert term not in found(text)


def test_an_organ_counts_in_its_own_sentence_only() -> None:
    assert "coronary artery calcification" not in found("Plaques in the aorta. The coronary arteries are slender.")


def test_all_organs_of_a_list_count() -> None:
    assert found("No plaques in the aorta or the coronary arteries.") == {
        "atherosclerosis": "negated",
        "coronary artery calcification": "negated",
    }


@pytest.mark.parametrize(
    ("text", "language", "is_large"),
    [
        ("Lymph nodes with a short axis of 12 mm.", "en", True),
        ("Lymph nodes with a short axis of 1.2 cm.", "en", True),
        ("A 12x10.5 mm lymph node.", "en", True),
        ("A 19 x 8 mm lymph node.", "en", False),
        ("Lymph nodes of less than 15 mm.", "en", False),
        ("Lymph nodes of 4 mm.", "en", False),
        ("Lymph node; a nodule of 20 mm.", "en", False),
        ("Lymphknoten mit einer Kurzachse von 11 mm.", "de", True),
        ("Lymphknoten unter 10 mm.", "de", False),
    ],
)
def test_the_short_axis_of_a_lymph_node_decides(text: str, language: str, is_large: bool) -> None:
    assert ("lymphadenopathy" in found(text, language)) == is_large
    assert "lymph node described" in found(text, language)


def test_a_lexicon_looks_for_its_own_terms_only() -> None:
    concepts = tuple(c for c in load_lexicon().concepts if c.label == "pleural effusion")
    assert found("Effusion. Heart enlarged.", lexicon=Lexicon(concepts, has_composed=True)) == {
        "pleural effusion": "affirmed"
    }
    assert found("Pericardium with effusion.", lexicon=Lexicon(concepts, has_composed=True)) == {}
    assert found("Pericardium with effusion.", lexicon=Lexicon(concepts)) == {"pleural effusion": "affirmed"}


def test_every_composed_finding_is_in_the_lexicon() -> None:
    terms = {finding.term_id for findings in composed_findings().values() for finding in findings}
    assert terms - {""} <= set(load_lexicon().term_ids)
    assert all(part_names().values())


@pytest.mark.parametrize("text", ["lymph node " + "1" * 500 + "y mm", "lung " + "density " * 3000])
def test_long_runs_take_no_time(text: str) -> None:
    find_mentions([text], ["en"], load_lexicon(), TermsSettings())
