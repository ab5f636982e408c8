"""Measure the terms found in reports, and what is said of them, against labels that people gave.

    python benchmarks/terms.py --reports openi_dev_reports.csv --labels openi_dev_labels.csv --json
    python benchmarks/terms.py --negation chapman_rsAnnotations.txt --json
    python benchmarks/terms.py --language de --negation tests/data/german_sentences.tsv --json
    python benchmarks/terms.py --ct ctclip_manual_train.csv --json
    python benchmarks/terms.py --snippets dev_en.tsv --terms-key terms_key.tsv --language en --json

One half of the two development files was used to tune the tables of triggers and synonyms: a permutation of their
rows, seeded with SEED, is cut in the middle; its first part was tuned on, the second held out. The default,
`--part auto`, scores the held-out half of these two files (known by their SHA-256) and all rows of any other; `part`
says which in the output.

Reports count a label when at least one mention of it counts in findings or impression; with *uncertain dropped*
affirmed mentions count (the default of popclust), with *negated dropped* affirmed and uncertain ones (its setting
`count_uncertain = true`).
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
from terms_ct import ct_figures
from terms_snippets import snippet_figures

from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.phrases import phrase_status
from popclust.reports.terms import find_mentions
from popclust.settings import TermsSettings

SEED = 20240611
DATA = Path(__file__).parents[2] / "shared" / "data"
TUNED_FILES = frozenset(
    {
        "5d78b125ec328226eec04279332f7333c11d7b8166522ea443772f495ff15115",
        "63763b4dcd97e7874dd3162b8a87103f8205bbe1a0f1f64669ad3f29e97b53c8",
    }
)
"""SHA-256 of the two files of which one half was tuned on."""
SECTIONS = ("findings", "impression")
LABELS = {
    "Atelectasis": ("RID28493",),
    "Cardiomegaly": ("pc:cardiomegaly",),
    "Effusion": ("RID34539",),
    "Infiltration": ("RID39317",),
    "Mass": ("RID3874",),
    "Nodule": ("RID3875",),
    "Pneumonia": ("RID5350", "RID3541"),
    "Pneumothorax": ("RID5352",),
    "Consolidation": ("RID43255",),
    "Edema": ("RID4866", "RID4865"),
    "Emphysema": ("RID4799",),
    "Fibrosis": ("RID3820",),
    "Pleural_Thickening": ("RID28509",),
}


STATUS_OF_ANNOTATION = {"Negated": "negated", "Affirmed": "affirmed", "Possible": "uncertain"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--reports", type=Path, help="CSV with findings and impression, or text (default: development set)"
    )
    parser.add_argument("--labels", type=Path, help="CSV with one column of 0 and 1 per label, a row per report")
    parser.add_argument("--negation", type=Path, help="tab-parted annotations: number, phrase, sentence, status, ...")
    parser.add_argument("--ct", type=Path, help="CSV of chest CT reports (report_text) with a column per finding")
    parser.add_argument("--lexicon", default="", help="for snippets: a RadLex file, not the built-in lexicon")
    parser.add_argument("--snippets", type=Path, nargs="+", help="tab-parted pieces of reports: text, term, status")
    parser.add_argument("--terms-key", type=Path, help="tab-parted terms of the pieces: term, identifiers")
    parser.add_argument("--language", choices=["en", "de"], default="en")
    parser.add_argument("--part", choices=["auto", "all", "tuned", "held-out"], default="auto")
    parser.add_argument("--radlex", type=Path, default=DATA / "radlex" / "radlex_2017_label_rid_parent.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.ct is not None:
        figures = ct_figures(options.ct)
    elif options.snippets is not None:
        key = options.terms_key or options.snippets[0].parent / "terms_key.tsv"
        figures = snippet_figures(options.snippets, key, options.language, load_lexicon(options.lexicon))
    elif options.negation is not None:
        figures = negation_figures(options.negation, options.language, options.part)
    else:
        reports = options.reports or DATA / "reports" / "openi_dev_reports.csv"
        labels = options.labels or DATA / "reports" / "openi_dev_labels.csv"
        figures = report_figures(reports, labels, options.radlex, options.language, options.part)
    print(json.dumps(figures, indent=1) if options.json else _as_text(figures))


def _as_text(figures: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", _as_text(value, indent + "  ")]
        else:
            lines.append(
                f"{indent}{name:32s} {value:.4g}" if isinstance(value, float) else f"{indent}{name:32s} {value}"
            )
    return "\n".join(lines)


def rows_of_part(path: Path, n_rows: int, part: str) -> tuple[str, np.ndarray]:
    """Which part of a file is scored, and its rows."""
    if part == "auto":
        is_tuned = hashlib.sha256(path.read_bytes()).hexdigest() in TUNED_FILES
        part = "held-out" if is_tuned else "all"
    if part == "all":
        return part, np.arange(n_rows)
    order = np.random.default_rng(SEED).permutation(n_rows)
    rows = order[: n_rows // 2] if part == "tuned" else order[n_rows // 2 :]
    return part, np.sort(rows)


def report_figures(reports: Path, labels: Path, radlex: Path, language: str, part: str) -> dict[str, Any]:
    """F1 of the labels, and reports per second with all RadLex findings."""
    texts = report_texts(pd.read_csv(reports))
    wanted = pd.read_csv(labels)
    if len(wanted) != len(texts):
        sys.exit(f"benchmarks/terms.py: {len(texts)} reports but {len(wanted)} rows of labels")
    present = [name for name in LABELS if name in wanted.columns]
    part, rows = rows_of_part(reports, len(texts), part)
    truth = wanted[present].to_numpy()[rows] == 1
    lexicon, chosen = load_lexicon(), [texts[i] for i in rows]
    affirmed = found_labels(chosen, lexicon, language, present, ("affirmed",))
    possible = found_labels(chosen, lexicon, language, present, ("affirmed", "uncertain"))
    figures: dict[str, Any] = {
        "part": part,
        "n_reports": len(rows),
        "f1_negated_dropped": f1(truth, possible),
        "f1_uncertain_dropped": f1(truth, affirmed),
        "per_label": {
            name: {
                "n": int(truth[:, j].sum()),
                "f1_negated_dropped": f1(truth[:, j], possible[:, j]),
                "f1_uncertain_dropped": f1(truth[:, j], affirmed[:, j]),
            }
            for j, name in enumerate(present)
        },
    }
    return figures | speed_figures(texts, radlex, language)


def report_texts(reports: pd.DataFrame) -> list[str]:
    """One text per report: that of the counting sections under their headings, or the column `text`."""
    if "text" in reports.columns:
        return [text if isinstance(text, str) else "" for text in reports["text"]]
    return [
        "\n\n".join(f"{s.upper()}: {row[s]}" for s in SECTIONS if isinstance(row.get(s), str) and row[s].strip())
        for row in reports.to_dict("records")
    ]


def found_labels(
    texts: Sequence[str], lexicon: Lexicon, language: str, labels: Iterable[str], statuses: Iterable[str]
) -> np.ndarray:
    """(n_reports, n_labels) bool: the labels of which a mention has one of the statuses in a counting section."""
    mentions = find_mentions(texts, [language] * len(texts), lexicon, TermsSettings())
    counted = mentions["status"].isin(list(statuses)) & mentions["section"].isin([*TermsSettings().sections, ""])
    mentions = mentions[counted]
    found = []
    for label in labels:
        roots = set(LABELS[label])
        below = {i for i in lexicon.term_ids if i in roots or roots & set((lexicon.ancestors or {}).get(i, ()))}
        found.append(np.isin(np.arange(len(texts)), mentions.loc[mentions["term_id"].isin(below), "report"]))
    return np.stack(found, axis=1)


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Micro-averaged F1; 1 when there is nothing to find and nothing found."""
    total = int(truth.sum()) + int(found.sum())
    return 2 * int((truth & found).sum()) / total if total else 1.0


