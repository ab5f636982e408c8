"""Volumes and lungs -> texture and shape features with atlas positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from popclust import schema
from popclust.dataflow.stage import Known, Stage
from popclust.errors import VolumeError
from popclust.features.focal import distances_mm, focal_densities
from popclust.features.haralick import sample_haralick
from popclust.features.sift3d import sample_sift
from popclust.features.zones import zone_histograms
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.imaging.volume import resample
from popclust.normalization.normalized import Normalized
from popclust.parts import Made
from popclust.population.vocabulary import rows_of_vocabularies, sample_rows
from popclust.study import Study


def needs(known: Known) -> dict[str, list[str]]:
    """Every accepted volume, with its voxels and its transform."""
    return {v: needs_after(known, v, normalized) for v, normalized in known.passing("normalize").items()}


def needs_after(known: Known, volume_id: str, normalized: str) -> list[str]:
    """The same of one volume, as soon as its transform is known."""
    return [known.passing("ingest")[volume_id], normalized]


def extract(study: Study, volume_id: str) -> Made:
    """Sample texture and shape in the lung, with positions in the atlas."""
    settings = study.settings
    volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
    normalized = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))
    isotropic = resample(volume, settings.haralick.spacing_mm)  # once: shape is mostly sought at the same spacing
    texture = sample_haralick(isotropic, normalized.lung, settings.haralick)
    same = settings.sift.spacing_mm == settings.haralick.spacing_mm
    shape = sample_sift(isotropic if same else volume, normalized.lung, settings.sift, normalized.rotation_to_atlas)
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
        "focal_mm": distances_mm(texture.positions_mm, focal_densities(volume, normalized.lung)),
        "zones": zone_histograms(volume, normalized.lung),
    }
    group = study.open_group("features", f"{volume_id}.zarr", mode="w")
    attrs = {"haralick_features": list(texture.feature_names), "volume_id": volume_id}
    rows = training_rows(study, volume_id, features, is_micro)
    # in small chunks: the vocabularies' rows are packed a slab of every volume at a time
    chunks = {name: (min(256, max(1, len(values))), values.shape[1]) for name, values in rows.items()}
    schema.write_group(group, "features", {**features, **rows}, attrs, chunks=chunks)
    n_micro = int(is_micro.sum())
    return Made({"n_haralick": len(texture.features), "n_micro_sift": n_micro, "n_macro_sift": len(is_micro) - n_micro})


def training_rows(
    study: Study, volume_id: str, features: Mapping[str, NDArray], is_micro: NDArray[np.bool_]
) -> dict[str, NDArray[np.float32]]:
    """A seeded sample of rows (n, d + 3), features and position, for each vocabulary to learn from."""
    chosen = study.settings.extract
    out = {}
    for name, (rows, positions) in rows_of_vocabularies(features, is_micro).items():
        taken = sample_rows(len(rows), chosen.training_rows, chosen.seed, f"{name} {volume_id}")
        out[f"training_{name}"] = np.hstack([rows[taken], positions[taken]]).astype(np.float32)
    return out


STAGE = Stage(
    name="extract",
    version=4,
    title="sample texture and shape",
    sections=("haralick", "sift", "extract"),
    reads=("ingest", "normalize"),
    needs=needs,
    follows="normalize",
    needs_after=needs_after,
    task=extract,
    files=("features/{volume_id}.zarr",),
)
