"""Volumes -> transforms to the atlas, lungs, quality; only accepted volumes go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust import schema
from popclust.dataflow.inputs import mask_of, series_of, transform_of
from popclust.dataflow.isolation import run_isolated
from popclust.dataflow.stage import Known, Stage, Work, each
from popclust.errors import InputError
from popclust.imaging.label_maps import read_lung_mask
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.normalization.atlas import Atlas
from popclust.normalization.normalized import Normalized, normalize_volume, normalized_from_given
from popclust.normalization.transform import DisplacementField
from popclust.parts import Made
from popclust.study import Study


def needs(known: Known) -> dict[str, list[str]]:
    """Every included volume, with the atlas and what is handed in for it: a lung mask, or a known transform."""
    study, atlas, included = known.study, known.marker("atlas"), known.passing("ingest")
    is_given = study.settings.normalize.transforms == "given"
    if not is_given and not study.settings.masks.folder:
        return {v: [content, atlas] for v, content in included.items()}
    table = known.series.frame()
    series = dict(zip(table["volume_id"], table["series_instance_uid"], strict=True))
    paths = {v: transform_of(study, series[v], v) if is_given else mask_of(study, series[v]) for v in included}
    return {v: [content, atlas, known.digest(paths[v]) if paths[v] else ""] for v, content in included.items()}


def normalize(study: Study, volume_id: str) -> Made:
    """Register one volume to the atlas in the worker's child, or take its known transform."""
    if study.settings.normalize.transforms == "given":
        return _made(take_given(study, volume_id))
    limits = study.settings.normalize
    quality = run_isolated(register, study, volume_id, timeout_s=limits.timeout_s, max_memory_mb=limits.max_memory_mb)
    return _made(quality)


def register(study: Study, volume_id: str) -> Mapping[str, Any]:
    """Register one volume to the atlas, in this process."""
    volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
    mask = mask_of(study, series_of(study, volume_id)) if study.settings.masks.folder else ""
    lungs = read_lung_mask(mask, study.settings.masks.lung_labels) if mask else None
    return _save(study, volume_id, normalize_volume(volume, atlas_of(study), study.settings.normalize, lungs))


def take_given(study: Study, volume_id: str) -> Mapping[str, Any]:
    """Take a known transform instead of registering."""
    path = transform_of(study, series_of(study, volume_id), volume_id)
    with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        to_volume, to_atlas = (_field(file, name) for name in ("to_volume", "to_atlas"))
    volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
    normalized = normalized_from_given(volume, atlas_of(study), to_volume, to_atlas, study.settings.normalize)
    return _save(study, volume_id, normalized)


def gather(work: Work) -> Made:
    """Write quality.parquet.

    Raises
    ------
    InputError
        No volume was accepted.
    """
    volumes = sorted(work.finished("normalize"))
    rows = [{"volume_id": v, **r} for v, r in work.study.records("normalize", volumes).items()]
    frame = pd.DataFrame(rows, columns=list(schema.names("quality")))
    work.study.write_table("quality", frame)
    n_accepted = int(frame["accepted"].astype(bool).sum())
    if not n_accepted:
        path = work.study.path("quality.parquet")
        raise InputError(f"normalize: no volume was accepted; the reasons stand in {path}")
    return Made({"n_volumes": len(frame), "n_accepted": n_accepted})


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say how many volumes are not accepted."""
    if n := record["n_volumes"] - record["n_accepted"]:
        line(f"{n} of {record['n_volumes']} volumes not accepted (quality.parquet)", "yellow")


def atlas_of(study: Study) -> Atlas:
    """The study's atlas, or the frozen model's; read once per process for as long as it stays."""
    return _atlas(study.learnt_path("atlas"), study.learnt_marker("atlas"))


@lru_cache(maxsize=2)
def _atlas(url: str, marker: str) -> Atlas:
    return Atlas.load(url)


def _save(study: Study, volume_id: str, normalized: Normalized) -> Mapping[str, Any]:
    normalized.save(study.open_group("normalized", f"{volume_id}.zarr", mode="w"))
    return normalized.quality


def _made(quality: Mapping[str, Any]) -> Made:
    return Made(quality, passes=bool(quality["accepted"]))


def _field(file: Mapping[str, NDArray], name: str) -> DisplacementField:
    spacing, origin = (tuple(file[f"{name}_{part}_mm"].tolist()) for part in ("spacing", "origin"))
    return DisplacementField(file[f"{name}_displacement_mm"], spacing, origin)


STAGE = Stage(
    name="normalize",
    version=16,
    title="register to the atlas",
    sections=("masks", "normalize"),
    reads=("ingest", "atlas"),
    needs=needs,
    task=normalize,
    files=("normalized/{volume_id}.zarr",),
    build_needs=lambda known: each(known.finished("normalize")),
    build=gather,
    results=("quality.parquet",),
    say=say,
)