def speed_figures(texts: Sequence[str], radlex: Path, language: str) -> dict[str, Any]:
    """Reports per second on one core with all findings of RadLex, best of three, and the peer's."""
    if not radlex.exists():
        return {"reports_per_second": None, "negspacy_reports_per_second": None}
    lexicon = load_lexicon(str(radlex), ("RID34785", "RID5"), builtin_synonyms=False)
    settings = TermsSettings(language=language)  # type: ignore[arg-type]
    find_mentions(texts[:100], None, lexicon, settings)
    seconds = min(_timed(lambda: find_mentions(texts, None, lexicon, settings)) for _ in range(3))
    peer = _negspacy([c.label for c in lexicon.concepts]) if language == "en" else None
    peer_seconds = min(_timed(lambda: list(peer.pipe(texts))) for _ in range(3)) if peer else None
    return {
        "n_lexicon_terms": len(lexicon.concepts),
        "reports_per_second": len(texts) / seconds,
        "negspacy_reports_per_second": len(texts) / peer_seconds if peer_seconds else None,
    }


def _timed(run: Any) -> float:
    """Seconds of one core: processor time, so that other programs on the machine do not count."""
    start = time.process_time()
    run()
    return time.process_time() - start


def _negspacy(phrases: Sequence[str]) -> Any:
    """A spaCy pipeline of tokenizer, sentence splitter, matcher of phrases and negspacy; None if not installed."""
    try:
        import spacy
        from negspacy.negation import Negex  # noqa: F401
    except ImportError:
        print("benchmarks/terms.py: install negspacy to compare with it: pip install negspacy", file=sys.stderr)
        return None
    pipeline = spacy.blank("en")
    pipeline.add_pipe("sentencizer")
    if phrases:
        ruler = pipeline.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
        ruler.add_patterns([{"label": "TERM", "pattern": phrase} for phrase in phrases])
    pipeline.add_pipe("negex", config={"ent_types": ["TERM"]})
    return pipeline


