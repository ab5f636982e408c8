"""Build the atlas: from files that settings name, or from the cohort itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from popclust.dataflow.inputs import AtlasFiles, landmarks_beside, mask_beside, organs_beside
from popclust.dataflow.isolation import run_isolated
from popclust.dataflow.volume_tasks import read_volume
from popclust.errors import InputError, VolumeError
from popclust.imaging.files import read_file_header, read_file_voxels
from popclust.imaging.geometry import align
from popclust.imaging.label_maps import read_label_map, read_lung_mask
from popclust.normalization.atlas import AtlasInput, build_atlas
from popclust.normalization.cohort_choice import LungShape, choose_from_cohort, lung_shape
from popclust.normalization.landmarks import read_landmarks
from popclust.presentation.atlas_figure import templates_figure
from popclust.presentation.style import to_png
from popclust.study import Study

_MAX_CANDIDATES = 500
"""Volumes looked at when the atlas is chosen from the cohort: the first by volume_id, which is as good as random."""


def candidates(study: Study, volume_ids: Sequence[str] | Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """Arguments of `shape` for the volumes among which the atlas is chosen: one per patient."""
    cohort = study.read_table("cohort").sort_values("volume_id")
    first = cohort[cohort["volume_id"].isin(list(volume_ids))].drop_duplicates("patient_id")["volume_id"]
    return {v: (study, v) for v in first.iloc[:_MAX_CANDIDATES]}


def shape(study: Study, volume_id: str) -> LungShape:
    """Shape of one volume's lungs."""
    return lung_shape(read_volume(study, volume_id))


def choose(study: Study, shapes: Mapping[str, LungShape]) -> list[str]:
    """The atlas and the templates among the cohort's volumes, the atlas first."""
    return choose_from_cohort(shapes, 1 + study.settings.atlas.n_from_cohort)


def build_from_files(study: Study, files: AtlasFiles) -> Mapping[str, Any]:
    """Build the atlas from files, in the worker's child."""
    return _isolated(study, 1 + len(files.templates), _from_files, files)


def build_from_cohort(study: Study, volume_ids: Sequence[str]) -> Mapping[str, Any]:
    """Build the atlas from volumes of the cohort, in the worker's child."""
    return _isolated(study, len(volume_ids), _from_cohort, list(volume_ids))


def print_atlas(record: Mapping[str, Any], line: Callable[[str], None]) -> None:
    """Say which templates there are."""
    line(f"atlas with {len(record['templates'])} templates: {', '.join(record['templates'])}")
    for template_id, reasons in record["refused"].items():
        line(
            f"[yellow]template {template_id} refused:[/] {', '.join(reasons)}; look at atlas/templates.png, "
            "and name it in [atlas] approved to use it all the same"
        )


def read_atlas_input(path: str, lung_labels: Sequence[int] = ()) -> AtlasInput:
    """A volume file with the masks and landmarks beside it; `lung_labels` as in [masks].

    Raises
    ------
    InputError
        A file cannot be read.
    """
    mask, organs, landmarks = mask_beside(path), organs_beside(path), landmarks_beside(path)
    try:
        return AtlasInput(
            template_id=path.rpartition("/")[2].split(".")[0],
            volume=align(read_file_voxels(path), read_file_header(path).grid),
            lungs=None if mask is None else read_lung_mask(mask, lung_labels),
            organs=None if organs is None else read_label_map(organs),
            landmarks=read_landmarks(landmarks) if landmarks else {},
        )
    except VolumeError as error:
        raise InputError(f"{path}: {error.message}") from None


def _isolated(study: Study, n_volumes: int, function: Callable[..., Any], source: Any) -> Mapping[str, Any]:
    limits = study.settings.normalize
    timeout_s = limits.timeout_s * n_volumes
    return dict(run_isolated(function, study, source, timeout_s=timeout_s, max_memory_mb=limits.max_memory_mb))


def _from_files(study: Study, files: AtlasFiles) -> Mapping[str, Any]:
    labels = study.settings.masks.lung_labels
    return _build(study, [read_atlas_input(p, labels) for p in (files.volume, *files.templates)])


def _from_cohort(study: Study, volume_ids: Sequence[str]) -> Mapping[str, Any]:
    return _build(study, [AtlasInput(v, read_volume(study, v)) for v in volume_ids])


def _build(study: Study, offered: Sequence[AtlasInput]) -> Mapping[str, Any]:
    settings = study.settings
    try:
        built = build_atlas(offered[0], offered[1:], settings.atlas, settings.normalize)
    except VolumeError as error:
        raise InputError(f"atlas {offered[0].template_id}: {error.message}; name another volume in [atlas]") from None
    study.remove("atlas")
    built.save(study.path("atlas"))
    if built.registered:
        study.write_bytes(to_png(templates_figure(built)), "atlas", "templates.png")
    refused = built.table[~built.table["used"].astype(bool)]
    reasons = zip(refused["template_id"], refused["reasons"], strict=True)
    return {
        "templates": [t.template_id for t in built.atlas.templates],
        "refused": {str(t): [str(r) for r in rs] for t, rs in reasons},
    }
