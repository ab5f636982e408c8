"""Measure the terms found in reports, and what is said of them, against labels that people gave.

    python benchmarks/terms.py --reports openi_dev_reports.csv --labels openi_dev_labels.csv --json
    python benchmarks/terms.py --negation chapman_rsAnnotations.txt --json
    python benchmarks/terms.py --language de --negation tests/data/german_sentences.tsv --json

Every second half of the two development files was used to tune the tables of triggers and synonyms: a permutation of their
rows, seeded with SEED, cut in the middle; its first part was tuned on. `--part held-out` scores the other one. The default,
`auto`, does so for those two files (known by their SHA-256) and scores all rows of any other.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.phrases import phrase_status
from popclust.reports.terms import find_mentions
from popclust.settings import TermsSettings

SEED = 20240611
DATA = Path(__file__).parents[2] / "shared" / "data"
TUNED_FILES = {
    "openi_dev_reports.csv": "",
    "chapman_rsAnnotations.txt": "",
}
LABELS = {
    "Atelectasis": ("RID28493",),
    "Cardiomegaly": ("pc:cardiomegaly",),
    "Effusion": ("RID34539",),
    "Infiltration": ("RID39317",),
    "Mass": ("RID3874",),
    "Nodule": ("RID3875",),
    "Pneumonia": ("RID5350",),
    "Pneumothorax": ("RID5352",),
    "Consolidation": ("RID43255",),
    "Edema": ("RID4866", "RID4865"),
    "Emphysema": ("RID4799",),
    "Fibrosis": ("RID3820",),
    "Pleural_Thickening": ("pc:pleural_thickening",),
}
SECTIONS = ("findings", "impression")


def report_texts(reports: pd.DataFrame) -> list[str]:
    """One text per report: that of the counting sections, under their headings."""
    return [
        "\n\n".join(f"{s.upper()}: {row[s]}" for s in SECTIONS if isinstance(row.get(s), str) and row[s].strip())
        for row in reports.to_dict("records")
    ]


def found_labels(texts: Sequence[str], lexicon: Lexicon, language: str, statuses: Iterable[str]) -> np.ndarray:
    """(n_reports, n_labels) bool: the labels of which a mention has one of the statuses."""
    settings = TermsSettings(language=language)  # type: ignore[arg-type]
    mentions = find_mentions(texts, None, lexicon, settings)
    mentions = mentions[mentions["status"].isin(list(statuses))]
    found = np.zeros((len(texts), len(LABELS)), bool)
    for j, roots in enumerate(LABELS.values()):
        below = {i for i in lexicon.term_ids if i in roots or set(roots) & set((lexicon.ancestors or {}).get(i, ()))}
        found[mentions.loc[mentions["term_id"].isin(below), "report"].to_numpy(), j] = True
    return found
