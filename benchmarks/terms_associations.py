"""Associations of one simulated population twice: with the terms found in its reports, and with what its people have.

    python benchmarks/terms_associations.py --volumes 400 --seeds 0 1 2 --json

The groups are the planted ones with a tenth of the people put elsewhere. Reports leave out, hedge and make up some
findings (popclust/simulation/reporting.py), and the tests have the errors of the extractor on top. Terms that no person
is planted with have no truth, though reports may tell of them (atherosclerosis by its calcified walls): they are not
compared.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd

from popclust.evaluation.associations import associate_counted
from popclust.evaluation.counting import CountedPopulation
from popclust.reports.lexicon import load_lexicon
from popclust.reports.terms import counted_terms, find_mentions, term_matrix
from popclust.settings import AssociateSettings, TermsSettings
from popclust.simulation.disease import GROUPS
from popclust.simulation.reporting import Language, draw_findings, write_report
from popclust.simulation.scoring import score_pairs


def figures(n_volumes: int, seed: int) -> dict[str, Any]:
    """Recall, share of false ones and Jaccard of the associations found."""
    rng, kinds, settings, lexicon = np.random.default_rng(seed), tuple(GROUPS), TermsSettings(), load_lexicon()
    kind = rng.integers(len(kinds), size=n_volumes)
    findings = [draw_findings(kinds[k], rng) for k in kind]
    languages: list[Language] = ["en" if rng.random() < 0.5 else "de" for _ in kind]
    texts = [write_report(f, spoken, rng) for f, spoken in zip(findings, languages, strict=True)]
    cluster = np.where(rng.random(n_volumes) < 0.9, kind, rng.integers(len(kinds), size=n_volumes))
    mentions = find_mentions(texts, languages, lexicon, settings).rename(columns={"report": "volume_id"})
    volumes: Any = range(n_volumes)  # numbers do as names
    extracted = term_matrix(counted_terms(mentions, settings, lexicon), volumes)
    rolled = lexicon.rolled_up(settings.roll_up)
    have = pd.DataFrame([(v, rolled[t]) for v, f in enumerate(findings) for t in f], columns=["volume_id", "term_id"])
    true = term_matrix(have, volumes)
    extracted = extracted.sel(term=extracted.term.isin(true.term))
    found_pairs, true_pairs = (_associations(cluster, of.values, of.term.values.tolist()) for of in (extracted, true))
    scores = score_pairs(found_pairs, true_pairs, AssociateSettings().alpha)
    return {"n_volumes": n_volumes, "seed": seed, **vars(scores)}


def _associations(cluster: np.ndarray, has_term: np.ndarray, terms: list[str]) -> pd.DataFrame:
    n = len(cluster)
    settings = AssociateSettings(n_permutations=0, min_term_count=max(5, n // 12))
    kept = has_term.sum(axis=0) >= settings.min_term_count
    names = tuple(t for t, is_kept in zip(terms, kept, strict=True) if is_kept)
    grid = pd.DataFrame({"descriptor": ["lda"], "n_clusters": [int(cluster.max()) + 1], "seed": [0]})
    every = np.arange(n)
    ids = np.array([f"v{i}" for i in every], dtype=object)
    groups = cluster[None, :].astype(np.int16)
    population = CountedPopulation(grid, groups, has_term[:, kept], names, names, ids, every, np.zeros(n, int))
    return associate_counted(population, settings).associations


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=400, help="people (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    options = parser.parse_args()
    found = [figures(options.volumes, seed) for seed in options.seeds]
    mean = float(np.mean([f["jaccard"] for f in found]))
    if options.json:
        print(json.dumps({"jaccard_mean": mean, "populations": found}, indent=1))
    else:
        print(pd.DataFrame(found).round(3).to_string(index=False), f"mean Jaccard {mean:.3f}", sep="\n")


if __name__ == "__main__":
    main()
