"""Short, difficult pieces of reports, each with a term and what it says of it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from popclust.reports.lexicon import Lexicon
from popclust.reports.terms import find_mentions
from popclust.settings import TermsSettings

NOT_COUNTED = "not_counted"
"""The status of a term that is not found, or only where findings are not counted."""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def snippet_figures(paths: Sequence[Path], key: Path, language: str, lexicon: Lexicon) -> dict[str, Any]:
    """How often the status is right, and precision and recall of what counts as a finding."""
    rows = [row for path in paths for row in _rows(path)]
    terms = {row[0]: frozenset(row[1].split(";")) for row in _rows(key)}
    texts = list(dict.fromkeys(row[0] for row in rows))
    statuses = dict(zip(texts, _statuses(texts, terms, language, lexicon), strict=True))
    left = Counter((text, term) for text, term, _ in rows)
    wrong, right, n_hits, n_found, n_wanted = [], 0, 0, 0, 0
    for text, term, wanted in rows:
        allowed, left[text, term] = wanted.split("|"), left[text, term] - 1
        found = _next(statuses[text][term], allowed, left[text, term])
        if found in allowed:
            right += 1
        else:
            wrong.append(f"{text} [{term}] {wanted}, found {found}")
        is_hit = found == "affirmed" and "affirmed" in allowed
        n_hits += is_hit
        n_found += found == "affirmed"
        n_wanted += wanted == "affirmed" or is_hit
    return {
        "n": len(rows),
        "status_right": right / max(len(rows), 1),
        "precision": n_hits / max(n_found, 1),
        "recall": n_hits / max(n_wanted, 1),
        "wrong": wrong,
    }


def _next(said: list[str], allowed: Sequence[str], n_left: int) -> str:
    """Take the next place of a term: the first with a right status that leaves one for each row to come."""
    choice = range(max(len(said) - n_left, 0))
    at = next((i for i in choice if said[i] in allowed), 0)
    found = said[at] if choice else NOT_COUNTED
    del said[: at + 1 if choice else 0]
    return found


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        found = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [[_unescaped(row[0]), *row[1:]] for row in found if row]


def _unescaped(text: str) -> str:
    parts, i = [], 0
    while i < len(text):
        if text[i] == "\\" and text[i + 1 : i + 2] in _ESCAPES:
            parts.append(_ESCAPES[text[i + 1]])
            i += 2
        else:
            parts.append(text[i])
            i += 1
    return "".join(parts)


def _statuses(
    texts: Sequence[str], terms: dict[str, frozenset[str]], language: str, lexicon: Lexicon
) -> list[dict[str, list[str]]]:
    """What each text says of each term, place by place."""
    settings = TermsSettings()
    above = lexicon.ancestors or {}
    below = {t: {i for i in lexicon.term_ids if ids & {i, *above.get(i, ())}} for t, ids in terms.items()}
    mentions = find_mentions(texts, [language] * len(texts), lexicon, settings)
    counting = mentions["section"].isin([*settings.sections, ""])
    mentions["status"] = mentions["status"].where(counting, NOT_COUNTED)
    by_text = dict(tuple(mentions.groupby("report")))
    none = mentions.iloc[:0]
    return [
        {term: _places(by_text.get(number, none), ids) for term, ids in below.items()} for number in range(len(texts))
    ]


def _places(mentions: pd.DataFrame, ids: set[str]) -> list[str]:
    of_term = mentions[mentions["term_id"].isin(ids)].drop_duplicates(["start", "end"])
    return list(of_term["status"])
