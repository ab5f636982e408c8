"""One series from its files to a volume and a row of the cohort."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from popclust.errors import VolumeError
from popclust.imaging.acquisition import measure_acquisition
from popclust.imaging.burned_in import has_text_in_border
from popclust.imaging.calibration import measure_calibration
from popclust.imaging.dicom import SeriesDescription, describe_dicom, read_stack
from popclust.imaging.files import read_file_header, read_file_voxels
from popclust.imaging.free_text import plain_text
from popclust.imaging.geometry import Grid, align, aligned_spacing_mm, grid_of_stack
from popclust.imaging.lungs import lung_volume_ml, segment_lungs
from popclust.imaging.pixels import UnreadableImagesError
from popclust.imaging.pseudonyms import patient_pseudonym, pseudonym, shifted_date
from popclust.imaging.selection import SeriesRecord, reasons_for_exclusion
from popclust.imaging.series import SeriesFiles
from popclust.imaging.volume import Volume
from popclust.settings import IngestSettings


@dataclass(frozen=True)
class IngestedSeries:
    """A series that was seen, and its volume if it is included."""

    record: SeriesRecord
    """Its row of the cohort."""
    volume: Volume | None = None
    """int16 HU; None if the series is excluded."""


@dataclass(frozen=True)
class _Plan:
    """What the headers tell, before a voxel is read."""

    description: SeriesDescription
    grid: Grid | None
    n_slices: int
    problems: tuple[str, ...]


def volume_id_of(series: SeriesFiles, key: bytes) -> str:
    """Pseudonym of a series."""
    return pseudonym(key, "volume", series.identity)


def read_series(
    series: SeriesFiles, settings: IngestSettings, key: bytes, told: SeriesDescription | None = None
) -> IngestedSeries:
    """Read one series, and decide whether it is included.

    The voxels are read only if nothing in the headers excludes the series, which saves most of the reading in an
    export where most series are thick, soft, or of other parts.

    Parameters
    ----------
    series : SeriesFiles
        From `group_series`.
    settings : IngestSettings
        The rules.
    key : bytes
        The key of the pseudonyms.
    told : SeriesDescription, optional
        What a table says of a volume file, in place of a header.

    Returns
    -------
    IngestedSeries
        Nothing is raised for what is wrong with the files: it is among the record's reasons.
    """
    plan = _plan(series, settings, told)
    record = _record(series, plan, settings, key)
    reasons = reasons_for_exclusion(record, settings)
    if reasons or plan.grid is None:
        return IngestedSeries(replace(record, reasons=reasons))
    try:
        voxels = _read_voxels(series)
        has_text = "text_in_border" not in settings.let_in and has_text_in_border(voxels)
        volume = align(voxels, plan.grid)
    except VolumeError as error:
        n_unreadable = error.n_images if isinstance(error, UnreadableImagesError) else 0
        record = replace(record, problems=(*record.problems, error.code), n_unreadable=n_unreadable)
        return IngestedSeries(replace(record, reasons=reasons_for_exclusion(record, settings)))
    record = replace(
        record,
        problems=(*record.problems, "text_in_border") if has_text else record.problems,
        spacing_zyx_mm=volume.spacing_mm,
        content_hash=content_hash(volume.voxels),
        lung_ml=round(lung_volume_ml(segment_lungs(volume, spacing_mm=3.0)), 1),
    )
    found = measure_acquisition(volume)
    record = replace(
        record,
        noise_hu=_rounded(found.noise_hu),
        edge_mm=_rounded(found.edge_mm),
        sharpness=_rounded(found.sharpness(volume.spacing_mm[2])),
    )
    record = _calibrated(record, volume, settings)
    reasons = reasons_for_exclusion(record, settings)
    record = replace(record, included=not reasons, reasons=reasons)
    return IngestedSeries(record, volume if record.included else None)


_ELSEWHERE = (100.0, 0.2)
"""Shift in HU and error of slope that are wrong in any part of the body; what is usual was learnt on chests."""


def _calibrated(record: SeriesRecord, volume: Volume, settings: IngestSettings) -> SeriesRecord:
    """With what the voxels tell of their own scale, and the problem if it is not that of HU."""
    found = measure_calibration(volume)
    shows_lung = (record.lung_ml or 0.0) >= settings.min_lung_ml
    max_shift_hu, max_slope_error = (
        limit if shows_lung else max(limit, elsewhere)
        for limit, elsewhere in zip((settings.max_hu_shift, settings.max_hu_slope_error), _ELSEWHERE, strict=True)
    )
    is_hu = found.is_hu(max_shift_hu, max_slope_error) or not settings.check_hu
    problems = record.problems if is_hu or "not_hu" in record.problems else (*record.problems, "not_hu")
    return replace(record, hu_shift=_rounded(found.shift_hu), hu_slope=_rounded(found.slope), problems=problems)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def content_hash(values: NDArray) -> str:
    """Hash of an array's shape and values: equal for equal voxels, whatever the headers say."""
    digest = hashlib.blake2b(repr((values.shape, values.dtype.str)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _plan(series: SeriesFiles, settings: IngestSettings, told: SeriesDescription | None = None) -> _Plan:
    """Everything that the headers tell; each part that fails adds a problem and leaves the rest."""
    problems = list(series.problems)
    description, grid, n_slices = SeriesDescription(), None, len(series.headers)
    if series.format == "none":
        return _Plan(description, None, 0, tuple(problems))
    try:
        if series.format == "volume":
            shape = read_file_header(series.headers[0].path)
            grid, n_slices = shape.grid, shape.n_slices
            description = told or description
        else:
            description = describe_dicom(series.headers[0].path)
            # Of an enhanced file the frames that were chosen count, not the first.
            facts = series.headers[0].facts
            kernel, thickness = facts.kernel.partition("\\")[0], facts.thickness_mm
            kernel = "" if kernel.upper() == "NONE" else kernel
            description = replace(
                description,
                kernel=kernel or description.kernel,
                slice_thickness_mm=thickness if thickness and thickness > 0 else description.slice_thickness_mm,
            )
            if not series.problems:
                grid = grid_of_stack(series.headers, settings.max_gap_mm, description.slice_thickness_mm)
    except VolumeError as error:
        problems.append(error.code)
        n_slices = 0 if error.code in ("unreadable_header", "not_3d") else n_slices
    return _Plan(description, grid, n_slices, tuple(problems))


def _record(series: SeriesFiles, plan: _Plan, settings: IngestSettings, key: bytes) -> SeriesRecord:
    told = plan.description
    known = settings.known_texts
    patient_id = patient_pseudonym(key, told.patient_issuer, told.patient_id, series.study_identity)
    day = shifted_date(key, patient_id, told.acquired_on).isoformat() if told.acquired_on else None
    distance = float(np.linalg.norm(plan.grid.steps_mm[0])) if plan.grid is not None and plan.n_slices > 1 else None
    return SeriesRecord(
        volume_id=volume_id_of(series, key),
        patient_id=patient_id,
        study_id=pseudonym(key, "study", series.study_identity),
        series_number=told.series_number,
        manufacturer=plain_text(key, "manufacturer", told.manufacturer, known),
        model=plain_text(key, "model", told.model, known),
        kernel=plain_text(key, "kernel", told.kernel, known),
        slice_thickness_mm=told.slice_thickness_mm,
        slice_distance_mm=None if distance is None else round(distance, 4),
        n_slices=plan.n_slices,
        spacing_zyx_mm=None if plan.grid is None else aligned_spacing_mm(plan.grid),
        age_years=told.age_years,
        sex=told.sex,
        acquired_on=day,
        contrast=told.contrast,
        accession_id=pseudonym(key, "accession", told.accession_number) if told.accession_number else None,
        n_images=n_images_of(series),
        n_set_aside=series.n_set_aside,
        set_aside=tuple(f"{code} {n}" for code, n in series.set_aside),
        is_shortened=series.is_shortened,
        problems=plan.problems,
    )


def n_images_of(series: SeriesFiles) -> int:
    """Images of a series that were seen: those of the stack, those outside it, and copies."""
    n_files = sum(header.format != "none" for header in series.headers)
    return n_files + series.n_set_aside + series.n_repeated


def _read_voxels(series: SeriesFiles) -> NDArray[np.int16]:
    if series.format == "volume":
        return read_file_voxels(series.headers[0].path)
    return read_stack(series.headers, series.twins)
