"""What is done for one volume: read its parts, call a pure function, write its own part, leave a small record.

A task is given the study and the volume, never voxels: no volume passes through the Dask scheduler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popclust.dataflow.isolation import run_isolated
from popclust.errors import VolumeError
from popclust.features.haralick import sample_haralick
from popclust.features.sift3d import sample_sift
from popclust.imaging.headers import FileHeader, scan_headers
from popclust.imaging.ingest import read_series
from popclust.imaging.label_maps import read_lung_mask
from popclust.imaging.ome_zarr import read_ome_zarr, write_ome_zarr
from popclust.imaging.series import SeriesFiles
from popclust.imaging.volume import Volume
from popclust.normalization.atlas import Atlas
from popclust.normalization.normalized import Normalized, normalize_volume, normalized_from_given
from popclust.normalization.transform import DisplacementField
from popclust.population.duplicates import identifying_keypoints
from popclust.population.vocabulary import VOCABULARIES, Vocabulary, sample_rows
from popclust.study import Study

VolumeTask = Callable[..., Mapping[str, Any]]


def perform(task: VolumeTask, study: Study, stage: str, volume_id: str, marker: str, *args: Any) -> None:
    """Run one volume's part of a stage and publish it."""
    study.begin(stage, volume_id)
    record = task(study, volume_id, *args)
    study.publish(stage, marker, record, volume_id)


def scan(paths: list[str], sources: tuple[str, ...]) -> list[FileHeader]:
    """Headers of a batch of files."""
    return scan_headers(paths, sources)


def ingest(study: Study, volume_id: str, series: SeriesFiles, key: bytes, fingerprint: str) -> Mapping[str, Any]:
    """Read one series into an OME-Zarr volume; the record is its row of the cohort."""
    for store in ("ome.zarr", "keypoints.zarr"):
        study.remove("volumes", f"{volume_id}.{store}")
    found = read_series(series, study.settings.ingest, key)
    if found.volume is not None:
        write_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"), found.volume)
        identifying_keypoints(found.volume).save(study.open_group("volumes", f"{volume_id}.keypoints.zarr", mode="w"))
    return {**dataclasses.asdict(found.record), "fingerprint": fingerprint}


def normalize(study: Study, volume_id: str, atlas_marker: str, mask_path: str = "") -> Mapping[str, Any]:
    """Register one volume to the atlas, in the worker's child."""
    limits = study.settings.normalize
    record = run_isolated(
        register,
        study,
        volume_id,
        atlas_marker,
        mask_path,
        timeout_s=limits.timeout_s,
        max_memory_mb=limits.max_memory_mb,
    )
    return dict(record)


def register(study: Study, volume_id: str, atlas_marker: str, mask_path: str = "") -> Mapping[str, Any]:
    """Register one volume to the atlas, in this process."""
    volume = read_volume(study, volume_id)
    lungs = read_lung_mask(mask_path, study.settings.masks.lung_labels) if mask_path else None
    normalized = normalize_volume(volume, _atlas(study, atlas_marker), study.settings.normalize, lungs)
    return _save_normalized(study, volume_id, normalized)


def take_given(study: Study, volume_id: str, atlas_marker: str, path: str) -> Mapping[str, Any]:
    """Take a known transform instead of registering."""
    with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        to_volume, to_atlas = (_field(file, name) for name in ("to_volume", "to_atlas"))
    volume, atlas = read_volume(study, volume_id), _atlas(study, atlas_marker)
    normalized = normalized_from_given(volume, atlas, to_volume, to_atlas, study.settings.normalize)
    return _save_normalized(study, volume_id, normalized)