def negation_figures(path: Path, language: str, part: str) -> dict[str, Any]:
    """Precision, recall and F1 of "negated", given the phrase; per status where the file tells them apart."""
    annotations = read_annotations(path)
    part, rows = rows_of_part(path, len(annotations), part)
    annotations = annotations.iloc[rows].reset_index(drop=True)
    pairs = list(zip(annotations["sentence"], annotations["phrase"], strict=True))
    found = np.array([phrase_status(sentence, phrase, language) for sentence, phrase in pairs], object)
    truth = annotations["negation_status"].to_numpy(object) == "Negated"
    figures: dict[str, Any] = {"part": part, "n": len(annotations), **scores(truth, found == "negated")}
    figures["negspacy_f1"] = _negspacy_f1(pairs, truth) if language == "en" else None
    if "construction" in annotations.columns:
        figures |= _status_figures(annotations, found, language)
    return figures


def read_annotations(path: Path) -> pd.DataFrame:
    """Tab-parted columns in the order of the NegEx test set, whatever the header calls them."""
    names = ["number", "phrase", "sentence", "negation_status", "temporality", "experiencer"]
    with path.open(encoding="utf-8", errors="replace") as lines:
        rows = [line.rstrip("\r\n").split("\t") for line in lines]
    header, rows = [*names, *rows[0][len(names) :]], [row for row in rows[1:] if len(row) >= 4]
    return pd.DataFrame([(row + [""] * len(header))[: len(header)] for row in rows], columns=header, dtype=object)


def scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    hits = int((truth & found).sum())
    precision, recall = hits / max(int(found.sum()), 1), hits / max(int(truth.sum()), 1)
    return {"precision": precision, "recall": recall, "f1": f1(truth, found)}


def _status_figures(annotations: pd.DataFrame, found: np.ndarray, language: str) -> dict[str, Any]:
    """F1 of every status, and how many phrases the built-in lexicon finds by itself with the right status."""
    wanted = np.array([_wanted_status(row) for row in annotations.to_dict("records")], object)
    lexicon = load_lexicon()
    languages = [language] * len(annotations)
    mentions = find_mentions(list(annotations["sentence"]), languages, lexicon, TermsSettings())
    n_right = sum(
        _is_found(mentions[mentions["report"] == i], row, wanted[i], lexicon)
        for i, row in enumerate(annotations.to_dict("records"))
    )
    return {
        "f1_all_statuses": float((found == wanted).mean()),
        "per_status": {s: scores(wanted == s, found == s)["f1"] for s in sorted(set(wanted))},
        "found_with_right_term_and_status": n_right / len(annotations),
    }


def _wanted_status(row: dict[str, str]) -> str:
    if row["experiencer"] != "Patient":
        return "other_person"
    if row["temporality"] != "Recent":
        return row["temporality"].lower()
    return STATUS_OF_ANNOTATION[row["negation_status"]]


def _is_found(mentions: pd.DataFrame, row: dict[str, str], status: str, lexicon: Lexicon) -> bool:
    start = row["sentence"].index(row["phrase"])
    end = start + len(row["phrase"])
    near = mentions[(mentions["start"] < end) & (mentions["end"] > start) & (mentions["status"] == status)]
    above = lexicon.ancestors or {}
    return any(row["term_id"] in ("", i, *above.get(i, ())) for i in near["term_id"])


def _negspacy_f1(pairs: Sequence[tuple[str, str]], truth: np.ndarray) -> float | None:
    """The peer's F1 with the phrase given as an entity: where it is not whole tokens, the tokens around it."""
    peer = _negspacy(())
    if peer is None:
        return None
    found = []
    negex = peer.get_pipe("negex")
    with peer.select_pipes(disable=["negex"]):
        documents = [peer(sentence) for sentence, _ in pairs]
    for document, (sentence, phrase) in zip(documents, pairs, strict=True):
        start = sentence.find(phrase.upper())
        start = sentence.lower().find(phrase.lower()) if start < 0 else start
        span = (
            document.char_span(start, start + len(phrase), label="TERM", alignment_mode="expand")
            if start >= 0
            else None
        )
        document.ents = [span] if span is not None else []
        with contextlib.suppress(ValueError):
            document = negex(document)
        found.append(any(entity._.negex for entity in document.ents))
    return f1(truth, np.array(found))


if __name__ == "__main__":
    main()
