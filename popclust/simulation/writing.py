"""A planned volume written to disk, the tables of the population, and the atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.imaging.volume import Vector, Volume
from popclust.normalization.transform import DisplacementField
from popclust.simulation.anatomy import LANDMARKS_MM
from popclust.simulation.branching import lung_points
from popclust.simulation.canvas import Grid
from popclust.simulation.dicom_series import write_series
from popclust.simulation.disease import Disease
from popclust.simulation.person import Person, PersonTraits
from popclust.simulation.population import FileFormat, VolumePlan
from popclust.simulation.rendering import Exposure, Lungs, Rendering, render
from popclust.simulation.reporting import write_report
from popclust.simulation.scanner import SCANNERS

N_POINTS = 200
"""Points of known correspondence per volume."""
NODE_SPACING_MM = 8.0
"""Distance between the nodes of the stored true transforms."""
ATLAS_GRID = Grid((160, 128, 164), (2.0, 2.4, 2.3), (-180.0, -152.0, -187.5))
"""Voxels of the written atlas and templates, before a template's own position."""
_TRANSFORM_GRID = Grid((43, 39, 47), (NODE_SPACING_MM,) * 3, (-190.0, -150.0, -184.0))


@dataclass(frozen=True)
class VolumeRecord:
    """The truth about one written series: a row of truth.parquet, and the report."""

    index: int
    """Place in the plan."""
    seed: int
    """Seed of the population."""
    series_instance_uid: str
    """SeriesInstanceUID; with NIfTI, the name of the file."""
    study_instance_uid: str
    """StudyInstanceUID."""
    accession_number: str
    """AccessionNumber."""
    patient: str
    """PatientID."""
    group: str
    """The planted group."""
    severity: float
    """Its severity."""
    eligible: bool
    """Whether the default inclusion rules take the series."""
    expected_reasons: tuple[str, ...]
    """Codes of the rules that it breaks."""
    findings: tuple[str, ...]
    """RadLex ids of what is there."""
    points_atlas_mm: NDArray[np.float64]
    """(n, 3) lung positions zyx in the atlas."""
    points_volume_mm: NDArray[np.float64]
    """(n, 3) the same points in the volume, all within its field of view."""
    lung_volume_ml: float
    """Lung in the field of view."""
    lung_density_hu: float
    """Planned density of healthy tissue."""
    kernel: str
    """Reconstruction kernel."""
    manufacturer: str
    """Manufacturer."""
    language: str
    """Language of the report."""
    report: str | None
    """Its text, None if there is none."""


def write_volume(plan: VolumePlan, out_dir: Path, file_format: FileFormat = "dicom") -> VolumeRecord:
    """Draw, scan and write one planned series with its true transform.

    Parameters
    ----------
    plan : VolumePlan
        From `plan_population`.
    out_dir : pathlib.Path
        The population's folder: DICOM/<patient>/<study>/<series>/ or NIfTI/<series>.nii.gz, and transforms/.
    file_format : {"dicom", "nifti"}
        NIfTI files tell neither kernel nor patient.

    Returns
    -------
    VolumeRecord
        Depends on the plan alone.
    """
    out_dir = Path(out_dir)
    person, grid = Person(plan.body), plan.exposure.grid
    drawn = render(plan.body, plan.lungs, plan.diseases, plan.exposure)
    volume = Volume(drawn.hu, grid.spacing_mm, grid.origin_mm)
    if file_format == "dicom":
        _write_dicom(volume, plan, out_dir)
    else:
        (out_dir / "NIfTI").mkdir(parents=True, exist_ok=True)
        write_nifti(volume, out_dir / "NIfTI" / f"{plan.identity.series_instance_uid}.nii.gz")
    _write_transform(person, grid, out_dir / "transforms" / f"{plan.identity.series_instance_uid}.npz")
    return _record(plan, person, drawn)


