"""Build the atlas: from files that settings name, or from the cohort itself; every template is a task of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from popclust.dataflow.inputs import AtlasFiles, landmarks_beside, mask_beside, organs_beside
from popclust.dataflow.isolation import run_isolated
from popclust.dataflow.volume_tasks import read_volume
from popclust.dataflow.window import Outcome
from popclust.errors import InputError, VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.label_maps import read_lung_mask
from popclust.normalization.atlas import (
    AtlasInput,
    CheckedTemplate,
    Template,
    assemble_atlas,
    check_names,
    check_template,
    refused_template,
)
from popclust.normalization.cohort_choice import LungShape, choose_from_cohort, lung_shape
from popclust.normalization.landmarks import read_landmarks
from popclust.normalization.preparation import Prepared, prepare
from popclust.presentation.atlas_figure import templates_figure
from popclust.presentation.style import to_png
from popclust.study import Study

_MAX_CANDIDATES = 500
"""Volumes looked at when the atlas is chosen from the cohort: the first by volume_id, which is as good as random."""


@dataclass(frozen=True)
class Offer:
    """A volume offered as the atlas or a template, by where it is read from; small, it passes through the scheduler."""

    study: Study
    """The study it is for."""
    marker: str
    """Marker of the atlas that is being built."""
    source: str
    """A file, or a volume_id of the study."""
    is_file: bool
    """Which of the two."""

    @property
    def template_id(self) -> str:
        """Its name in tables."""
        return _stem(self.source) if self.is_file else self.source

    def read(self) -> AtlasInput:
        """Read it with what lies beside it."""
        if self.is_file:
            return read_atlas_input(self.source, self.study.settings.masks.lung_labels)
        return AtlasInput(self.source, read_volume(self.study, self.source))


def candidates(study: Study, volume_ids: Sequence[str] | Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """Arguments of `shape` for the volumes among which the atlas is chosen: one per patient."""
    cohort = study.read_table("cohort").sort_values("volume_id")
    first = cohort[cohort["volume_id"].isin(list(volume_ids))].drop_duplicates("patient_id")["volume_id"]
    return {v: (study, v) for v in first.iloc[:_MAX_CANDIDATES]}


def shape(study: Study, volume_id: str) -> LungShape:
    """Shape of one volume's lungs."""
    return lung_shape(read_volume(study, volume_id))


def offered_files(study: Study, marker: str, files: AtlasFiles) -> list[Offer]:
    """The files that the atlas is built from, the atlas itself first.

    Raises
    ------
    InputError
        Two files share a name, or an approved name was not offered.
    """
    offers = [Offer(study, marker, path, is_file=True) for path in (files.volume, *files.templates)]
    check_names([offer.template_id for offer in offers], study.settings.atlas)
    return offers


def offered_volumes(study: Study, marker: str, shapes: Mapping[str, LungShape]) -> list[Offer]:
    """The volumes of the cohort that the atlas is built from, the atlas itself first; raises as `offered_files`."""
    chosen = choose_from_cohort(shapes, 1 + study.settings.atlas.n_from_cohort)
    check_names(chosen, study.settings.atlas)
    return [Offer(study, marker, volume_id, is_file=False) for volume_id in chosen]


def check(reference: Offer, offered: Offer) -> Mapping[str, Any]:
    """Register one template to the atlas, in the worker's child, and leave it in the study; its row of the table."""
    limits = offered.study.settings.normalize
    row = run_isolated(_check, reference, offered, timeout_s=limits.timeout_s, max_memory_mb=limits.max_memory_mb)
    return dict(row)


def assemble(reference: Offer, outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """Write the atlas with the templates that passed, its table and its pictures.

    A template whose task failed (a crash, a hang) is refused with that reason.
    """
    study, settings = reference.study, reference.study.settings.atlas
    url = study.path("atlas")
    checked = []
    for outcome in outcomes:
        if outcome.error:
            checked.append(refused_template(outcome.key, settings, outcome.error))
        else:
            is_there = study.exists("atlas", "templates", outcome.key)
            checked.append(CheckedTemplate(outcome.value, Template.load(url, outcome.key) if is_there else None))
    offered, prepared = _reference(reference)
    built = assemble_atlas(prepared, offered.landmarks, checked)
    study.remove("atlas")
    built.save(url)
    if built.registered:
        study.write_bytes(to_png(templates_figure(built)), "atlas", "templates.png")
    refused = [c.row for c in checked if not c.row["used"]]
    return {
        "templates": [t.template_id for t in built.atlas.templates],
        "refused": {str(row["template_id"]): [str(r) for r in row["reasons"]] for row in refused},
    }


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
            template_id=_stem(path),
            volume=read_volume_file(path),
            lungs=None if mask is None else read_lung_mask(mask, lung_labels),
            organs=None if organs is None else read_volume_file(organs),
            landmarks=read_landmarks(landmarks) if landmarks else {},
        )
    except VolumeError as error:
        raise InputError(f"{path}: {error.message}") from None


def _check(reference: Offer, offered: Offer) -> Mapping[str, Any]:
    study, (atlas, prepared) = offered.study, _reference(reference)
    checked = check_template(prepared, atlas, offered.read(), study.settings.atlas, study.settings.normalize)
    if checked.template is not None:
        checked.template.save(study.path("atlas"))
    return checked.row


@lru_cache(maxsize=1)
def _reference(offer: Offer) -> tuple[AtlasInput, Prepared]:
    """The atlas volume, read and prepared once per process for as long as the marker stays."""
    offered = offer.read()
    try:
        return offered, prepare(offered.volume, offer.study.settings.atlas.spacing_mm, offered.lungs)
    except VolumeError as error:
        raise InputError(f"atlas {offer.template_id}: {error.message}; name another volume in [atlas]") from None


def _stem(path: str) -> str:
    return path.rpartition("/")[2].split(".")[0]
