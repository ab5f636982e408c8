"""The plan of a population: who has what, and how each series is scanned, before anything is drawn.

A plan is small, frozen and picklable; `popclust.simulation.writing.write_volume` turns one into files without
knowing the others, so they can be written in any order by any process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydicom.uid import generate_uid

from popclust.errors import InputError
from popclust.simulation.anatomy import LANDMARKS_MM
from popclust.simulation.canvas import Grid
from popclust.simulation.disease import DEFAULT_GROUPS, GROUPS, Disease
from popclust.simulation.person import Person, PersonTraits
from popclust.simulation.rendering import Exposure, Lungs
from popclust.simulation.reporting import Language, draw_findings
from popclust.simulation.scanner import SCANNERS

N_PIXELS = 128
"""Pixels along each edge of a slice."""

_NOT_ELIGIBLE = ("soft_kernel", "thick", "abdomen_only")
Generator = np.random.Generator


@dataclass(frozen=True)
class Identity:
    """Who and what a series claims to be: all of it made up."""

    patient: str
    """PatientID."""
    name: str
    """PatientName."""
    sex: str
    """M or F."""
    age_years: int
    """Age at the examination."""
    study_date: str
    """DICOM date."""
    accession_number: str
    """AccessionNumber."""
    study_instance_uid: str
    """StudyInstanceUID."""
    series_instance_uid: str
    """SeriesInstanceUID."""
    series_number: int
    """SeriesNumber."""


@dataclass(frozen=True)
class VolumePlan:
    """One series to be."""

    index: int
    """Place in the plan."""
    seed: int
    """Seed of the population."""
    identity: Identity
    """Header."""
    body: PersonTraits
    """The person's body and where it lies."""
    lungs: Lungs
    """Healthy lung tissue."""
    diseases: tuple[Disease, ...]
    """The group's disease first; perhaps a trace of another."""
    exposure: Exposure
    """How it is scanned."""
    scanner: int
    """Index in `SCANNERS`."""
    slice_thickness_mm: float
    """SliceThickness."""
    language: Language
    """Language of the report."""
    has_report: bool
    """Whether a report accompanies the study; of several series of a study only one carries it."""
    expected_reasons: tuple[str, ...] = ()
    """Codes of the cohort table if it is not eligible."""
    in_import_folder: bool = False
    """Written a second time under another folder, byte by byte."""

    @property
    def group(self) -> str:
        """Name of the planted group."""
        return self.diseases[0].group

    @property
    def findings(self) -> tuple[str, ...]:
        """RadLex ids of all that the person has."""
        return tuple(dict.fromkeys(term for disease in self.diseases for term in disease.findings))


@dataclass(frozen=True)
class _Patient:
    number: int
    group: str
    sex: str
    age_years: int
    warp_seed: int
    warp_mm: float
    scale_zyx: tuple[float, float, float]
    findings: tuple[str, ...]
    trace: str
    severity: float
    language: Language
    seeds: tuple[int, int, int] = field(default=(0, 0, 0))