def write_tables(records: Sequence[VolumeRecord], out_dir: Path, *, n_stray_reports: int = 2) -> None:
    """Write reports.csv and truth.parquet.

    Parameters
    ----------
    records : sequence of VolumeRecord
        In any order.
    out_dir : pathlib.Path
        The population's folder.
    n_stray_reports : int
        Reports of studies that have no volume.
    """
    records = sorted(records, key=lambda record: record.index)
    rows = [asdict(record) for record in records]
    reports = [
        {
            "study_instance_uid": row["study_instance_uid"],
            "series_instance_uid": row["series_instance_uid"],
            "accession_number": row["accession_number"],
            "language": row["language"],
            "text": row["report"],
        }
        for row in rows
        if row["report"] is not None
    ]
    seed = records[0].seed if records else 0
    reports += [_stray_report(seed, i) for i in range(n_stray_reports)]
    out_dir = Path(out_dir)
    columns = ["study_instance_uid", "series_instance_uid", "accession_number", "language", "text"]
    pd.DataFrame(reports, columns=columns).to_csv(out_dir / "reports.csv", index=False)
    truth = pd.DataFrame(rows).drop(columns=["report", "accession_number", "seed"])
    for name in ("points_atlas_mm", "points_volume_mm"):
        truth[name] = [points.tolist() for points in truth[name]]
    for name in ("expected_reasons", "findings"):
        truth[name] = [list(values) for values in truth[name]]
    truth.to_parquet(out_dir / "truth.parquet", index=False)


