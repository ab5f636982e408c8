"""The simulated population: plan, reports, files, tables, and likeness to real lungs."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from popclust.errors import InputError
from popclust.features.haralick import sample_haralick
from popclust.imaging.selection import is_sharp
from popclust.imaging.volume import Volume
from popclust.normalization.transform import DisplacementField
from popclust.settings import HaralickSettings, IngestSettings
from popclust.simulation.disease import DEFAULT_GROUPS, GROUPS
from popclust.simulation.population import VolumePlan, plan_population
from popclust.simulation.rendering import render
from popclust.simulation.report_english import ENGLISH
from popclust.simulation.report_german import GERMAN
from popclust.simulation.reporting import BACKGROUND_FINDINGS, SHARED_FINDINGS, draw_findings, write_report
from popclust.simulation.writing import VolumeRecord, write_atlas, write_tables, write_volume

# ITK's modules warn when they are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")

RULES = IngestSettings()


@pytest.fixture(scope="module")
def plans() -> list[VolumePlan]:
    return plan_population(60, 3, not_eligible=0.1, duplicates=1)


@pytest.fixture(scope="module")
def written(plans: list[VolumePlan], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VolumePlan, VolumeRecord]:
    out = tmp_path_factory.mktemp("population")
    plan = dataclasses.replace(plans[0], in_import_folder=True)
    return out, plan, write_volume(plan, out)


def broken_rules(plan: VolumePlan) -> set[str]:
    shape, spacing = plan.exposure.grid.shape, plan.exposure.grid.spacing_mm
    broken = {
        "kernel_not_sharp": not is_sharp(plan.exposure.kernel.name, RULES.kernel_pattern),
        "too_few_slices": shape[0] < RULES.min_slices,
        "thickness_above_limit": plan.slice_thickness_mm > RULES.max_slice_thickness_mm,
        "distance_above_limit": spacing[0] > RULES.max_slice_thickness_mm,
    }
    return {code for code, is_broken in broken.items() if is_broken}


def test_the_plan_says_which_rules_each_series_breaks(plans: list[VolumePlan]) -> None:
    assert sum(not plan.expected_reasons for plan in plans) == 60
    for plan in plans:
        assert broken_rules(plan) == set(plan.expected_reasons) - {"no_lung", "duplicate_series"}
    assert {code for plan in plans for code in plan.expected_reasons} >= {
        "kernel_not_sharp",
        "thickness_above_limit",
        "no_lung",
        "duplicate_series",
    }


def test_the_plan_is_small_frozen_and_reproducible(plans: list[VolumePlan]) -> None:
    assert plan_population(60, 3, not_eligible=0.1, duplicates=1) == plans
    assert plan_population(60, 4, not_eligible=0.1, duplicates=1) != plans
    assert pickle.loads(pickle.dumps(plans[0])) == plans[0]  # noqa: S301
    assert len(pickle.dumps(plans[0])) < 4000
    with pytest.raises(dataclasses.FrozenInstanceError):
        plans[0].index = 1  # type: ignore[misc]


def test_patients_are_dealt_to_groups_in_equal_shares_and_some_return(plans: list[VolumePlan]) -> None:
    eligible = [plan for plan in plans if not plan.expected_reasons]
    group_of = {plan.identity.patient: plan.group for plan in eligible}
    counts = Counter(group_of.values())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(group_of) == round(60 / 1.1)
    uids = [plan.identity.series_instance_uid for plan in plans]
    assert len(set(uids)) == len(uids)


def test_nuisance_is_independent_of_the_group() -> None:
    plans = plan_population(300, 0, not_eligible=0, duplicates=0)
    density = {g: [p.lungs.mean_hu for p in plans if p.group == g] for g in GROUPS}
    means = [np.mean(values) for values in density.values() if values]
    assert np.ptp(means) < 25
    assert np.std([p.lungs.mean_hu for p in plans]) > 25


@pytest.mark.parametrize(
    "wrong", [{"groups": ["gout"]}, {"groups": []}, {"repeats": 1.5}, {"without_report": -0.1}, {"duplicates": -1}]
)
def test_wrong_plans_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        plan_population(10, 0, **wrong)


def test_every_finding_exists_in_radlex_and_in_both_languages(data_path: Callable[[str], Path]) -> None:
    with data_path("radlex/radlex_2017_label_rid_parent.csv").open(encoding="utf-8") as file:
        known = {row[1] for row in csv.reader(file)}
    drawn = {term for traits in GROUPS.values() for term, _ in traits.findings} | {t for t, _ in BACKGROUND_FINDINGS}
    assert drawn <= set(ENGLISH)
    assert set(ENGLISH) == set(GERMAN)
    assert set(ENGLISH) <= known


def test_reports_mention_omit_and_negate_as_stated() -> None:
    rng = np.random.default_rng(0)
    mentioned = absent = 0
    for _ in range(400):
        text = write_report(("RID34539",), "en", rng)
        mentioned += any(sentence in text for sentence in ENGLISH["RID34539"].present)
        absent += any(sentence in text for term in ENGLISH for sentence in ENGLISH[term].absent)
    assert 0.87 < mentioned / 400 < 0.98
    assert absent == 400


def test_findings_are_those_of_the_group() -> None:
    rng = np.random.default_rng(0)
    for group, traits in GROUPS.items():
        drawn = [draw_findings(group, rng) for _ in range(200)]
        allowed = {term for term, _ in (*traits.findings, *SHARED_FINDINGS, *BACKGROUND_FINDINGS)}
        assert {term for one in drawn for term in one} <= allowed
        for term, chance in traits.findings:
            assert np.mean([term in one for one in drawn]) == pytest.approx(chance, abs=0.12)


def test_shared_findings_tell_every_two_diseases_apart() -> None:
    pattern = {group: [group in groups for _, groups in SHARED_FINDINGS] for group in DEFAULT_GROUPS}
    for a, b in itertools.combinations(DEFAULT_GROUPS, 2):
        assert np.sum(np.not_equal(pattern[a], pattern[b])) >= 4


def test_the_series_is_what_was_drawn(written: tuple[Path, VolumePlan, VolumeRecord]) -> None:
    out, plan, record = written
    files = sorted((out / "DICOM" / plan.identity.patient).rglob("IM*"))
    slices = sorted((pydicom.dcmread(file) for file in files), key=lambda s: float(s.ImagePositionPatient[2]))
    grid = plan.exposure.grid
    assert len(slices) == grid.shape[0]
    stored = np.stack([s.pixel_array * s.RescaleSlope + s.RescaleIntercept for s in slices])
    drawn = render(plan.body, plan.lungs, plan.diseases, plan.exposure)
    seen = drawn.hu >= -1024
    np.testing.assert_array_equal(stored[seen], drawn.hu[seen])
    heights = np.array([float(s.ImagePositionPatient[2]) for s in slices])
    np.testing.assert_allclose(heights, grid.origin_mm[0] + grid.spacing_mm[0] * np.arange(grid.shape[0]), atol=1e-3)
    assert slices[0].SeriesInstanceUID == record.series_instance_uid
    assert slices[0].ConvolutionKernel == plan.exposure.kernel.name
    copied = sorted((out / "DICOM" / "import").rglob("IM*"))
    assert [f.read_bytes() for f in copied] == [f.read_bytes() for f in files]


def test_a_volume_depends_on_its_plan_alone(
    written: tuple[Path, VolumePlan, VolumeRecord], plans: list[VolumePlan], tmp_path: Path
) -> None:
    out, plan, record = written
    write_volume(plans[5], tmp_path)
    again = write_volume(plan, tmp_path)
    assert again.report == record.report
    np.testing.assert_array_equal(again.points_volume_mm, record.points_volume_mm)
    for old in sorted((out / "DICOM" / plan.identity.patient).rglob("IM*"))[::20] + list(out.rglob("*.npz")):
        assert (tmp_path / old.relative_to(out)).read_bytes() == old.read_bytes()


def test_the_true_points_agree_with_the_stored_transforms(written: tuple[Path, VolumePlan, VolumeRecord]) -> None:
    out, plan, record = written
    with np.load(out / "transforms" / f"{record.series_instance_uid}.npz") as stored:
        there, back = (
            DisplacementField(
                stored[f"{name}_displacement_mm"],
                tuple(stored[f"{name}_spacing_mm"].tolist()),
                tuple(stored[f"{name}_origin_mm"].tolist()),
            )
            for name in ("to_volume", "to_atlas")
        )
    assert record.points_atlas_mm.shape == (200, 3)
    assert np.abs(there(record.points_atlas_mm) - record.points_volume_mm).max() < 0.6
    assert np.abs(back(record.points_volume_mm) - record.points_atlas_mm).max() < 0.6
    grid = plan.exposure.grid
    index = (record.points_volume_mm - grid.origin_mm) / np.asarray(grid.spacing_mm)
    assert ((index >= 0) & (index <= np.asarray(grid.shape) - 1)).all()
    lung = render(plan.body, plan.lungs, plan.diseases, plan.exposure).lung
    assert lung[tuple(np.rint(index).astype(int).T)].mean() > 0.95


def test_tables(written: tuple[Path, VolumePlan, VolumeRecord], tmp_path: Path) -> None:
    _, _, record = written
    silent = dataclasses.replace(record, index=1, report=None, series_instance_uid="1.2.3")
    write_tables([silent, record], tmp_path)
    reports = pd.read_csv(tmp_path / "reports.csv", dtype=str)
    assert len(reports) == 3
    assert record.series_instance_uid in set(reports["series_instance_uid"])
    truth = pd.read_parquet(tmp_path / "truth.parquet")
    assert truth["index"].tolist() == [0, 1]
    assert truth["findings"][0].tolist() == list(record.findings)
    np.testing.assert_array_equal(np.stack(truth["points_atlas_mm"][0]), record.points_atlas_mm)


def test_the_atlas_and_templates_carry_landmarks_on_their_lungs(tmp_path: Path) -> None:
    import itk

    images = write_atlas(tmp_path, 1, 0)
    assert [path.name for path in images] == ["atlas.nii.gz", "template_01.nii.gz"]
    for path in images:
        image = itk.imread(str(path))
        lungs = itk.array_from_image(itk.imread(str(path).replace(".nii.gz", "_lungs.nii.gz")))
        spacing, origin = np.array(image.GetSpacing()), np.array(image.GetOrigin())
        assert np.median(itk.array_from_image(image)[lungs > 0]) == pytest.approx(-860, abs=40)
        marks = pd.read_csv(str(path).replace(".nii.gz", "_landmarks.csv"), index_col="label")
        apex = (marks.loc["apex_left"].to_numpy() - origin) / spacing
        top = np.argwhere(lungs)[:, 0].max()
        assert abs(apex[2] - top) * spacing[2] < 15


def test_normal_lungs_have_the_texture_of_real_ones(data_path: Callable[[str], Path]) -> None:
    import itk

    chosen = HaralickSettings(spacing_mm=3.0, step_mm=12.0)
    real = []
    for name in ("lidc0001", "lidc0002"):
        image = itk.imread(str(data_path(f"ct/{name}.nii.gz")))
        mask = itk.array_from_image(itk.imread(str(data_path(f"masks/{name}_lungs.nii.gz")))) > 0
        dx, dy, dz = image.GetSpacing()
        hu = itk.array_from_image(image).astype(np.float32)
        real.append(sample_haralick(Volume(hu, (dz, dy, dx)), Volume(mask, (dz, dy, dx)), chosen).features)
    low, high = np.percentile(np.concatenate(real), [5, 95], axis=0)
    simulated = []
    for plan in plan_population(4, 5, groups=["normal"], not_eligible=0, duplicates=0):
        drawn = render(plan.body, plan.lungs, plan.diseases[:1], plan.exposure)
        grid = plan.exposure.grid
        volume = Volume(np.maximum(drawn.hu, -1024).astype(np.float32), grid.spacing_mm, grid.origin_mm)
        simulated.append(sample_haralick(volume, volume.with_values(drawn.lung), chosen).features)
    median = np.median(np.concatenate(simulated), axis=0)
    assert (median > low).all()
    assert (median < high).all()
