"""A small study made up of consistent tables and tiny volumes, without running any stage of the flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from made_tables import SPACING_MM, cohort_table, quality_table, quarantine_table
from numpy.typing import NDArray

from popclust.evaluation.associations import associate
from popclust.evaluation.counting import ReportTerms
from popclust.imaging.ome_zarr import write_ome_zarr
from popclust.imaging.volume import Volume
from popclust.normalization.normalized import Normalized
from popclust.normalization.stored_maps import save_gridded
from popclust.normalization.transform import DisplacementField
from popclust.parts import Made
from popclust.population.clustering import BASELINE, DESCRIPTORS, group_over_seeds, matrix_of
from popclust.population.groupings import Groupings
from popclust.population.vocabulary import FeatureScaling, Vocabulary
from popclust.presentation.figures import write_figures
from popclust.reported import Grouping
from popclust.schema import write_group
from popclust.study import Study

TERMS = {
    "RID28530": "pneumonia",
    "RID4799": "emphysema",
    "RID28531": "ground-glass opacity",
    "RID34539": "pleural effusion",
    "RID28493": "atelectasis",
    "RID3820": "honeycombing",
    "RID3875": "pulmonary nodule",
    "RID5352": "consolidation",
}
WORDS = {"haralick": 60, "micro_sift": 30, "macro_sift": 30}
SHAPE = (48, 64, 64)


@dataclass(frozen=True)
class MadeStudy:
    """The study and the group that was planted in each volume."""

    study: Study
    planted: pd.Series


def make_study(
    folder: Path,
    n_volumes: int = 60,
    *,
    with_reports: bool = True,
    with_volumes: bool = True,
    with_quarantine: bool = False,
    with_words: bool = False,
    overrides: dict[str, dict[str, object]] | None = None,
    terms: dict[str, str] | None = None,
    n_groups: int = 4,
    numbers_of_clusters: range = range(2, 8),
) -> MadeStudy:
    """Write a study whose planted groups differ in words, terms and looks."""
    terms = TERMS if terms is None else terms
    chosen = {"associate": {"min_term_count": 5, "n_permutations": 20}, "cluster": {"seeds": [0, 1, 2]}}
    for section, values in (overrides or {}).items():
        chosen[section] = {**chosen.get(section, {}), **values}
    study = Study.create(str(folder), chosen)
    rng = np.random.default_rng(7)
    share = 1 / np.arange(1.5, n_groups + 1.5)
    planted = rng.choice(n_groups, n_volumes, p=share / share.sum())
    ids = [f"v{i:07x}" for i in rng.permutation(2**20)[:n_volumes] * 4096]
    cohort = cohort_table(rng, ids, n_excluded=max(4, n_volumes // 6))
    study.write_table("cohort", cohort)
    study.write_table("quality", quality_table(rng, ids))
    study.write_table("quarantine", quarantine_table() if with_quarantine else quarantine_table().iloc[:0])
    words, topics = _words_and_topics(rng, ids, planted)
    study.write_dataset("word_counts", words)
    study.write_dataset("topics", topics)
    clusters = _clusters(study, words, topics, numbers_of_clusters)
    groupings = Groupings.from_table(clusters)
    study.write_dataset("groupings", groupings.to_dataset())
    if with_reports:
        _write_reports(study, rng, cohort, clusters, ids, planted, terms)
    else:
        reported = {"descriptor": "lda", "n_clusters": 4, "seed": 0, "Q": None}
        record = {**reported, "min_term_count": 5, "unit": "patient", "n_tested_terms": 0, "n_units": 0}
        study.write_table("clusters", groupings.table(Grouping("lda", 4, 0)))
        study.publish("associate", "made", Made(record))
    if with_words:
        _write_vocabularies(study, ids[2:])
    if with_volumes:
        for volume_id, group in zip(ids, planted, strict=True):
            _write_volume(study, rng, volume_id, int(group) % 4)
    return MadeStudy(study, pd.Series(planted, index=ids))


@cache
def shared_study(base: Path) -> MadeStudy:
    """One study of 40 volumes, with figures, for all tests of a session that only read it."""
    made = make_study(base / "shared-study", 40, with_quarantine=True)
    write_figures(made.study)
    return made


def run_card() -> dict[str, object]:
    """A run card as the flow writes it."""
    return {
        "run_id": "20260102T030405.000000Z",
        "state": "ended",
        "popclust": "0.1.0",
        "python": "3.11.9",
        "platform": "Linux",
        "packages": {"numpy": "2.4.0", "dask": "2026.1.0"},
        "settings": {},
        "inputs": {"terms": "ab" * 32},
        "records": {"topics": {"n_topics": 20}},
        "n_workers": 2,
        "stages": [
            {
                "stage": s,
                "total": 60,
                "done": 60,
                "reused": 0,
                "quarantined": 0,
                "left": 0,
                "seconds": t,
                "seconds_left": 0.0,
            }
            for s, t in {"ingest": 12.0, "normalize": 191.5, "extract": 80.1, "cluster": 3.0}.items()
        ],
        "seconds": 301.2,
    }


def phantom(rng: np.random.Generator, group: int) -> tuple[Volume, Volume]:
    """A body with two lungs whose texture depends on the group, and the lung mask."""
    z, y, x = np.indices(SHAPE)
    scale = rng.uniform(0.9, 1.05)
    body = ((y - 32) / (26 * scale)) ** 2 + ((x - 32) / (30 * scale)) ** 2 < 1
    lungs = np.zeros(SHAPE, bool)
    for side in (-1, 1):
        centre = 32 + side * 13
        radius = 1 - ((z - 20) / (20 * scale)) ** 2
        lungs |= ((y - 32) / (17 * scale)) ** 2 + ((x - centre) / (9.5 * scale)) ** 2 < radius
    hu = np.where(body, 40.0, -1024.0)
    texture = rng.normal(0, 45, SHAPE)
    value = (-850.0, -930.0, -640.0, -780.0)[group]
    hu[lungs] = value + texture[lungs] * (1.0, 0.6, 2.4, 1.4)[group]
    if group == 3:
        hu[lungs & (z < 14) & (y > 34)] = 10.0
    grid = (SPACING_MM, (-150.0, -170.0, -170.0))
    return Volume(hu.astype(np.int16), *grid), Volume(lungs, *grid)


def _write_vocabularies(study: Study, ids: list[str]) -> None:
    """Atlas, vocabularies and features: words of even number live in the upper half of the lungs, odd ones below."""
    rng = np.random.default_rng(9)
    image, lungs = phantom(np.random.default_rng(0), 0)
    where = study.open_group("atlas", "reference.zarr", mode="w")
    attrs = {"field_of_view_mm": [[0.0] * 3] * 2, "landmarks_mm": {}, "templates": []}
    save_gridded(where, "atlas", {"image": image.with_values(image.voxels.astype(np.float32)), "lungs": lungs}, attrs)
    place = lungs.index_to_mm(np.argwhere(lungs.voxels))
    is_high = place[:, 0] > np.median(place[:, 0])
    halves = (place[is_high], place[~is_high])
    looks, dims = {}, {"haralick": 5, "micro_sift": 64, "macro_sift": 64}
    for name, n_words in WORDS.items():
        looks[name] = rng.integers(0, 64, (n_words, dims[name])).astype(np.float64)
        scaling = FeatureScaling.empty(dims[name], 0.0)
        scaling = replace(scaling, centre=scaling.centre + 32.0, spread=scaling.spread * 16.0)
        centres = scaling.apply(looks[name], np.zeros((n_words, 3)))
        Vocabulary(name, scaling, centres).save(study.open_group("vocabulary", f"{name}.zarr", mode="w"))
    for volume_id in ids:
        rows, positions = {}, {}
        for name, n_rows in {"haralick": 600, "micro_sift": 150, "macro_sift": 150}.items():
            word = rng.integers(0, WORDS[name], n_rows)
            noise = rng.integers(-2, 3, (n_rows, dims[name]))
            rows[name] = np.clip(looks[name][word] + noise, 0, 63)
            positions[name] = np.stack([halves[w % 2][rng.integers(len(halves[w % 2]))] for w in word])
        sift, place_of_sift = (np.concatenate([r["micro_sift"], r["macro_sift"]]) for r in (rows, positions))
        arrays = {
            "haralick": rows["haralick"].astype(np.float32),
            "haralick_position_mm": positions["haralick"].astype(np.float32),
            "sift": sift.astype(np.uint8),
            "sift_position_mm": place_of_sift.astype(np.float32),
            "scale_mm": np.ones(len(sift), np.float32),
            "diameter_mm": np.repeat([1.0, 99.0], 150).astype(np.float32),
            "focal_mm": np.full(len(rows["haralick"]), np.inf, np.float32),
            "zones": np.ones((6, 24), np.uint32),
            **{f"training_{name}": np.zeros((1, dims[name] + 3), np.float32) for name in WORDS},
        }
        attrs = {"haralick_features": list("abcde"), "volume_id": volume_id}
        write_group(study.open_group("features", f"{volume_id}.zarr", mode="w"), "features", arrays, attrs)


def _write_volume(study: Study, rng: np.random.Generator, volume_id: str, group: int) -> None:
    volume, lungs = phantom(rng, group)
    write_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"), volume)
    still = DisplacementField(np.zeros((3, 1, 1, 1), np.float32), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    normalized = Normalized("atlas", {}, still, still, lungs, np.eye(3), {})
    normalized.save(study.open_group("normalized", f"{volume_id}.zarr", mode="w"))


def _words_and_topics(rng: np.random.Generator, ids: list[str], planted: NDArray) -> tuple[xr.Dataset, xr.Dataset]:
    """Topics 0 .. 3 belong to the planted groups; words follow from topics."""
    n_topics = 20
    vocabulary = np.repeat(list(WORDS), list(WORDS.values()))
    word_of_topic = rng.dirichlet(np.full(len(vocabulary), 0.08), n_topics)
    prior = np.full((len(ids), n_topics), 0.15)
    prior[np.arange(len(ids)), planted % n_topics] += 3.0
    many = np.flatnonzero(planted >= n_topics)  # more groups than topics: two topics each
    prior[many, planted[many] * 7 % n_topics] += 6.0
    share = np.stack([rng.dirichlet(p) for p in prior])
    counts = np.stack([rng.multinomial(3000, s @ word_of_topic) for s in share]).astype(np.uint32)
    of_zones = np.random.default_rng(8)
    zones = of_zones.multinomial(500, of_zones.dirichlet(np.ones(24), (len(ids), 6))).astype(np.uint32)
    accepted = ids[2:]  # the first two are not accepted
    words = xr.Dataset(
        {"counts": (("volume", "word"), counts[2:]), "zone_counts": (("volume", "zone", "bin"), zones[2:])},
        coords={"volume": accepted, "vocabulary": ("word", vocabulary)},
    )
    topics = xr.Dataset(
        {
            "topic_of_volume": (("volume", "topic"), share[2:]),
            "word_of_topic": (("topic", "word"), word_of_topic),
            "components": (("topic", "word"), 1000 * word_of_topic),
        },
        coords={"volume": accepted, "vocabulary": ("word", vocabulary)},
        attrs={"doc_topic_prior": 0.05},
    )
    return words, topics


def _clusters(study: Study, words: xr.Dataset, topics: xr.Dataset, numbers_of_clusters: range) -> pd.DataFrame:
    ids, frames = words["volume"].values.tolist(), []
    for name in (*DESCRIPTORS, BASELINE):
        matrix = matrix_of(name, words, topics, study.settings.encode)
        for n_clusters in numbers_of_clusters:
            frames.append(group_over_seeds(matrix, ids, name, n_clusters, study.settings.cluster, _few_starts))
    return pd.concat(frames, ignore_index=True)


def _few_starts(matrix: NDArray, n_clusters: int, seed: int) -> NDArray:
    """A short k-means: the study is made in a second or two."""
    rng = np.random.default_rng(seed)
    centres = matrix[rng.choice(len(matrix), n_clusters, replace=False)]
    for _ in range(20):
        nearest = (0.5 * (centres**2).sum(axis=1) - matrix @ centres.T).argmin(axis=1)
        centres = np.stack(
            [matrix[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(n_clusters)]
        )
    return centres


def _write_reports(
    study: Study,
    rng: np.random.Generator,
    cohort: pd.DataFrame,
    clusters: pd.DataFrame,
    ids: list[str],
    planted: NDArray,
    terms: dict[str, str],
) -> None:
    """Term t is frequent in group t modulo the number of groups; three volumes have no report."""
    reported = ids[2:-3]
    chance = np.where(np.arange(len(terms))[None, :] % (planted.max() + 1) == planted[2:-3, None], 0.85, 0.06)
    has_term = rng.random(chance.shape) < chance
    dataset = xr.Dataset(
        {"has_term": (("volume", "term"), has_term)},
        coords={"volume": reported, "term": list(terms), "label": ("term", list(terms.values()))},
        attrs={"notice": "made up"},
    )
    study.write_dataset("terms", dataset)
    patients = cohort.set_index("volume_id")["patient_id"]
    study.write_table(
        "reports",
        pd.DataFrame(
            {
                "volume_id": reported,
                "patient_id": patients.loc[reported].to_numpy(),
                "language": "en",
                "n_mentions": has_term.sum(axis=1),
            }
        ),
    )
    volume, term = np.nonzero(has_term)
    study.write_table(
        "mentions",
        pd.DataFrame(
            {
                "volume_id": np.array(reported)[volume],
                "term_id": np.array(list(terms))[term],
                "term": np.array(list(terms.values()))[term],
                "status": "affirmed",
                "section": "findings",
                "start": 0,
                "end": 9,
                "language": "en",
            }
        ),
    )
    present = pd.DataFrame(has_term, index=reported, columns=list(terms))
    result = associate(
        clusters,
        ReportTerms(present, pd.Series(terms)),
        pd.Series(True, index=reported),
        patients,
        study.settings.associate,
    )
    study.write_table("associations", result.associations)
    study.write_table("criterion", result.criterion)
    record = {
        "descriptor": result.reported.descriptor,
        "n_clusters": result.reported.n_clusters,
        "seed": result.reported.seed,
        "Q": int(result.criterion.loc[result.reported.rows(result.criterion), "Q"].iloc[0]),
        "unit": study.settings.associate.unit,
        "n_units": int(patients.loc[reported].nunique()),
        "n_tested_terms": int(result.associations["term_id"].nunique()),
        "min_term_count": study.settings.associate.min_term_count,
    }
    study.write_table("clusters", Groupings.from_table(clusters).table(result.reported))
    study.publish("associate", "made", Made(record))
