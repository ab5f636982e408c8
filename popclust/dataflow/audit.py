"""A sheet of mentions for a radiologist to judge, and what the judgement says of the extractor in this hospital.

The sheet holds report text: it lies beside the key, for its owner alone, and nothing of it goes into the study.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from popclust.dataflow.stages.terms import lexicon_of
from popclust.errors import InputError
from popclust.imaging.pseudonyms import load_key, report_pseudonym
from popclust.reports.audit import Agreement, agreement, audit_sheet
from popclust.reports.concepts import LANGUAGES
from popclust.reports.input import Report, read_reports
from popclust.reports.join import Join
from popclust.reports.terms import find_mentions
from popclust.study import Study

_REPORTS_PER_MENTION = 10
"""Reports that are looked through for each mention of the sheet: rare statuses shall be among them."""


def write_sheet(study: Study, n: int, seed: int = 0) -> str:
    """Write `audit.csv` beside the key: mentions with their context, and an empty column `checked`.

    Parameters
    ----------
    study : Study
        Ingested, with reports.
    n : int
        Mentions, rare statuses as often as common ones.
    seed : int
        Of the choice of reports and of mentions.

    Returns
    -------
    str
        Where the sheet is.

    Raises
    ------
    InputError
        No reports, none of the cohort, or a sheet that is there already: somebody's work may be in it.
    """
    settings, path = study.settings.terms, Path(study.secret_path("audit.csv"))
    if not settings.reports:
        raise InputError(f"{study.url}/study.toml: [terms] reports is empty: there is nothing to audit")
    if path.exists():
        raise InputError(f"{path}: is there already; move it away for a new sheet")
    reports = _some_reports(study, n * _REPORTS_PER_MENTION, seed)
    if not reports:
        raise InputError("reports: none is of a volume in the cohort")
    texts = [r.text for r in reports]
    mentions = find_mentions(texts, [r.language for r in reports], lexicon_of(study, ""), settings)
    sheet = audit_sheet(mentions, texts, n, seed)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8-sig") as file:
        sheet.to_csv(file, index=False)
    return str(path)


def read_sheet(study: Study) -> Agreement:
    """How far the person who filled in `audit.csv` agrees with the extractor.

    Raises
    ------
    InputError
        No sheet, nothing filled in, or an entry that is no status.
    """
    path = study.secret_path("audit.csv")
    try:
        sheet = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        why = type(error).__name__
        raise InputError(f"{path}: cannot be read ({why}); `popclust terms --audit N` writes it") from None
    return agreement(sheet)


def _some_reports(study: Study, n: int, seed: int) -> list[Report]:
    """A seeded sample of the cohort's reports, drawn while they are read (Vitter's algorithm R)."""
    settings, key = study.settings.terms, load_key(study.secret_path("key"))
    join, rng = Join.to_cohort(study.read_table("cohort")), np.random.default_rng(seed)
    kept: list[Report] = []
    n_seen = 0
    for report in read_reports(study.resolve(settings.reports), settings):
        if (report.language or LANGUAGES[0]) not in LANGUAGES:
            continue
        if not join.volumes_of(report_pseudonym(key, report.keys), has_text=bool(report.text)):
            continue
        n_seen += 1
        if len(kept) < n:
            kept.append(report)
        elif (place := int(rng.integers(n_seen))) < n:
            kept[place] = report
    return kept
