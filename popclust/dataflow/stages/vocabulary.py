"""Training samples of all volumes -> three vocabularies, the texture's without what follows the scanner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popclust.dataflow.learning import learn_words, pack_training
from popclust.dataflow.stage import Stage, Work, each
from popclust.dataflow.stages import stage_named
from popclust.features.haralick import sample_haralick
from popclust.imaging.degradation import DEGRADATIONS, degraded
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.normalization.normalized import Normalized
from popclust.parts import Made
from popclust.population.vocabulary import VOCABULARIES, sample_rows
from popclust.study import Study

HARMONISED = "haralick"
"""The vocabulary whose features follow the scanner; those of shape were never seen to."""
N_POINTS = 3000
"""Points of a volume at which its copies are compared: what a run holds does not grow with the volumes' size."""


def learn(work: Work) -> Made:
    """Pack the training rows, and learn each vocabulary on the Dask cluster."""
    study, volume_ids = work.study, sorted(work.passing("extract"))
    rows = work.once(pack_training, study, volume_ids)
    pairs = work.map(with_copies, {v: (study, v) for v in degraded_volumes(study, volume_ids)})
    copies = {HARMONISED: list(pairs.values())}
    words = {name: dict(learn_words(study, name, work.client, copies.get(name, ()))) for name in VOCABULARIES}
    return Made({"rows": dict(rows), "words": words})


def degraded_volumes(study: Study, volume_ids: Iterable[str]) -> list[str]:
    """The volumes whose copies are looked at: drawn each by itself, so that most stay as a cohort grows."""
    settings = study.settings.vocabulary
    drawn = {v: np.random.default_rng([settings.seed, *v.encode()]).random() for v in volume_ids}
    return sorted(sorted(drawn, key=lambda v: drawn[v])[: settings.n_degraded])


def with_copies(study: Study, volume_id: str) -> NDArray[np.float32]:
    """Texture (copy, n, d) of one volume and of its degraded copies at a sample of the same points.

    Raises
    ------
    DamagedError
        The volume, or where it lies in the atlas, is not as it was published.
    """
    for stage in ("ingest", "normalize"):
        study.check_part(stage, volume_id, stage_named(stage).files_of(volume_id))
    volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
    lung = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr")).lung
    seed = study.settings.vocabulary.seed
    seen = [volume, *(degraded(volume, how, seed + i) for i, how in enumerate(DEGRADATIONS))]
    features = [sample_haralick(v, lung, study.settings.haralick).features for v in seen]
    chosen = sample_rows(len(features[0]), N_POINTS, seed, volume_id)
    return np.stack([f[chosen] for f in features])


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say how much of the texture follows the scanner."""
    words = record["words"][HARMONISED]
    if n := words.get("n_removed"):
        line(f"{n} of {len(words['nuisance_share'])} directions of texture follow noise and sharpness: left out")


STAGE = Stage(
    name="vocabulary",
    version=2,
    title="learn visual words",
    sections=("vocabulary",),
    reads=("extract",),
    build_needs=lambda known: each(known.passing("extract")),
    build=learn,
    results=("vocabulary",),
    say=say,
)