def write_atlas(out_dir: Path, n_templates: int, seed: int) -> list[Path]:
    """Write the atlas and healthy templates that differ in size and breathing, each with landmarks and lungs.

    Parameters
    ----------
    out_dir : pathlib.Path
        The population's folder; files go to its atlas/ folder as <name>.nii.gz, <name>_lungs.nii.gz and
        <name>_landmarks.csv (columns label, x_mm, y_mm, z_mm; LPS).
    n_templates : int
        Templates beside the atlas.
    seed : int
        Seed of the templates' bodies.

    Returns
    -------
    list of pathlib.Path
        The image files, the atlas first.
    """
    folder = Path(out_dir) / "atlas"
    folder.mkdir(parents=True, exist_ok=True)
    bodies = {"atlas": PersonTraits()} | {
        f"template_{i + 1:02d}": _template_body(i, n_templates, seed) for i in range(n_templates)
    }
    written = []
    for i, (name, body) in enumerate(bodies.items()):
        z, y, x = (o + p for o, p in zip(ATLAS_GRID.origin_mm, body.position_mm, strict=True))
        size = max(body.scale_zyx)
        dz, dy, dx = (size * s for s in ATLAS_GRID.spacing_mm)
        grid = Grid(ATLAS_GRID.shape, (dz, dy, dx), (z * size, y * size, x * size))
        exposure = Exposure(grid, SCANNERS[0].sharp[0], 14.0, 0.15, 90.0, None, seed + i)
        healthy = (Disease("normal", 0.0, 0.5, 0, ()),)
        drawn = render(body, Lungs(mean_hu=-868.0, texture_hu=18.0, twig_seed=7 + i), healthy, exposure)
        written.append(folder / f"{name}.nii.gz")
        write_nifti(Volume(drawn.hu, grid.spacing_mm, grid.origin_mm), written[-1])
        write_nifti(
            Volume(drawn.lung.astype(np.uint8), grid.spacing_mm, grid.origin_mm), folder / f"{name}_lungs.nii.gz"
        )
        _write_landmarks(Person(body), folder / f"{name}_landmarks.csv")
    return written


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume with ITK, which keeps the patient space (LPS here, RAS in the file)."""
    import itk

    image = itk.image_from_array(np.ascontiguousarray(volume.voxels))
    image.SetSpacing(volume.spacing_mm[::-1])
    image.SetOrigin(volume.origin_mm[::-1])
    itk.imwrite(image, str(path), compression=True)


def _template_body(number: int, n_templates: int, seed: int) -> PersonTraits:
    # Spread over small and shallow to large and deep.
    rng = np.random.default_rng([seed, 8, number])
    place = (number + 0.5) / n_templates * 2 - 1
    scale = tuple(float(np.clip(1 + 0.05 * place + rng.normal(0, 0.015), 0.9, 1.1)) for _ in range(3))
    return PersonTraits(
        warp_seed=int(rng.integers(2**31)),
        warp_mm=8.0,
        scale_zyx=(scale[0], scale[1], scale[2]),
        diaphragm_mm=14.0 * place,
    )


def _write_landmarks(person: Person, path: Path) -> None:
    z, y, x = person.to_volume(np.array(list(LANDMARKS_MM.values()))).T.round(2)
    pd.DataFrame({"label": list(LANDMARKS_MM), "x_mm": x, "y_mm": y, "z_mm": z}).to_csv(path, index=False)


def _write_dicom(volume: Volume, plan: VolumePlan, out_dir: Path) -> None:
    who = plan.identity
    series = f"S{who.series_number:02d}_{who.series_instance_uid[-6:]}"
    folder = Path(who.patient, who.accession_number, series)
    write_series(volume, plan, out_dir / "DICOM" / folder)
    if plan.in_import_folder:
        write_series(volume, plan, out_dir / "DICOM" / "import" / who.accession_number / series)


def _write_transform(person: Person, grid: Grid, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    forward = DisplacementField.sampled(
        person.to_volume, _TRANSFORM_GRID.shape, _TRANSFORM_GRID.spacing_mm, _TRANSFORM_GRID.origin_mm
    )
    nodes: Vector = (NODE_SPACING_MM,) * 3
    extent = [(n - 1) * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    shape = tuple(int(np.ceil(e / NODE_SPACING_MM)) + 1 for e in extent)
    backward = DisplacementField.sampled(person.to_atlas, shape, nodes, grid.origin_mm)
    arrays = {
        f"{name}_{part}": np.asarray(getattr(field, part))
        for name, field in (("to_volume", forward), ("to_atlas", backward))
        for part in ("displacement_mm", "spacing_mm", "origin_mm")
    }
    np.savez(path, allow_pickle=False, **arrays)


def _record(plan: VolumePlan, person: Person, drawn: Rendering) -> VolumeRecord:
    grid, who = plan.exposure.grid, plan.identity
    atlas = lung_points(8 * N_POINTS, np.random.default_rng([plan.seed, 9, plan.index]))
    there = person.to_volume(atlas)
    low = np.asarray(grid.origin_mm)
    high = low + (np.asarray(grid.shape) - 1) * np.asarray(grid.spacing_mm)
    seen = np.flatnonzero(((there >= low) & (there <= high)).all(axis=1))[:N_POINTS]
    report = None
    if plan.has_report:
        report = write_report(plan.findings, plan.language, np.random.default_rng([plan.seed, 10, plan.index]))
    return VolumeRecord(
        index=plan.index,
        seed=plan.seed,
        series_instance_uid=who.series_instance_uid,
        study_instance_uid=who.study_instance_uid,
        accession_number=who.accession_number,
        patient=who.patient,
        group=plan.group,
        severity=plan.diseases[0].severity,
        eligible=not plan.expected_reasons,
        expected_reasons=plan.expected_reasons,
        findings=plan.findings,
        points_atlas_mm=atlas[seen],
        points_volume_mm=there[seen],
        lung_volume_ml=float(drawn.lung.sum() * np.prod(grid.spacing_mm) / 1000.0),
        lung_density_hu=plan.lungs.mean_hu,
        kernel=plan.exposure.kernel.name,
        manufacturer=SCANNERS[plan.scanner].manufacturer,
        language=plan.language,
        report=report,
    )


def _stray_report(seed: int, number: int) -> dict[str, str]:
    rng = np.random.default_rng([seed, 11, number])
    language = ("en", "de")[number % 2]
    text = write_report(("RID34539",), "de" if language == "de" else "en", rng)
    return {
        "study_instance_uid": f"2.25.{int(rng.integers(10**12, 10**13))}",
        "series_instance_uid": f"2.25.{int(rng.integers(10**12, 10**13))}",
        "accession_number": f"X{seed % 1000:03d}{number:05d}",
        "language": language,
        "text": text,
    }
