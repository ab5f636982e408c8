"""Features -> word counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from popclust.dataflow.stage import Known, Stage, Work, each
from popclust.features.focal import NEAR_MM
from popclust.parts import Made
from popclust.population.vocabulary import COUNTED, FOCAL, VOCABULARIES, Vocabulary, rows_of_vocabularies
from popclust.study import Study

_FEATURES = ("haralick", "haralick_position_mm", "sift", "sift_position_mm", "diameter_mm")


def needs(known: Known) -> dict[str, list[str]]:
    """Every volume with features, and the vocabularies."""
    words = known.marker("vocabulary")
    return {v: [features, words] for v, features in known.passing("extract").items()}


def encode(study: Study, volume_id: str) -> Made:
    """Count the visual words of one volume."""
    words, rows = vocabularies_of(study), read_rows(study, volume_id)
    found = {name: words[name].nearest(values, positions) for name, (values, positions) in rows.items()}
    counts = {name: np.bincount(near.word, minlength=len(words[name].centres)).tolist() for name, near in found.items()}
    counts[FOCAL] = [count_focal(study, volume_id)]
    far = {name: round(near.far, 6) for name, near in found.items()}
    zones = np.asarray(study.open_group("features", f"{volume_id}.zarr")["zones"][...])  # type: ignore[index]
    return Made({**counts, "zones": zones.tolist(), "far": far})


def count_focal(study: Study, volume_id: str) -> int:
    """Texture samples of one volume that lie near a focal density."""
    distance_mm = np.asarray(study.open_group("features", f"{volume_id}.zarr")["focal_mm"][...])  # type: ignore[index]
    return int((distance_mm <= NEAR_MM).sum())


def read_rows(study: Study, volume_id: str) -> dict[str, tuple[NDArray, NDArray]]:
    """Features (n, d) of one volume and their positions (n, 3) in the atlas, by vocabulary."""
    group = study.open_group("features", f"{volume_id}.zarr")
    features = {name: np.asarray(group[name][...]) for name in _FEATURES}  # type: ignore[index]
    return rows_of_vocabularies(features, features["diameter_mm"] <= study.settings.sift.micro_macro_mm)


def gather(work: Work) -> Made:
    """Write word_counts.zarr."""
    records = work.study.records("encode", sorted(work.finished("encode")))
    first = next(iter(records.values()))
    vocabulary_of_word = np.repeat(COUNTED, [len(first[v]) for v in COUNTED])
    zones = np.asarray([r["zones"] for r in records.values()], np.uint32)
    dataset = xr.Dataset(
        {
            "counts": (("volume", "word"), counts_of(records)),
            "zone_counts": (("volume", "zone", "bin"), zones),
        },
        coords={"volume": list(records), "vocabulary": ("word", vocabulary_of_word)},
    )
    work.study.write_dataset("word_counts", dataset)
    return Made({"n_volumes": len(records), "n_words": len(vocabulary_of_word)})


def counts_of(records: Mapping[str, Mapping[str, Any]]) -> NDArray[np.uint32]:
    """(volume, word) counts of all words, from the stage's records."""
    return np.array([np.concatenate([r[v] for v in COUNTED]) for r in records.values()], np.uint32)


def far_of(records: Mapping[str, Mapping[str, Any]]) -> NDArray[np.float64]:
    """(volume, vocabulary) how far features lie from their nearest words (`Nearest.far`), from the stage's records."""
    return np.array([[r["far"][name] for name in VOCABULARIES] for r in records.values()])


def vocabularies_of(study: Study) -> dict[str, Vocabulary]:
    """The study's vocabularies, or the frozen model's; read once per process for as long as they stay."""
    return _vocabularies(study.learnt_path("vocabulary"), study.learnt_marker("vocabulary"))


@lru_cache(maxsize=2)
def _vocabularies(url: str, marker: str) -> dict[str, Vocabulary]:
    return {name: Vocabulary.load(zarr.open_group(f"{url}/{name}.zarr", mode="r")) for name in VOCABULARIES}


STAGE = Stage(
    name="encode",
    version=6,
    title="count visual words",
    reads=("extract", "vocabulary"),
    needs=needs,
    task=encode,
    build_needs=lambda known: each(known.finished("encode")),
    build=gather,
    results=("word_counts.zarr",),
)
