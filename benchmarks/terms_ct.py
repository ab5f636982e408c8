"""Findings in reports of chest CT against labels that people gave, and medspaCy beside them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from popclust.reports.inflection import forms
from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.terms import counts, find_mentions
from popclust.reports.text import fold_phrase
from popclust.settings import TermsSettings

CT_LABELS = {
    "Arterial wall calcification": ("RID39049",),
    "Cardiomegaly": ("pc:cardiomegaly", "pc:enlarged_silhouette"),
    "Pericardial effusion": ("RID38588",),
    "Coronary artery wall calcification": ("RID50146",),
    "Hiatal hernia": ("RID4897",),
    "Lymphadenopathy": ("RID3798", "pc:lymph_node"),
    "Emphysema": ("RID4799",),
    "Atelectasis": ("RID28493",),
    "Lung nodule": ("RID50149", "RID3876"),
    "Lung opacity": ("RID28530", "RID28531"),
    "Pulmonary fibrotic sequela": ("RID3820", "RID3829"),
    "Pleural effusion": ("RID34539",),
    "Mosaic attenuation pattern": ("RID46030",),
    "Peribronchial thickening": ("RID46027",),
    "Consolidation": ("RID43255",),
    "Bronchiectasis": ("RID28496",),
    "Interlobular septal thickening": ("RID28510",),
}
"""The terms of each label. The people called a lymph node that is described an adenopathy whatever its size."""
ITSELF = frozenset({"RID28530"})
"""Terms that stand for themselves alone: below opacity there is consolidation, which has a label of its own."""
FIVE_HARD = (
    "Coronary artery wall calcification",
    "Lymphadenopathy",
    "Pulmonary fibrotic sequela",
    "Cardiomegaly",
    "Lung opacity",
)


def ct_figures(path: Path) -> dict[str, Any]:
    """F1 of every label and their mean, words per second with the built-in lexicon, and the peer's mean."""
    reports = pd.read_csv(path)
    texts = [text if isinstance(text, str) else "" for text in reports["report_text"]]
    labels = [label for label in CT_LABELS if label in reports.columns]
    lexicon, settings = load_lexicon(), TermsSettings()
    languages = ["en"] * len(texts)
    find_mentions(texts[:20], languages[:20], lexicon, settings)
    start = time.process_time()
    mentions = find_mentions(texts, languages, lexicon, settings)
    seconds = time.process_time() - start
    found = {label: _has(mentions[counts(mentions, settings)], label, lexicon, len(texts)) for label in labels}
    truth = {label: reports[label].to_numpy() == 1 for label in labels}
    per_label = {label: _scores(truth[label], found[label]) for label in labels}
    peer = _medspacy(texts, labels, lexicon)
    return {
        "n_reports": len(texts),
        "macro_f1": _mean_f1(per_label, labels),
        "five_hard_f1": _mean_f1(per_label, FIVE_HARD),
        "per_label": per_label,
        "words_per_second": sum(len(text.split()) for text in texts) / seconds,
        "medspacy_macro_f1": _mean_f1({label: _scores(truth[label], peer[label]) for label in labels}, labels)
        if peer
        else None,
    }


def terms_of_label(label: str, lexicon: Lexicon) -> set[str]:
    """The terms of a label and all that the lexicon has below them."""
    roots, above = set(CT_LABELS[label]), lexicon.ancestors or {}
    return {i for i in lexicon.term_ids if i in roots or (roots - ITSELF) & set(above.get(i, ()))}


def _has(mentions: pd.DataFrame, label: str, lexicon: Lexicon, n_reports: int) -> np.ndarray:
    wanted = mentions["term_id"].isin(terms_of_label(label, lexicon))
    return np.isin(np.arange(n_reports), mentions.loc[wanted, "report"])


def _scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    hits = int((truth & found).sum())
    total = int(truth.sum()) + int(found.sum())
    return {
        "n": int(truth.sum()),
        "precision": hits / max(int(found.sum()), 1),
        "recall": hits / max(int(truth.sum()), 1),
        "f1": 2 * hits / total if total else 1.0,
    }


def _mean_f1(per_label: dict[str, dict[str, float]], labels: Sequence[str]) -> float:
    return float(np.mean([per_label[label]["f1"] for label in labels if label in per_label]))


def _medspacy(texts: Sequence[str], labels: Sequence[str], lexicon: Lexicon) -> dict[str, np.ndarray] | None:
    """The labels by medspaCy's sentences, target rules and ConText, given the same names in all their forms."""
    try:
        import medspacy
        from loguru import logger
        from medspacy.target_matcher import TargetRule
    except ImportError:
        print("benchmarks/terms.py: install medspacy to compare with it: pip install medspacy", file=sys.stderr)
        return None
    logger.disable("PyRuSH")
    pipeline = medspacy.load(enable=["sentencizer", "target_matcher", "context"])
    terms = {label: terms_of_label(label, lexicon) for label in labels}
    names = {
        c.term_id: {form for n in c.names if n.language == "en" for form in forms(fold_phrase(n.text).strip(), "en")}
        for c in lexicon.concepts
    }
    matcher = pipeline.get_pipe("medspacy_target_matcher")
    for label, ids in terms.items():
        matcher.add([TargetRule(name, label) for i in ids for name in sorted(names[i])])
    found = {label: np.zeros(len(texts), bool) for label in labels}
    for number, document in enumerate(pipeline.pipe(texts)):
        for entity in document.ents:
            said = entity._
            if not (said.is_negated or said.is_uncertain or said.is_historical or said.is_hypothetical):
                found[entity.label_][number] = True
    return found
