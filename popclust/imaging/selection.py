"""The cohort's rows, and the rules by which a series is included or not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from popclust.errors import InputError
from popclust.imaging.kernels import explain_kernel
from popclust.imaging.volume import Vector
from popclust.settings import IngestSettings

REASONS: dict[str, str] = {
    "unreadable_folder": "The folder cannot be listed: permission is missing, or the disk fails.",
    "unreadable_file": "The file cannot be opened: permission is missing, or the disk or the network fails.",
    "unreadable_header": "The header cannot be read.",
    "unreadable_pixels": "At least one image cannot be decoded.",
    "not_ct": "The series is not a CT.",
    "several_patients": "Images of more than one patient are in the series.",
    "several_studies": "Images of more than one study are in the series.",
    "not_hu": "The voxels are not Hounsfield units: a map of iodine, or air and fat do not stand where they do in HU.",
    "localizer": "The series is a scout view.",
    "dose_report": "The series is a report of the dose, as a picture.",
    "secondary_capture": "The images are captures of a screen, not slices.",
    "derived": "The images are derived from others (averages, renderings, monoenergetic ones, ...).",
    "maximum_intensity": "The images are projections of the brightest voxels (MIP).",
    "minimum_intensity": "The images are projections of the darkest voxels (MinIP).",
    "reformatted": "The images are reformatted from slices (MPR).",
    "virtual_non_contrast": "The images are computed as if without contrast agent (VNC).",
    "material_map": "The images are a map of a material, not Hounsfield units.",
    "no_rescale": "The headers do not tell, for each image, how stored values become Hounsfield units.",
    "mixed_rescale": "The images' rescale differs where their voxels do not.",
    "eight_bits": "The images have 8 bits or colours, not a CT's grey levels.",
    "burned_in": "Text is burned into the images, as their headers say.",
    "text_in_border": "Text stands in the border of the images, whatever their headers say.",
    "lossy": "The images are compressed with loss.",
    "wrong_sign": "The voxels contradict the header: signed numbers declared unsigned, or the reverse.",
    "not_3d": "The file holds no single three-dimensional volume.",
    "position_unknown": "The headers do not tell where the slices lie.",
    "several_frames_of_reference": "The images lie in more than one frame of reference.",
    "several_series": "Images of more than one series bear one UID, and no part of them is whole.",
    "several_kernels": "The images have more than one kernel, and no part of them is whole.",
    "several_thicknesses": "The images have more than one thickness, and no part of them is whole.",
    "several_phases": "The images show more than one phase, and no part of them is whole.",
    "several_acquisitions": "The images are of more than one acquisition, and no part of them is whole.",
    "other_grid": "The images differ in size, spacing or direction, and no part of them is whole.",
    "duplicate_positions": "Several images lie at the same position and nothing in the headers tells them apart.",
    "irregular_spacing": "The slices are not at regular distances, or some are missing.",
    "gantry_tilt": "The gantry was tilted: the slices are displaced against each other, or how they lie is not told.",
    "single_slice": "The series is a single slice.",
    "too_few_slices": "The series has fewer slices than the limit.",
    "thickness_above_limit": "The slices are thicker than the limit.",
    "thickness_unknown": "Neither the thickness of the slices nor their distance is known.",
    "distance_above_limit": "The slices lie further apart than the limit for their thickness.",
    "kernel_not_sharp": "The reconstruction kernel is not one of the sharp ones, by its name or by the voxels.",
    "kernel_unknown": "The reconstruction kernel is not known, nor could its sharpness be measured.",
    "no_lung": "The series shows too little aerated lung: another body part.",
    "duplicate_series": "The same images are in the cohort under another series.",
}
"""Every code with a sentence for a person."""


@dataclass(frozen=True)
class SeriesRecord:
    """One row of the cohort: a series that was seen, included or not. Holds pseudonyms only."""

    volume_id: str
    """Pseudonym of the series."""
    patient_id: str
    """Pseudonym of the patient."""
    study_id: str
    """Pseudonym of the study."""
    series_number: int | None = None
    """SeriesNumber."""
    manufacturer: str | None = None
    """Manufacturer of the scanner."""
    model: str | None = None
    """Model of the scanner."""
    kernel: str | None = None
    """Reconstruction kernel."""
    slice_thickness_mm: float | None = None
    """Thickness of the slices as the header says."""
    slice_distance_mm: float | None = None
    """True distance between slices."""
    n_slices: int = 0
    """Slices of the stack that is read."""
    spacing_zyx_mm: Vector | None = None
    """Spacing of the stored volume; before it is read, that of the series' grid brought to z, y, x."""
    age_years: float | None = None
    """Age; 90 stands for everybody older than 89."""
    sex: str | None = None
    """M, F or O."""
    acquired_on: str | None = None
    """ISO date, shifted by the patient's own number of days."""
    contrast: bool | None = None
    """Whether a contrast agent was given."""
    included: bool = False
    """Whether it goes on to the next stage."""
    reasons: tuple[str, ...] = ()
    """Codes of all the rules it breaks."""
    accession_id: str | None = None
    """Pseudonym of the accession number, by which reports may join."""
    content_hash: str | None = None
    """Hash of the voxels, None if they were not read."""
    lung_ml: float | None = None
    """Aerated lung, None if the voxels were not read."""
    noise_hu: float | None = None
    """Noise in soft tissue, None if it was not measured."""
    edge_mm: float | None = None
    """Width of the skin's edge, None if it was not measured."""
    sharpness: float | None = None
    """Noise and edges together, above 0 for sharp kernels; None if it was not measured."""
    hu_shift: float | None = None
    """By how much the voxels differ from HU at 0 HU, None if it was not measured."""
    hu_slope: float | None = None
    """What one HU is in the voxels, None if it was not measured."""
    n_images: int = 0
    """Images of the series that were seen; `n_slices` of them are used."""
    n_set_aside: int = 0
    """Images of the series that are not part of the stack."""
    set_aside: tuple[str, ...] = ()
    """Codes of why these are not, each with how many: `localizer 2`."""
    n_unreadable: int = 0
    """Images of the stack that cannot be decoded."""
    is_shortened: bool = False
    """Slices beyond the ends of the stack are among those set aside."""
    problems: tuple[str, ...] = ()
    """Codes of what was wrong with the files; they are reasons too."""

    def row(self) -> dict[str, Any]:
        """The record as a row of the cohort table: lists for tuples, without `problems`."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "problems"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def reasons_for_exclusion(record: SeriesRecord, settings: IngestSettings) -> tuple[str, ...]:
    """Codes of every rule that a series breaks, as far as it is known.

    Parameters
    ----------
    record : SeriesRecord
        What is known of the series; rules on what was not read (the lung) do not apply.
    settings : IngestSettings
        The limits.

    Returns
    -------
    tuple of str
        Keys of `REASONS`, in its order; empty if the series is to be included.
    """
    broken = set(record.problems)
    if record.n_slices == 1:
        broken.add("single_slice")
    if record.n_slices:
        broken |= _thickness_reasons(record, settings)
        if record.n_slices < settings.min_slices:
            broken.add("too_few_slices")
        broken |= _kernel_reasons(record, settings)
    if record.lung_ml is not None and record.lung_ml < settings.min_lung_ml:
        broken.add("no_lung")
    return tuple(code for code in REASONS if code in broken)


def _thickness_reasons(record: SeriesRecord, settings: IngestSettings) -> set[str]:
    """Thin slices at wide distances miss most of the lung, so both are held to the limit."""
    reasons = set()
    thickness, distance = record.slice_thickness_mm, record.slice_distance_mm
    if thickness is None and distance is None:
        reasons.add("thickness_unknown")
    if thickness is not None and thickness > settings.max_slice_thickness_mm:
        reasons.add("thickness_above_limit")
    if distance is not None and distance > settings.max_slice_thickness_mm:
        reasons.add("distance_above_limit")
    return reasons


def _kernel_reasons(record: SeriesRecord, settings: IngestSettings) -> set[str]:
    """A name that the pattern knows is believed; what names leave open is measured once the voxels are read."""
    kernel = record.kernel
    if kernel is None and settings.accept_missing_kernel:
        return set()
    if kernel is not None and is_sharp(kernel, settings.kernel_pattern):
        return set()
    if settings.kernel_rule == "name" or explain_kernel(kernel).side == "soft":
        return {"kernel_not_sharp" if kernel is not None else "kernel_unknown"}
    if record.lung_ml is None:  # not read yet
        return set()
    if record.sharpness is None:
        return {"kernel_unknown"}
    return set() if record.sharpness > 0 else {"kernel_not_sharp"}


def is_sharp(kernel: str, pattern: str) -> bool:
    """Whether a reconstruction kernel matches the pattern of sharp ones."""
    return _compiled(pattern).search(kernel.strip()) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"[ingest] kernel_pattern: is no regular expression ({error})") from None


def mark_duplicates(records: Iterable[SeriesRecord]) -> list[SeriesRecord]:
    """Exclude series whose voxels another included series has too: the first by `volume_id` stays.

    Returns
    -------
    list of SeriesRecord
        Sorted by `volume_id`.
    """
    seen: set[str] = set()
    marked = []
    for record in sorted(records, key=lambda one: one.volume_id):
        if record.included and record.content_hash in seen:
            codes = {*record.reasons, "duplicate_series"}
            record = replace(record, included=False, reasons=tuple(code for code in REASONS if code in codes))
        elif record.included and record.content_hash is not None:
            seen.add(record.content_hash)
        marked.append(record)
    return marked