def extract(study: Study, volume_id: str) -> Mapping[str, Any]:
    """Sample texture and shape in the lung, with positions in the atlas."""
    settings = study.settings
    volume = read_volume(study, volume_id)
    normalized = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))
    texture = sample_haralick(volume, normalized.lung, settings.haralick)
    shape = sample_sift(volume, normalized.lung, settings.sift, normalized.rotation_to_atlas)
    if len(texture.features) == 0:
        raise VolumeError("no_features", "no lung is left to sample: the lungs carried over lie outside the volume")
    is_micro = shape.diameter_mm <= settings.sift.micro_macro_mm
    features: dict[str, NDArray] = {
        "haralick": texture.features,
        "haralick_position_mm": normalized.to_atlas(texture.positions_mm).astype(np.float32),
        "sift": shape.descriptor,
        "sift_position_mm": normalized.to_atlas(shape.position_mm).astype(np.float32),
        "scale_mm": shape.scale_mm,
        "diameter_mm": shape.diameter_mm,
    }
    group = study.open_group("features", f"{volume_id}.zarr", mode="w")
    for name, values in features.items():
        group.create_array(name, data=np.ascontiguousarray(values))
    for name, (rows, positions) in rows_of_vocabularies(features, is_micro).items():
        chosen = sample_rows(len(rows), settings.extract.training_rows, settings.extract.seed, f"{name} {volume_id}")
        training = np.hstack([rows[chosen], positions[chosen]]).astype(np.float32)
        group.create_array(
            f"training_{name}", data=training, chunks=(min(256, max(1, len(training))), training.shape[1])
        )
    group.attrs.update({"haralick_features": list(texture.feature_names), "volume_id": volume_id})
    n_micro = int(is_micro.sum())
    return {
        "n_haralick": len(texture.features),
        "n_micro_sift": n_micro,
        "n_macro_sift": len(is_micro) - n_micro,
    }


def encode(study: Study, volume_id: str, vocabulary_marker: str) -> Mapping[str, Any]:
    """Count the visual words of one volume."""
    group = study.open_group("features", f"{volume_id}.zarr")
    names = ("haralick", "haralick_position_mm", "sift", "sift_position_mm", "diameter_mm")
    features = {name: np.asarray(group[name][...]) for name in names}  # type: ignore[index]
    is_micro = features["diameter_mm"] <= study.settings.sift.micro_macro_mm
    words = _vocabularies(study, vocabulary_marker)
    return {
        name: words[name].counts(rows, positions).tolist()
        for name, (rows, positions) in rows_of_vocabularies(features, is_micro).items()
    }


def rows_of_vocabularies(
    features: Mapping[str, NDArray], is_micro: NDArray[np.bool_]
) -> dict[str, tuple[NDArray, NDArray]]:
    """Features (n, d) and positions (n, 3) that belong to each vocabulary."""
    shape, place = features["sift"], features["sift_position_mm"]
    rows = {
        "haralick": (features["haralick"], features["haralick_position_mm"]),
        "micro_sift": (shape[is_micro], place[is_micro]),
        "macro_sift": (shape[~is_micro], place[~is_micro]),
    }
    return {name: rows[name] for name in VOCABULARIES}


def read_volume(study: Study, volume_id: str) -> Volume:
    """A volume of the study."""
    return read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))


def _save_normalized(study: Study, volume_id: str, normalized: Normalized) -> Mapping[str, Any]:
    normalized.save(study.open_group("normalized", f"{volume_id}.zarr", mode="w"))
    return normalized.quality


def _field(file: Mapping[str, NDArray], name: str) -> DisplacementField:
    spacing, origin = (tuple(file[f"{name}_{part}_mm"].tolist()) for part in ("spacing", "origin"))
    return DisplacementField(file[f"{name}_displacement_mm"], spacing, origin)


@lru_cache(maxsize=2)
def _atlas(study: Study, marker: str) -> Atlas:
    """The atlas, read once per process for as long as its marker stays."""
    return Atlas.load(study.model_path("atlas"))


@lru_cache(maxsize=2)
def _vocabularies(study: Study, marker: str) -> dict[str, Vocabulary]:
    """The vocabularies, read once per process for as long as their marker stays."""
    model = dataclasses.replace(study, url=study.reference_url or study.url)
    return {name: Vocabulary.load(model.open_group("vocabulary", f"{name}.zarr")) for name in VOCABULARIES}
