"""A sample of mentions for a person to check, and how far the person agrees.

The sheet holds report text (the context of each mention) and is written only on request; nothing of it goes into a
study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from popclust.errors import InputError
from popclust.reports.triggers import STATUSES

NOT_A_MENTION = "wrong_term"
"""What a person enters in `checked` when the marked words do not name the term."""
_CONTEXT = 120


def audit_sheet(mentions: pd.DataFrame, texts: Sequence[str], n: int = 200, seed: int = 0) -> pd.DataFrame:
    """A random sample of mentions with their context and an empty column for a person's judgement.

    As many mentions of each status as there are, up to an equal share of `n`, so that rare statuses are judged too.

    Parameters
    ----------
    mentions : pandas.DataFrame
        As :func:`popclust.reports.terms.find_mentions` gives them for `texts`.
    texts : sequence of str
        The reports.
    n : int
        Mentions in the sheet at most.
    seed : int
        Seed of the sample and of its order.

    Returns
    -------
    pandas.DataFrame
        The mentions with `before`, `words`, `after` and `checked`, which is to be filled in with one of the statuses or
        ``"wrong_term"``. In random order, without hint of the status until the last column but one.
    """
    if n < 1:
        raise ValueError(f"n: must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    chosen = _balanced(mentions["status"].to_numpy(object), n, rng)
    sheet = mentions.iloc[chosen].reset_index(drop=True)
    places = list(zip(sheet["report"], sheet["start"], sheet["end"], strict=True))
    sheet["before"] = [" ".join(texts[r][max(0, a - _CONTEXT) : a].split()) for r, a, _ in places]
    sheet["words"] = [" ".join(texts[r][a:b].split()) for r, a, b in places]
    sheet["after"] = [" ".join(texts[r][b : b + _CONTEXT].split()) for r, _, b in places]
    sheet["checked"] = ""
    columns = ["report", "start", "end", "language", "section", "term_id", "term"]
    return sheet[[*columns, "before", "words", "after", "status", "checked"]]


def _balanced(statuses: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers, shuffled: the rarest statuses are filled first and leave their rest to the others."""
    groups = sorted((np.flatnonzero(statuses == s) for s in STATUSES), key=len)
    groups = [g for g in groups if len(g)]
    chosen: list[np.ndarray] = []
    left = n
    for i, group in enumerate(groups):
        share = min(len(group), left // (len(groups) - i))
        chosen.append(rng.choice(group, share, replace=False))
        left -= share
    return rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.intp)


@dataclass(frozen=True)
class Agreement:
    """How far a person agrees with what was found."""

    n_checked: int
    """Mentions judged."""
    n_wrong_term: int
    """Of these, words that do not name the term."""
    accuracy: float
    """Share of the others whose status the person gave too."""
    kappa: float
    """Cohen's kappa of the status; nan when both gave a single status throughout."""
    per_status: pd.DataFrame
    """Row per status: `precision`, `recall`, `f1` against the person, `n` mentions the person gave it."""


def agreement(sheet: pd.DataFrame) -> Agreement:
    """Agreement on an audit sheet that a person has filled in; rows left empty are passed over.

    The sheet samples every status alike: precision is an estimate for all mentions of a status, while accuracy, kappa
    and recall are those of the sheet.

    Raises
    ------
    InputError
        A column is missing, nothing is filled in, or an entry is neither a status nor ``"wrong_term"``.
    """
    for column in ("status", "checked"):
        if column not in sheet.columns:
            raise InputError(f"audit sheet: the column `{column}` is missing")
    entries = sheet["checked"].fillna("").astype(str).str.strip().str.lower()
    unknown = sorted(set(entries) - {*STATUSES, NOT_A_MENTION, ""})
    if unknown:
        raise InputError(f"audit sheet: {unknown[0]!r} in `checked`; wanted {', '.join((*STATUSES, NOT_A_MENTION))}")
    is_checked = entries != ""
    if not is_checked.any():
        raise InputError("audit sheet: the column `checked` is empty; fill it in first")
    is_term = is_checked & (entries != NOT_A_MENTION)
    found, judged = sheet.loc[is_term, "status"].to_numpy(object), entries[is_term].to_numpy(object)
    present = [s for s in STATUSES if s in set(found) | set(judged)]
    figures = precision_recall_fscore_support(judged, found, labels=present, zero_division=0.0) if present else [[]] * 4
    per_status = pd.DataFrame(dict(zip(("precision", "recall", "f1", "n"), figures, strict=True)), index=present)
    return Agreement(
        n_checked=int(is_checked.sum()),
        n_wrong_term=int((entries == NOT_A_MENTION).sum()),
        accuracy=float((found == judged).mean()) if len(found) else float("nan"),
        kappa=float(cohen_kappa_score(judged, found)) if len(present) > 1 else float("nan"),
        per_status=per_status,
    )