def plan_population(
    n_volumes: int,
    seed: int,
    *,
    groups: Sequence[str] = DEFAULT_GROUPS,
    repeats: float = 0.1,
    not_eligible: float = 0.08,
    duplicates: int = 1,
    copies: int = 1,
    without_report: float = 0.05,
    german: float = 0.4,
) -> list[VolumePlan]:
    """Plan a population with planted groups.

    Parameters
    ----------
    n_volumes : int
        Eligible series.
    seed : int
        Everything follows from it.
    groups : sequence of str
        Keys of `GROUPS`; patients are dealt to them in equal shares.
    repeats : float
        Share of patients who come twice.
    not_eligible : float
        Further series that break an inclusion rule, as a share of `n_volumes`.
    duplicates : int
        Further series that hold the same images as another under new identifiers.
    copies : int
        Series whose files lie in a second folder too.
    without_report : float
        Share of studies without a report.
    german : float
        Share of patients whose reports are in German.

    Returns
    -------
    list of VolumePlan
        The eligible series first, in the order of patients.

    Raises
    ------
    InputError
        Unknown groups, or counts and shares out of range.
    """
    unknown = [name for name in groups if name not in GROUPS]
    if unknown or not groups:
        raise InputError(f"groups: {', '.join(unknown) or 'none given'}; choose among {', '.join(GROUPS)}")
    if n_volumes < 1 or seed < 0 or duplicates < 0 or copies < 0:
        raise InputError("volumes must be at least 1; seed, duplicates and copies must not be negative")
    if not all(0 <= share <= 1 for share in (repeats, not_eligible, without_report, german)):
        raise InputError("repeats, not_eligible, without_report and german are shares between 0 and 1")
    rng = np.random.default_rng([seed, 1])
    n_patients = max(1, round(n_volumes / (1 + repeats)))
    n_visits = np.ones(n_patients, int) + (rng.permutation(n_patients) < n_volumes - n_patients)
    dealt = rng.permutation(np.array([groups[i % len(groups)] for i in range(n_patients)]))
    plans: list[VolumePlan] = []
    for number in range(n_patients):
        patient = _draw_patient(number, str(dealt[number]), seed, german)
        for visit in range(n_visits[number]):
            has_report = bool(np.random.default_rng([seed, 4, number, visit]).random() >= without_report)
            plans.append(_plan_visit(len(plans), patient, visit, seed, has_report))
    for i in range(copies):
        plans[(7 * i + 3) % len(plans)] = replace(plans[(7 * i + 3) % len(plans)], in_import_folder=True)
    plans += [_not_eligible(plans, i, seed) for i in range(round(not_eligible * n_volumes))]
    return plans + [_duplicate(plans, i, seed) for i in range(duplicates)]


def _draw_patient(number: int, group: str, seed: int, german: float) -> _Patient:
    rng = np.random.default_rng([seed, 2, number])
    severity = float(rng.uniform(0.65, 1.0))
    traits = GROUPS[group]
    size = rng.normal(1.0, 0.05)
    z, y, x = (float(np.clip(size * rng.normal(1.0, 0.035), 0.86, 1.14)) for _ in range(3))
    findings = draw_findings(group, rng)
    others = [g for g in ("emphysema", "ground_glass", "nodules", "effusion") if g != group]
    return _Patient(
        number=number,
        group=group,
        sex=str(rng.choice(["M", "F"])),
        age_years=int(rng.integers(38, 88)),
        warp_seed=int(rng.integers(2**31)),
        warp_mm=float(rng.uniform(8.0, 15.0)),
        scale_zyx=(z, y * (1 + (traits.depth_scale - 1) * severity), x),
        findings=findings,
        trace=str(rng.choice(others)) if rng.random() < 0.1 else "",
        severity=severity,
        language="de" if rng.random() < german else "en",
        seeds=(int(rng.integers(2**31)), int(rng.integers(2**31)), int(rng.integers(2**31))),
    )


def _plan_visit(index: int, patient: _Patient, visit: int, seed: int, has_report: bool) -> VolumePlan:
    rng = np.random.default_rng([seed, 3, patient.number, visit])
    traits = GROUPS[patient.group]
    inspiration = float(np.clip(rng.normal(0.0, 1.0), -2.0, 2.0))
    body = PersonTraits(
        warp_seed=patient.warp_seed,
        warp_mm=patient.warp_mm,
        scale_zyx=patient.scale_zyx,
        rotation_deg=_vector(rng.normal(0.0, 1.8, 3)),
        diaphragm_mm=traits.diaphragm_mm * patient.severity + 8.0 * inspiration,
        position_mm=_vector([rng.uniform(-1200, 300), rng.normal(0, 12), rng.normal(0, 6)]),
    )
    # Deep breaths make lungs larger and darker; the rest of the spread is the person's own.
    mean_hu = float(np.clip(-862.0 - 26.0 * inspiration + rng.normal(0, 24.0), -920.0, -785.0))
    scanner = int(rng.integers(len(SCANNERS)))
    exposure, thickness = _expose(body, scanner, rng)
    return VolumePlan(
        index=index,
        seed=seed,
        identity=_identity(patient, visit, seed, rng),
        body=body,
        lungs=_lungs(patient, mean_hu, rng),
        diseases=_diseases(patient, rng),
        exposure=exposure,
        scanner=scanner,
        slice_thickness_mm=thickness,
        language=patient.language,
        has_report=has_report,
    )


