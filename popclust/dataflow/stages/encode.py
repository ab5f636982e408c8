"""Features -> word counts."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import xarray as xr
import zarr

from popclust.dataflow.stage import Known, Stage, Work, each
from popclust.parts import Made
from popclust.population.vocabulary import VOCABULARIES, Vocabulary, rows_of_vocabularies
from popclust.study import Study

_FEATURES = ("haralick", "haralick_position_mm", "sift", "sift_position_mm", "diameter_mm")


def needs(known: Known) -> dict[str, list[str]]:
    """Every volume with features, and the vocabularies."""
    words = known.marker("vocabulary")
    return {v: [features, words] for v, features in known.passing("extract").items()}


def encode(study: Study, volume_id: str) -> Made:
    """Count the visual words of one volume."""
    group = study.open_group("features", f"{volume_id}.zarr")
    features = {name: np.asarray(group[name][...]) for name in _FEATURES}  # type: ignore[index]
    is_micro = features["diameter_mm"] <= study.settings.sift.micro_macro_mm
    words = vocabularies_of(study)
    rows = rows_of_vocabularies(features, is_micro)
    counts = {name: words[name].counts(values, positions).tolist() for name, (values, positions) in rows.items()}
    zones = np.asarray(group["zones"][...])  # type: ignore[index]
    return Made({**counts, "zones": zones.tolist()})


def gather(work: Work) -> Made:
    """Write word_counts.zarr."""
    records = work.study.records("encode", sorted(work.finished("encode")))
    counts = [np.concatenate([np.asarray(r[v], np.uint32) for v in VOCABULARIES]) for r in records.values()]
    first = next(iter(records.values()))
    vocabulary_of_word = np.repeat(VOCABULARIES, [len(first[v]) for v in VOCABULARIES])
    zones = np.asarray([r["zones"] for r in records.values()], np.uint32)
    dataset = xr.Dataset(
        {
            "counts": (("volume", "word"), np.stack(counts).astype(np.uint32)),
            "zone_counts": (("volume", "zone", "bin"), zones),
        },
        coords={"volume": list(records), "vocabulary": ("word", vocabulary_of_word)},
    )
    work.study.write_dataset("word_counts", dataset)
    return Made({"n_volumes": len(records), "n_words": len(vocabulary_of_word)})


def vocabularies_of(study: Study) -> dict[str, Vocabulary]:
    """The study's vocabularies, or the frozen model's; read once per process for as long as they stay."""
    return _vocabularies(study.learnt_path("vocabulary"), study.learnt_marker("vocabulary"))


@lru_cache(maxsize=2)
def _vocabularies(url: str, marker: str) -> dict[str, Vocabulary]:
    return {name: Vocabulary.load(zarr.open_group(f"{url}/{name}.zarr", mode="r")) for name in VOCABULARIES}


STAGE = Stage(
    name="encode",
    version=2,
    title="count visual words",
    reads=("extract", "vocabulary"),
    needs=needs,
    task=encode,
    build_needs=lambda known: each(known.finished("encode")),
    build=gather,
    results=("word_counts.zarr",),
)
