"""What learning costs beside scikit-learn when rows and volumes are many; memory, and how good fast answers are.

    python benchmarks/scale_learning.py [--json] [--only words encoding ...] [--share 1.0]

Peers run in the same process, alternating with ours; `*_cpu` compares seconds of processor, which other work on the
machine hardly changes, `*_wall` those of the clock; the median of `--repeats`. Both get as many threads as there are.

words      5 million training rows of 25 columns on disk, 500 words: `words_ratio`, ours (scaling included) over a loop
           of MiniBatchKMeans.partial_fit over blocks of the same file, which scales nothing
encoding   60,000 features, as of a large volume: `encoding_speed`, MiniBatchKMeans.predict of rows scaled before over
           ours, which scales; `encoding_speed_scaling` where the peer scales too; `encoding_same`, share of equal words
topics     8,000 and 100,000 volumes of 1,500 words, learnt online: seconds
agreement  2,000 such volumes: `agreement_overlap` of topics learnt online with those of batch (mean Bhattacharyya of
           pairs) and `agreement_ari` of their groups, beside those of two batches; `agreement_truth_ari` of all three
groups     1 million volumes of 20 topics, K = 12: `groups_inertia`, mini-batch over exact, and `groups_ratio` of time
memory     `memory_mb`, peak resident size of learning 500 words from 1 and from 20 million rows, in one pass

`--share` makes all sizes smaller.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from popclust import schema
from popclust.dataflow.learning import learn_words, minibatch_centres
from popclust.population.clustering import exact_kmeans, group_by_centres
from popclust.population.topics import TopicModel, fit_topics
from popclust.population.vocabulary import FeatureScaling, Vocabulary
from popclust.settings import TopicsSettings
from popclust.study import Study

N_COLUMNS = 25
N_WORDS = 500
N_TOPIC_WORDS = 1500
N_KINDS = 8
BLOCK = 8192
WORDS = {"n_words_haralick": N_WORDS, "n_passes": 1, "block_rows": BLOCK, "spatial_weight": 0.5}


@dataclass(frozen=True)
class Cost:
    """What one call took."""

    wall: float
    """Seconds of the clock."""
    cpu: float
    """Seconds of processor, over all threads."""
    answer: Any
    """What came back."""


def cost_of(call: Callable[[], Any]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, answer)


def alternating(ours: Callable[[], Any], peer: Callable[[], Any], n_repeats: int) -> tuple[list[Cost], list[Cost]]:
    """Costs of both, in turns."""
    pairs = [(cost_of(ours), cost_of(peer)) for _ in range(n_repeats)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def ratio(name: str, a: list[Cost], b: list[Cost]) -> dict[str, float]:
    """Medians over the repeats of what `a` takes over what `b` takes."""
    return {
        f"{name}_{what}": round(
            float(np.median([getattr(x, what) / getattr(y, what) for x, y in zip(a, b, strict=True)])), 3
        )
        for what in ("wall", "cpu")
    }


def make_rows(folder: Path, n: int) -> Study:
    """A study whose training rows are features of many tissues, in random order."""
    study = Study.create(str(folder / f"study{n}"), {"vocabulary": WORDS})
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (2000, N_COLUMNS)).astype(np.float32)
    group = study.open_group("vocabulary", "training.zarr", mode="w")
    block = 16 * BLOCK
    rows = schema.create_array(group, "training", "haralick", (n, N_COLUMNS), chunks=(BLOCK, N_COLUMNS))
    for start in range(0, n, block):
        size = min(block, n - start)
        noise = rng.normal(0, 0.6, (size, N_COLUMNS)).astype(np.float32)
        rows[start : start + size] = centres[rng.integers(0, len(centres), size)] + noise
    return study


def stored_rows(study: Study) -> zarr.Array:
    rows = study.open_group("vocabulary", "training.zarr")["haralick"]
    if not isinstance(rows, zarr.Array):
        raise TypeError("training rows are no array")
    return rows


def loop(study: Study) -> NDArray[np.float32]:
    """Scikit-learn alone: blocks of the file, one after the other."""
    rows = stored_rows(study)
    kmeans = MiniBatchKMeans(N_WORDS, random_state=0, n_init=3, reassignment_ratio=0.001)
    for start in range(0, rows.shape[0] - BLOCK + 1, BLOCK):
        kmeans.partial_fit(np.asarray(rows[start : start + BLOCK]))
    return np.asarray(kmeans.cluster_centers_)


def words(share: float, n_repeats: int) -> dict[str, Any]:
    n = int(5_000_000 * share)
    with tempfile.TemporaryDirectory() as name:
        study = make_rows(Path(name), n)
        ours, peer = alternating(lambda: learn_words(study, "haralick", None), lambda: loop(study), n_repeats)
    return {"words_rows": n, **ratio("words_ratio", ours, peer)}


def encoding(share: float, n_repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (int(60_000 * share), N_COLUMNS)).astype(np.float32)
    features, place = np.ascontiguousarray(rows[:, :-3]), np.ascontiguousarray(rows[:, -3:])
    scaling = FeatureScaling.fitted(features, place, 0.5)
    scaled = scaling.apply(features, place)
    kmeans = MiniBatchKMeans(N_WORDS, random_state=0, n_init=1, batch_size=8192, max_iter=3).fit(scaled)
    vocabulary = Vocabulary("haralick", scaling, np.ascontiguousarray(kmeans.cluster_centers_, np.float32))
    out: dict[str, Any] = {}
    for suffix, n_threads in (("", None), ("_one_thread", 1)):
        with threadpool_limits(n_threads):
            ours, peer = alternating(
                lambda: vocabulary.words(features, place), lambda: kmeans.predict(scaled), 5 * n_repeats
            )
            out |= ratio(f"encoding_speed{suffix}", peer, ours)
            ours, peer = alternating(
                lambda: vocabulary.words(features, place),
                lambda: kmeans.predict(scaling.apply(features, place)),
                5 * n_repeats,
            )
            out |= ratio(f"encoding_speed_scaling{suffix}", peer, ours)
    return out | {"encoding_same": float((ours[-1].answer == peer[-1].answer).mean())}


def make_documents(n: int, n_topics: int = 20) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Word counts (n, word) scaled to 6,000, and kinds that differ in their topics."""
    rng = np.random.default_rng(0)
    word_of_topic = rng.dirichlet(np.full(N_TOPIC_WORDS, 0.05), n_topics)
    profiles, kind = rng.dirichlet(np.full(n_topics, 0.3), N_KINDS), rng.integers(0, N_KINDS, n)
    counts = np.empty((n, N_TOPIC_WORDS))
    for start in range(0, n, 2000):
        of = kind[start : start + 2000]
        topics = rng.gamma(12 * profiles[of] + 0.05)
        counts[start : start + 2000] = rng.poisson(6000 * topics / topics.sum(axis=1, keepdims=True) @ word_of_topic)
    return counts, kind