def _lungs(patient: _Patient, mean_hu: float, rng: Generator) -> Lungs:
    # A third breathes shallowly: the dependent lung grows dense, smoothly, whatever else they have.
    shallow = float(rng.uniform(100, 260)) if rng.random() < 0.35 else float(rng.uniform(0, 50))
    return Lungs(
        mean_hu=mean_hu,
        gravity_hu=float(rng.uniform(15, 60)),
        dependent_hu=shallow,
        texture_hu=float(rng.uniform(16, 22)),
        twig_seed=patient.seeds[0],
    )


def _diseases(patient: _Patient, rng: Generator) -> tuple[Disease, ...]:
    severity = float(np.clip(patient.severity + rng.normal(0, 0.04), 0.6, 1.0))
    right = float(np.clip(np.random.default_rng(patient.seeds[1]).normal(0.5, 0.06), 0.35, 0.65))
    own = Disease(patient.group, severity, right, patient.seeds[1], patient.findings)
    if not patient.trace:
        return (own,)
    return own, Disease(patient.trace, 0.12, 0.5, patient.seeds[2], (GROUPS[patient.trace].findings[0][0],))


def _identity(patient: _Patient, visit: int, seed: int, rng: Generator) -> Identity:
    key = f"popclust simulation {seed} {patient.number}"
    return Identity(
        patient=f"SIM{seed % 1000:03d}{patient.number:05d}",
        name=f"Simulated^Person{patient.number:05d}",
        sex=patient.sex,
        age_years=patient.age_years + visit,
        study_date=f"{2012 + visit + patient.number % 3}{int(rng.integers(1, 13)):02d}{int(rng.integers(1, 29)):02d}",
        accession_number=f"A{seed % 1000:03d}{patient.number:05d}{visit:02d}",
        study_instance_uid=generate_uid(entropy_srcs=[key, "study", str(visit)]),
        series_instance_uid=generate_uid(entropy_srcs=[key, "series", str(visit), "3"]),
        series_number=3,
    )


def _expose(body: PersonTraits, scanner: int, rng: Generator) -> tuple[Exposure, float]:
    make = SCANNERS[scanner]
    contrast = float(rng.uniform(60, 170)) if rng.random() < 0.45 else 0.0
    view = str(rng.choice(["full", "lower_cut", "upper_cut", "abdomen"], p=[0.78, 0.06, 0.06, 0.10]))
    exposure = Exposure(
        grid=_grid(body, view, rng),
        kernel=make.sharp[rng.integers(len(make.sharp))],
        noise_hu=float(rng.uniform(*make.noise_hu)),
        low_noise=make.noise_correlation,
        contrast_hu=contrast,
        padding_hu=make.padding_hu,
        seed=int(rng.integers(2**31)),
    )
    # Many protocols let slices overlap a little.
    overlap = float(rng.choice([1.0, 1.0, 1.2]))
    return exposure, min(3.0, round(exposure.grid.spacing_mm[0] * overlap, 2))


