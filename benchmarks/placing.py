"""Placing new volumes: each kind left out in turn, words, topics and groups learnt again without it.

    python benchmarks/placing.py STUDY TRUTH [STUDY TRUTH ...] [--json] [--draws 1] [--no-strangers]

STUDY is a finished study whose kinds are known, TRUTH a table (CSV) of series_instance_uid and group. For every kind,
four fifths of the volumes of the other kinds are learnt from, the rest is held out. At the model's level:
`placed`, share of the held-out volumes of known kinds that are put into a group; `refused`, share of the volumes of the
unknown kind that are "none of these", in the mean and by kind; what is held out of each is in `n_placed`, `n_refused`.
Strangers are two volumes of the first study whose voxels are noise, and two whose lung mask lies in the tissue around:
`noise_refused`, `wall_refused`, by the models of that study.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import threadpool_limits

from popclust.dataflow.learning import TrainingSample
from popclust.dataflow.stages.encode import count_focal, read_rows, vocabularies_of
from popclust.features.haralick import sample_haralick
from popclust.features.sift3d import sample_sift
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.normalization.normalized import Normalized
from popclust.population.clustering import descriptor_matrix, group_volumes
from popclust.population.model import Assignment, Model
from popclust.population.topics import fit_topics, scale_counts
from popclust.population.vocabulary import COUNTED, VOCABULARIES, Vocabulary, learn_vocabulary, rows_of_vocabularies
from popclust.study import Study

Rows = dict[str, tuple[NDArray, NDArray]]
"""Features and positions by vocabulary."""
N_STRANGERS = 2


@dataclass(frozen=True)
class Fold:
    """One kind left out."""

    unknown: str
    """The kind."""
    learnt: NDArray[np.bool_]
    """(volume,) learnt from."""
    is_unknown: NDArray[np.bool_]
    """(volume,) of the kind."""
    counts: NDArray[np.int64]
    """(volume, word) of volumes, then of strangers."""
    far: NDArray[np.float64]
    """(volume, vocabulary) how far features lie from their words."""
    words: NDArray[np.object_]
    """(word,) vocabularies."""
    zones: NDArray[np.int64]
    """(volume, zone, bin) histograms of density of volumes; strangers have those of the first."""


def folds(study: Study, kind: pd.Series, draw: int, strangers: Sequence[Rows] = ()) -> Iterator[Fold]:
    """Every kind left out; `kind` by volume."""
    rows = [*(read_rows(study, v) for v in kind.index), *strangers]
    known = np.asarray(study.open_group("word_counts.zarr")["zone_counts"][...])  # type: ignore[index]
    n_focal = [*(count_focal(study, v) for v in kind.index), *(0 for _ in strangers)]
    zones = np.concatenate([known, known[:1].repeat(len(strangers), axis=0)])
    for at, unknown in enumerate(sorted(kind.unique())):
        is_unknown = (kind == unknown).to_numpy()
        order = np.random.default_rng([draw, at]).permutation(np.flatnonzero(~is_unknown))
        learnt = np.zeros(len(kind), bool)
        by_kind = pd.Series(order).groupby(kind.to_numpy()[order])
        learnt[np.concatenate([o.to_numpy()[: round(0.8 * len(o))] for _, o in by_kind])] = True
        words = vocabularies(study, kind.index[learnt], seed=draw)
        near = [{n: words[n].nearest(*r[n]) for n in VOCABULARIES} for r in rows]
        counts = [
            np.concatenate([*(np.bincount(x[n].word, minlength=len(words[n].centres)) for n in VOCABULARIES), [focal]])
            for x, focal in zip(near, n_focal, strict=True)
        ]
        far = [[x[n].far for n in VOCABULARIES] for x in near]
        n_words = [*(len(words[n].centres) for n in VOCABULARIES), 1]
        of_word = np.repeat(np.array(COUNTED, object), n_words)
        yield Fold(unknown, learnt, is_unknown, np.stack(counts), np.array(far), of_word, zones)


def vocabularies(study: Study, learnt: pd.Index, seed: int) -> dict[str, Vocabulary]:
    """Words of some volumes; what of texture follows the scanner is left out as in the study."""
    out = {}
    for name, known in vocabularies_of(study).items():
        rows = np.concatenate([TrainingSample(study, v).rows(name, slice(0, 2000)) for v in learnt])
        settings = replace(study.settings.vocabulary, seed=seed)
        nuisance = known.scaling.nuisance
        out[name] = learn_vocabulary(name, rows[:, :-3], rows[:, -3:], settings, nuisance=nuisance)
    return out


def placing(study: Study, fold: Fold, n_clusters: int) -> Assignment:
    """All volumes put into groups of those that are learnt from."""
    counts, masses = fold.counts[: len(fold.learnt)][fold.learnt], study.settings.encode
    scaled = scale_counts(counts, fold.words, masses)
    topics = fit_topics(scaled, study.settings.topics)
    matrix = descriptor_matrix("lda", scaled, fold.words, topics.transform(scaled))
    cluster = group_volumes(matrix, n_clusters, 0).cluster
    far = fold.far[: len(fold.learnt)][fold.learnt]
    zones = fold.zones[: len(fold.learnt)][fold.learnt]
    model = Model.frozen("lda", counts, fold.words, masses, topics, cluster, far, zones)
    return model.assign(fold.counts, fold.far, fold.zones)


def strangers_of(study: Study, volume_ids: Sequence[str]) -> list[Rows]:
    """Features of noise in the lungs' place, then of the chest wall."""
    out = []
    for what in ("noise", "wall"):
        for at, volume_id in enumerate(volume_ids):
            volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
            normalized = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))
            lung = normalized.lung
            if what == "noise":
                noise = np.random.default_rng(at).normal(-500, 300, volume.shape)
                volume = replace(volume, voxels=noise.astype(volume.voxels.dtype))
            else:
                distance = ndimage.distance_transform_edt(~lung.voxels, lung.spacing_mm)
                lung = replace(lung, voxels=(distance > 5) & (distance < 25))
            texture = sample_haralick(volume, lung, study.settings.haralick)
            shape = sample_sift(volume, lung, study.settings.sift, normalized.rotation_to_atlas)
            features: dict[str, NDArray] = {
                "haralick": texture.features,
                "haralick_position_mm": normalized.to_atlas(texture.positions_mm).astype(np.float32),
                "sift": shape.descriptor,
                "sift_position_mm": normalized.to_atlas(shape.position_mm).astype(np.float32),
            }
            out.append(rows_of_vocabularies(features, shape.diameter_mm <= study.settings.sift.micro_macro_mm))
    return out