def overlap(a: TopicModel, b: TopicModel) -> float:
    table = np.sqrt(a.word_of_topic) @ np.sqrt(b.word_of_topic).T
    return float(table[linear_sum_assignment(-table)].mean())


def topics(share: float, n_repeats: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for n in (int(8_000 * share), int(100_000 * share)):
        cost = cost_of(partial(fit_topics, make_documents(n)[0], TopicsSettings(batch_limit=0)))
        out |= {f"topics_{n}_seconds": round(cost.wall, 1), f"topics_{n}_cpu": round(cost.cpu, 1)}
    return out


def agreement(share: float, n_repeats: int) -> dict[str, Any]:
    counts, kind = make_documents(int(2_000 * share))
    batch = TopicsSettings(batch_limit=len(counts))
    models = [fit_topics(counts, s) for s in (replace(batch, batch_limit=0), batch, replace(batch, seed=1))]
    descriptors = [np.sqrt(m.transform(counts)) for m in models]
    groups = [group_by_centres(d, exact_kmeans(d, N_KINDS, 0)).cluster for d in descriptors]
    return {
        "agreement_overlap": round(overlap(models[0], models[1]), 3),
        "agreement_overlap_batches": round(overlap(models[1], models[2]), 3),
        "agreement_ari": round(adjusted_rand_score(groups[0], groups[1]), 3),
        "agreement_ari_batches": round(adjusted_rand_score(groups[1], groups[2]), 3),
        "agreement_truth_ari": [round(adjusted_rand_score(kind, g), 3) for g in groups],
    }


def groups(share: float, n_repeats: int) -> dict[str, Any]:
    n, n_clusters = int(1_000_000 * share), 12
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(20, 0.3), 10)
    matrix = rng.gamma(8 * profiles[rng.integers(0, 10, n)] + 0.1)
    matrix = np.sqrt(matrix / matrix.sum(axis=1, keepdims=True))
    ours, exact = alternating(
        lambda: minibatch_centres(matrix, n_clusters, 0), lambda: exact_kmeans(matrix, n_clusters, 0), 1
    )
    inertia = [float((group_by_centres(matrix, c[0].answer).distance ** 2).sum()) for c in (ours, exact)]
    return {
        "groups_volumes": n,
        **ratio("groups_ratio", ours, exact),
        "groups_inertia": round(inertia[0] / inertia[1], 5),
    }


def memory(share: float, n_repeats: int) -> dict[str, Any]:
    found = []
    for n in (int(1_000_000 * share), int(20_000_000 * share)):
        with tempfile.TemporaryDirectory() as name:
            study = make_rows(Path(name), n)
            command = [sys.executable, __file__, "--learn", study.url]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    return {"memory_rows": [int(1_000_000 * share), int(20_000_000 * share)], "memory_mb": found}


def learn_and_tell(url: str) -> None:
    """Learn words in this process, print the largest resident size it had (MB)."""
    learn_words(Study.open(url), "haralick", None)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(round(int(status["VmHWM"].split()[0]) * 1024 / 1e6, 1))


PARTS = {f.__name__: f for f in (words, encoding, topics, agreement, groups, memory)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--share", type=float, default=1.0, help="of all sizes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--learn", metavar="STUDY", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.learn:
        learn_and_tell(arguments.learn)
        return
    found: dict[str, Any] = {}
    for name in arguments.only:
        found |= PARTS[name](arguments.share, arguments.repeats)
    print(json.dumps(found) if arguments.json else "\n".join(f"{k:<34} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
