"""Terms in reports: mentions with what is said of them, what counts, and the matrix of volumes and terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from popclust import schema
from popclust.errors import InputError
from popclust.reports.composition import composed
from popclust.reports.concepts import LANGUAGES
from popclust.reports.language import detect_language
from popclust.reports.lexicon import Lexicon
from popclust.reports.matching import Hits, matcher
from popclust.reports.negation import assertions
from popclust.reports.sections import sections, valid_headings
from popclust.reports.text import FoldedText, fold
from popclust.settings import TermsSettings

MENTION_COLUMNS = ("report", *schema.names("mentions")[1:])
"""Columns of the table of mentions, with the number of the text in its batch for the volume."""


class Mention(NamedTuple):
    """One place of one report that names a term."""

    report: int
    """Number of the text in its batch."""
    term_id: str
    """Identifier in the lexicon."""
    term: str
    """Label in the lexicon."""
    status: str
    """affirmed, negated, uncertain, historical, hypothetical or other_person."""
    section: str
    """Section of the report, ``""`` under no heading."""
    start: int
    """First character in the text."""
    end: int
    """Character after the last."""
    language: str
    """Language that the report was read in."""


def find_mentions(
    texts: Sequence[str], languages: Sequence[str | None] | None, lexicon: Lexicon, settings: TermsSettings
) -> pd.DataFrame:
    """All mentions of the lexicon's terms in a batch of reports.

    Parameters
    ----------
    texts : sequence of str
        Reports; what is not a string (a missing value) has no mentions.
    languages : sequence of str or None, optional
        Language of each report, None where it is not known. A language given in the settings wins over detection, one
        given here wins over both.
    lexicon : Lexicon
        The terms that are looked for.
    settings : TermsSettings
        `language` is used.

    Returns
    -------
    pandas.DataFrame
        One row per mention with the columns :data:`MENTION_COLUMNS`, in the order of the reports and of their text.
        It holds no report text.
    """
    rows: list[Mention] = []
    for number, text in enumerate(texts):
        if isinstance(text, str) and text:
            given = languages[number] if languages is not None else None
            rows += _mentions(number, text, _known_language(given, settings), lexicon)
    frame = pd.DataFrame(rows, columns=list(MENTION_COLUMNS))
    return frame.astype(dict.fromkeys(("report", "start", "end"), np.int64))


def _known_language(given: object, settings: TermsSettings) -> str | None:
    """The language of a report if it need not be detected."""
    language = given.lower()[:2] if isinstance(given, str) and given.strip() else settings.language
    if language == "auto":
        return None
    if language not in LANGUAGES:
        raise InputError(
            f"reports: language {language!r} is not known; wanted one of {', '.join(LANGUAGES)} or nothing"
        )
    return language


def _mentions(number: int, text: str, language: str | None, lexicon: Lexicon) -> Iterable[Mention]:
    if language != "en":
        text = matcher(lexicon, "de").speller.with_umlauts(text)
    folded = fold(text)
    language = language or detect_language(folded.folded) or _fuller_language(folded.folded, lexicon)
    found_by = matcher(lexicon, language)
    folded = replace(folded, folded=found_by.speller.mended(folded.folded))
    hits = found_by.find(folded.folded)
    if hits.parts:
        hits = hits._replace(names=composed(hits.names, hits.cues, hits.parts, folded.folded, lexicon.numbers))
    if not hits.names:
        return []
    return _asserted(number, folded, hits, language, lexicon)


def _fuller_language(folded: str, lexicon: Lexicon) -> str:
    """The language in which more letters of a report belong to known names; English if neither."""
    covered = {
        language: sum(h.end - h.start for h in matcher(lexicon, language).find(folded).names) for language in LANGUAGES
    }
    return max(LANGUAGES, key=lambda language: covered[language])


def _asserted(number: int, folded: FoldedText, hits: Hits, language: str, lexicon: Lexicon) -> list[Mention]:
    cues = valid_headings(hits.cues, folded.folded)
    statuses = assertions(hits.names, cues, folded.folded)
    places = sections(hits.names, cues)
    spans = folded.spans((hit.start, hit.end) for hit in hits.names)
    found = []
    for hit, status, section, (start, end) in zip(hits.names, statuses, places, spans, strict=True):
        if hit.pattern.is_upper and not folded.cleaned[start:end].rstrip("s").isupper():
            continue
        for concept_number in hit.pattern.names:
            concept = lexicon.concepts[concept_number]
            said = hit.pattern.said or status
            found.append(Mention(number, concept.term_id, concept.label, said, section, start, end, language))
    return found


def counts(mentions: pd.DataFrame, settings: TermsSettings) -> pd.Series:
    """Whether each mention counts as a finding.

    A mention counts when it is affirmed (or uncertain, with `count_uncertain`) and stands in one of the counting
    `sections` or under no heading.
    """
    statuses = ["affirmed", "uncertain"] if settings.count_uncertain else ["affirmed"]
    return mentions["status"].isin(statuses) & mentions["section"].isin([*settings.sections, ""])


def counted_terms(mentions: pd.DataFrame, settings: TermsSettings, lexicon: Lexicon | None = None) -> pd.DataFrame:
    """The terms that each volume has.

    A volume has a term when at least one mention of it counts in any of the volume's reports: a negation elsewhere,
    in the same or in another report, does not take it away.

    Parameters
    ----------
    mentions : pandas.DataFrame
        Mentions with the column `volume_id`.
    settings : TermsSettings
        `sections`, `count_uncertain` and `roll_up` are used.
    lexicon : Lexicon, optional
        Needed for `roll_up`.

    Returns
    -------
    pandas.DataFrame
        Distinct (volume_id, term_id), sorted.
    """
    counted = mentions.loc[counts(mentions, settings), ["volume_id", "term_id"]]
    if settings.roll_up:
        if lexicon is None:
            raise ValueError("lexicon: needed where the setting `roll_up` is used")
        counted = counted.assign(term_id=counted["term_id"].map(lexicon.rolled_up(settings.roll_up)))
    return counted.drop_duplicates().sort_values(["volume_id", "term_id"], ignore_index=True)


def term_matrix(counted: pd.DataFrame, volume_ids: Sequence[str], min_term_count: int = 0) -> xr.DataArray:
    """Which volume has which term.

    Parameters
    ----------
    counted : pandas.DataFrame
        As :func:`counted_terms` gives it.
    volume_ids : sequence of str
        Volumes with a report, each one row of the matrix also when it has no term. Volumes of `counted` that are not
        among them are left out.
    min_term_count : int
        Terms of fewer volumes are left out. The paper keeps terms that occur more than 50 times: 51.

    Returns
    -------
    xarray.DataArray
        bool, dims (volume, term), terms in the order of their identifiers.
    """
    rows = {v: i for i, v in enumerate(volume_ids)}
    if len(rows) != len(volume_ids):
        raise ValueError("volume_ids: must not repeat a volume")
    known = counted[counted["volume_id"].isin(list(rows))]
    n_volumes = known.drop_duplicates().groupby("term_id").size()
    terms = sorted(n_volumes.index[n_volumes >= max(min_term_count, 1)])
    columns = {t: j for j, t in enumerate(terms)}
    matrix = np.zeros((len(rows), len(terms)), bool)
    for volume, term in known[known["term_id"].isin(terms)].itertuples(index=False):
        matrix[rows[volume], columns[term]] = True
    return xr.DataArray(matrix, {"volume": list(volume_ids), "term": terms}, ("volume", "term"), name="has_term")
