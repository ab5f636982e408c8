"""How alike the groups are that a study reports when words, topics and groups are learnt again from other seeds.

    python benchmarks/chains.py STUDY [TRUTH] [--chains 5] [--fresh 50] [--json]

STUDY is a finished study with a local folder, which is copied and left as it is; TRUTH a table (CSV) of
series_instance_uid and group. Features and registrations are kept, every stage from the vocabulary to the associations
runs again with other seeds. `chain_ari`: adjusted Rand index of what the chains report, mean over all pairs of them
(the study's own is the first); `truth_ari`: against the truth. `jaccard_error`: largest difference, over the study's
reported groups, between the stability that it shows and that over `--fresh` runs of seeds and resamples that had no
part in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from popclust.dataflow.client import connect
from popclust.dataflow.inputs import source_of_volumes
from popclust.dataflow.pipeline import run
from popclust.population.repeats import stability_in_runs
from popclust.study import Study

SEEDED = ("vocabulary", "topics", "repeat")
"""Sections with one seed; those of k-means are a list."""


def learnt_again(study: Study, client: Client, folder: Path, seed: int, n_runs: int) -> Study:
    """A copy of the study, run from the vocabulary on with other seeds."""
    copied = folder / f"chain-{seed}"
    shutil.copytree(study.url, copied)
    shutil.copytree(f"{study.url}.secret", f"{copied}.secret")
    again = Study.open(str(copied)).with_settings("repeat", n_runs=n_runs)
    for section in SEEDED:
        again = again.with_settings(section, seed=seed)
    own = study.settings.cluster.seeds
    again = again.with_settings("cluster", seeds=tuple(1000 * seed + s for s in own))
    run(again, client, until="associate")
    return again


def fresh_stability(again: Study, reported: pd.Series) -> NDArray[np.float64]:
    """Stability of groups (by volume) over the runs of another chain, each at the K that it chooses."""
    descriptor = again.reported.grouping.descriptor
    runs = again.read_dataset("repeats").sel(volume=reported.index.to_numpy())
    chosen = again.read_table("validity/repeats").query("descriptor == @descriptor").set_index("run")["n_clusters"]
    of_run = [
        runs["cluster"].values[r, (runs["descriptor"].values == descriptor) & (runs["n_clusters"].values == k)][0]
        for r, k in chosen.items()
    ]
    return stability_in_runs(reported.to_numpy(), np.stack(of_run).astype(np.int64))


def measure(study: Study, truth: Path | None, n_chains: int, n_fresh: int) -> dict[str, Any]:
    """All figures of one study."""
    clusters = study.reported.clusters.set_index("volume_id")
    with connect("") as client, tempfile.TemporaryDirectory() as folder:
        others = [
            learnt_again(study, client, Path(folder), s, study.settings.repeat.n_runs) for s in range(1, n_chains)
        ]
        groups = [clusters["cluster"]] + [s.reported.clusters.set_index("volume_id")["cluster"] for s in others]
        fresh = learnt_again(study, client, Path(folder), n_chains, n_fresh)
        stability = fresh_stability(fresh, clusters["cluster"])
    groups = [g.loc[clusters.index] for g in groups]
    shown = clusters.groupby("cluster")["stability"].first().to_numpy()
    found: dict[str, Any] = {
        "chain_ari": round(
            float(np.mean([adjusted_rand_score(a, b) for a, b in itertools.combinations(groups, 2)])), 3
        ),
        "K": [int(g.nunique()) for g in groups],
        "jaccard_error": round(float(np.abs(shown - stability).max()), 3),
        "shown": np.round(shown, 3).tolist(),
        "fresh": np.round(stability, 3).tolist(),
        "n_volumes": len(clusters),
    }
    if truth is not None:
        table = pd.read_csv(truth).merge(source_of_volumes(study), on="series_instance_uid").set_index("volume_id")
        kind = table.loc[clusters.index, "group"]
        found["truth_ari"] = [round(float(adjusted_rand_score(kind, g)), 3) for g in groups]
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("truth", nargs="?", type=Path)
    parser.add_argument("--chains", type=int, default=5)
    parser.add_argument("--fresh", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(Study.open(args.study), args.truth, args.chains, args.fresh)
    print(json.dumps(found) if args.json else "\n".join(f"{k:16} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