def kinds_of(study: Study, truth: Path) -> pd.Series:
    """Kind of every volume that was encoded."""
    sources = pd.read_parquet(f"{study.url.removeprefix('file://')}.secret/sources.parquet")
    table = pd.read_csv(truth).merge(sources, on="series_instance_uid").set_index("volume_id")
    volumes = np.asarray(study.open_group("word_counts.zarr")["volume"][...], dtype=object)  # type: ignore[index]
    return table.loc[volumes, "group"]


def measure(pairs: Sequence[tuple[Study, Path]], n_draws: int, with_strangers: bool) -> dict[str, Any]:
    placed, refused, of_noise, of_wall = [], [], [], []
    for number, (study, truth) in enumerate(pairs):
        kind = kinds_of(study, truth)
        wants = with_strangers and number == 0
        strangers = strangers_of(study, kind.index[:N_STRANGERS].tolist()) if wants else []
        for draw in range(n_draws):
            for fold in folds(study, kind, draw, strangers):
                is_none = placing(study, fold, kind.nunique() - 1).cluster < 0
                own, others = is_none[: len(kind)], is_none[len(kind) :]
                placed.append(~own[~fold.learnt & ~fold.is_unknown])
                refused += [(fold.unknown, r) for r in own[fold.is_unknown]]
                of_noise += others[:N_STRANGERS].tolist()
                of_wall += others[N_STRANGERS:].tolist()
    table = pd.DataFrame(refused, columns=["kind", "refused"]).groupby("kind")["refused"]
    every = np.concatenate(placed)
    out = {
        "placed": round(float(every.mean()), 3),
        "n_placed": len(every),
        "refused": round(float(table.mean().mean()), 3),
        "n_refused": len(refused),
        **{f"refused_{k}": round(float(v), 3) for k, v in table.mean().items()},
    }
    return out | ({"noise_refused": np.mean(of_noise), "wall_refused": np.mean(of_wall)} if of_noise else {})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="STUDY TRUTH")
    parser.add_argument("--draws", type=int, default=1, help="of who is held out")
    parser.add_argument("--no-strangers", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pairs = [(Study.open(s), Path(t)) for s, t in zip(arguments.paths[::2], arguments.paths[1::2], strict=True)]
    with threadpool_limits(1):
        found = measure(pairs, arguments.draws, not arguments.no_strangers)
    print(json.dumps(found) if arguments.json else "\n".join(f"{k:<24} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