def _grid(body: PersonTraits, view: str, rng: Generator) -> Grid:
    person = Person(body)
    marks = person.to_volume(np.array([v for k, v in LANDMARKS_MM.items() if k.startswith(("apex", "recess"))]))
    top, bottom = float(marks[:, 0].max()) + rng.uniform(12, 25), float(marks[:, 0].min()) - rng.uniform(14, 28)
    if view == "abdomen":
        bottom -= rng.uniform(40, 70)
    if view == "lower_cut":
        bottom += 0.26 * (top - bottom)
    if view == "upper_cut":
        top -= 0.26 * (top - bottom)
    # The widest slice distance of the protocol that still gives more than 100 slices.
    distances = [d for d in (3.0, 2.5, 2.0, 1.5) if (top - bottom) / d >= 104] or [1.5]
    distance = distances[0] if rng.random() < 0.7 else distances[min(1, len(distances) - 1)]
    n_slices = max(104, int(np.ceil((top - bottom) / distance)))
    width = 345.0 * max(body.scale_zyx[2], 0.95) + rng.uniform(0, 35)
    pixel = round(width / N_PIXELS, 4)
    centre = np.array(body.position_mm[1:]) + rng.normal(0, 4, 2) + [6.0, 0.0]
    y, x = (float(np.round(c - pixel * (N_PIXELS - 1) / 2, 3)) for c in centre)
    return Grid((n_slices, N_PIXELS, N_PIXELS), (distance, pixel, pixel), (round(bottom, 1), y, x))


def _not_eligible(plans: list[VolumePlan], number: int, seed: int) -> VolumePlan:
    kind = _NOT_ELIGIBLE[number % len(_NOT_ELIGIBLE)]
    rng = np.random.default_rng([seed, 5, number])
    eligible = [plan for plan in plans if not plan.expected_reasons]
    base = eligible[int(rng.integers(len(eligible)))]
    plan = _renamed(base, len(plans), f"not eligible {number}", 4 + number)
    grid, make = base.exposure.grid, SCANNERS[base.scanner]
    if kind == "soft_kernel":
        exposure = replace(base.exposure, kernel=make.soft[rng.integers(len(make.soft))])
        return replace(plan, exposure=exposure, expected_reasons=("kernel_not_sharp",))
    if kind == "thick":
        n_slices = int(grid.shape[0] * grid.spacing_mm[0] / 5.0)
        thick = Grid((n_slices, *grid.shape[1:]), (5.0, *grid.spacing_mm[1:]), grid.origin_mm)
        reasons = ("too_few_slices", "thickness_above_limit", "distance_above_limit")
        plan = replace(plan, slice_thickness_mm=5.0, expected_reasons=reasons)
        return replace(plan, exposure=replace(base.exposure, grid=thick))
    recess = Person(base.body).to_volume(np.array([LANDMARKS_MM["recess_right"], LANDMARKS_MM["recess_left"]]))
    low = round(float(recess[:, 0].min()) - 155.0, 1)
    abdomen = Grid((105, *grid.shape[1:]), (1.5, *grid.spacing_mm[1:]), (low, *grid.origin_mm[1:]))
    plan = replace(plan, exposure=replace(base.exposure, grid=abdomen), slice_thickness_mm=1.5)
    return replace(plan, expected_reasons=("no_lung",))


def _duplicate(plans: list[VolumePlan], number: int, seed: int) -> VolumePlan:
    eligible = [plan for plan in plans if not plan.expected_reasons]
    base = eligible[int(np.random.default_rng([seed, 6, number]).integers(len(eligible)))]
    plan = _renamed(base, len(plans) + number, f"duplicate {number}", base.identity.series_number)
    return replace(plan, expected_reasons=("duplicate_series",), in_import_folder=False)


def _renamed(base: VolumePlan, index: int, name: str, series_number: int) -> VolumePlan:
    uid = generate_uid(entropy_srcs=[base.identity.series_instance_uid, name])
    identity = replace(base.identity, series_instance_uid=uid, series_number=series_number)
    return replace(base, index=index, identity=identity, has_report=False, in_import_folder=False)


def _vector(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    z, y, x = (round(float(v), 3) for v in values)
    return z, y, x


FileFormat = Literal["dicom", "nifti"]
"""How volumes are written."""
