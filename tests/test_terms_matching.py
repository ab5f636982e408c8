"""Names in folded text: positions, boundaries, inflection, the longest match, and a slow reference."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from popclust.reports.concepts import Concept, Name
from popclust.reports.inflection import forms
from popclust.reports.language import detect_language
from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.terms import find_mentions
from popclust.reports.text import alternatives, fold, fold_phrase
from popclust.reports.triggers import STATUSES
from popclust.settings import TermsSettings

SETTINGS = TermsSettings()


def _lexicon(*names: str, language: str = "en") -> Lexicon:
    return Lexicon(tuple(Concept(f"RID{i}", n.lstrip("~="), (), (Name(n, language),)) for i, n in enumerate(names)))


def _terms(text: str, language: str | None = None, lexicon: Lexicon | None = None) -> list[tuple[str, str]]:
    found = find_mentions([text], [language], lexicon or load_lexicon(), SETTINGS)
    return [(text[a:b], term) for a, b, term in zip(found["start"], found["end"], found["term"], strict=True)]


def test_alternatives_nest() -> None:
    assert list(alternatives("a {b|c {d|}} e")) == ["a b e", "a c d e", "a c e"]
    with pytest.raises(ValueError, match="brace"):
        list(alternatives("a {b"))


@pytest.mark.parametrize(
    ("name", "language", "expected"),
    [
        ("pleural effusion", "en", "pleural effusions"),
        ("metastasis", "en", "metastases"),
        ("bulla", "en", "bullae"),
        ("opacity", "en", "opacities"),
        ("fracture of rib", "en", "fractures of rib"),
        ("pulmonary edema", "en", "pulmonary oedema"),
        ("edema", "en", "edmea"),
        ("pleuraerguss", "de", "pleuraergüsse"),
        ("pleuraerguss", "de", "pleuraergusses"),
        ("pleuraerguss", "de", "pleuraerguß"),
        ("bronchiektase", "de", "bronchiektasen"),
        ("zentrilobuläres emphysem", "de", "zentrilobulären emphysems"),
        ("ödem", "de", "oedem"),
    ],
)
def test_forms(name: str, language: str, expected: str) -> None:
    assert expected in forms(name, language)


def test_whole_words_only() -> None:
    lexicon = _lexicon("cyst")
    assert _terms("Cystoscopy and macrocyst; cyst.", "en", lexicon) == [("cyst", "cyst")]


def test_longest_name_wins_and_overlaps_are_kept() -> None:
    lexicon = _lexicon("lung nodule", "nodule", "nodule calcification")
    assert _terms("lung nodule calcification", "en", lexicon) == [
        ("lung nodule", "lung nodule"),
        ("nodule calcification", "nodule calcification"),
    ]


def test_compound_heads_take_the_whole_word() -> None:
    assert _terms("Rippenstückfraktur links", "de")[0][0] == "Rippenstückfraktur"
    assert _terms("Weichteilemphysem", "de") == [("Weichteilemphysem", "subcutaneous emphysema")]
    assert _terms("Perikarderguss", "de") == [("Perikarderguss", "pericardial effusion")]
    # The finding is the head of a compound, not its beginning.
    assert _terms("Frakturspaltabstand", "de") == []


def test_names_that_share_their_head_are_both_found() -> None:
    assert {t for _, t in _terms("No pleural or pericardial effusion.", "en")} == {
        "pleural effusion",
        "pericardial effusion",
    }
    assert {t for _, t in _terms("Pleura- und Perikarderguss.", "de")} == {"pleural effusion", "pericardial effusion"}


def test_abbreviations_count_in_capitals_only() -> None:
    assert _terms("Acute PE.", "en") == [("PE", "pulmonary embolism")]
    assert _terms("Acute pe.", "en") == []


def test_positions_survive_markup_umlauts_and_control_characters() -> None:
    text = "<p>Kein\x00 Pleura\u00aderguss.</p><br/>Gro&szlig;e Erg&uuml;sse, ﬁbrotische İ Narbe"
    words = [words for words, _ in _terms(text, "de")]
    assert words == ["Pleura\u00aderguss", "Erg&uuml;sse", "ﬁbrotische", "Narbe"]


def test_decomposed_umlauts_match() -> None:
    assert _terms("Pleuraergu\u0308sse", "de") == [("Pleuraergu\u0308sse", "pleural effusion")]


def test_a_name_may_run_over_a_soft_line_break_only() -> None:
    wrapped = (
        "The chest radiograph shows a rather small area of ground\nglass opacity in the left upper lobe of the lung."
    )
    assert ("ground\nglass opacity", "ground-glass opacity") in _terms(wrapped, "en")
    assert _terms("- pleural\n- effusion\n- long line that makes the width of it all", "en") == [
        ("effusion", "pleural effusion")
    ]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("There is no evidence of effusion.", "en"),
        ("Es zeigt sich kein Erguss.", "de"),
        ("Größe unverändert", "de"),
        ("Pneumothorax", None),
        ("", None),
    ],
)
def test_language(text: str, language: str | None) -> None:
    assert detect_language(fold(text).folded) == language


def test_language_of_a_bare_name_is_the_one_that_knows_it() -> None:
    found = find_mentions(["Kardiomegalie.", "Cardiomegaly."], None, load_lexicon(), SETTINGS)
    assert found["language"].tolist() == ["de", "en"]


def _reference(text: str, names: list[str]) -> set[tuple[int, int, str]]:
    """Every name at every place by regular expressions, without those inside longer ones."""
    found = {
        (m.start(1), m.end(1), name)
        for name in names
        for m in re.finditer(rf"(?<![a-z])(?=({name.replace(' ', '[ -]+')})(?![a-z]))", text)
    }
    return {(a, b, n) for a, b, n in found if not any(c <= a and b <= d and (c, d) != (a, b) for c, d, _ in found)}


NAMES = ["ab", "ab cd", "cd", "cd ab ab", "xy", "ab xy cd"]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(["ab", "cd", "xy", "zz", "abcd", " ", "-", "  "]), max_size=20).map(" ".join))
@example("ab-cd ab ab xy cd")
def test_matches_equal_a_slow_reference(text: str) -> None:
    lexicon = Lexicon(tuple(Concept(n, n, (), (Name("=" + n, "en"),)) for n in NAMES))
    found = find_mentions([text], ["en"], lexicon, SETTINGS)
    assert set(zip(found["start"], found["end"], found["term_id"], strict=True)) == _reference(text, NAMES)


PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "Pleuraerguss",
            "effusion",
            " no ",
            " kein ",
            "\n\n",
            "\r\n- ",
            "<br>",
            "&auml;",
            "FINDINGS:",
            "?",
            "XXXX",
            "PE",
            "\x00",
            "\ufb01",
            "\u0130",
            "\u0308",
            "\u00ad",
            "\ufdfa",
            "1.2",
            "Z.n.",
            "Beurteilung:\n",
            "\ud800",
            "\U0001d51e",
        ]
    ),
)


@settings(deadline=None, max_examples=250)
@given(st.lists(PIECES, max_size=25).map("".join), st.sampled_from(["en", "de", None]))
def test_no_text_breaks_it_and_spans_lie_inside(text: str, language: str | None) -> None:
    found = find_mentions([text], [language], load_lexicon(), SETTINGS)
    assert ((found["start"] >= 0) & (found["start"] < found["end"]) & (found["end"] <= len(text))).all()
    assert set(found["status"]) <= set(STATUSES)
    assert found["start"].is_monotonic_increasing


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_cleaning_keeps_the_length_and_folding_the_number_of_tokens(text: str) -> None:
    folded = fold(text)
    assert len(folded.cleaned) == len(text)
    assert folded.folded.count(" ") == (len(folded.tokens) + 1 if folded.tokens else 2)
    assert fold_phrase(text) == folded.folded or not folded.tokens or folded.cleaned != text


def test_missing_and_huge_reports() -> None:
    huge = "No effusion. Small pneumothorax. " * 5000
    found = find_mentions(["", None, float("nan"), huge], None, load_lexicon(), SETTINGS)  # type: ignore[list-item]
    assert set(found["report"]) == {3}
    assert found["status"].value_counts().to_dict() == {"negated": 5000, "affirmed": 5000}
