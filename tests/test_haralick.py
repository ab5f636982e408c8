"""Dense texture of a lung: real data, reference values, bad input."""

from __future__ import annotations

import csv
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from popclust.errors import InputError, VolumeError
from popclust.features.glcm import glcm_features
from popclust.features.glcm_features import HARALICK_13, IBSI_25
from popclust.features.haralick import at_one_breath, grey_levels, mask_on, sample_haralick, step_voxels, window_voxels
from popclust.features.sampling import grid_points
from popclust.imaging.volume import Volume, resample
from popclust.settings import HaralickSettings

PYRADIOMICS_NAMES = {
    "Autocorrelation": "autocorrelation",
    "ClusterProminence": "cluster_prominence",
    "ClusterShade": "cluster_shade",
    "ClusterTendency": "cluster_tendency",
    "Contrast": "contrast",
    "Correlation": "correlation",
    "DifferenceAverage": "difference_average",
    "DifferenceEntropy": "difference_entropy",
    "DifferenceVariance": "difference_variance",
    "Id": "inverse_difference",
    "Idm": "inverse_difference_moment",
    "Idmn": "normalised_inverse_difference_moment",
    "Idn": "normalised_inverse_difference",
    "Imc1": "information_correlation_1",
    "Imc2": "information_correlation_2",
    "InverseVariance": "inverse_variance",
    "JointAverage": "joint_average",
    "JointEnergy": "angular_second_moment",
    "JointEntropy": "joint_entropy",
    "MaximumProbability": "joint_maximum",
    "SumEntropy": "sum_entropy",
    "SumSquares": "joint_variance",
}

IBSI_TAGS = {
    "joint_max": "joint_maximum",
    "joint_avg": "joint_average",
    "joint_var": "joint_variance",
    "joint_entr": "joint_entropy",
    "diff_avg": "difference_average",
    "diff_var": "difference_variance",
    "diff_entr": "difference_entropy",
    "sum_avg": "sum_average",
    "sum_var": "sum_variance",
    "sum_entr": "sum_entropy",
    "energy": "angular_second_moment",
    "contrast": "contrast",
    "dissimilarity": "dissimilarity",
    "inv_diff": "inverse_difference",
    "inv_diff_norm": "normalised_inverse_difference",
    "inv_diff_mom": "inverse_difference_moment",
    "inv_diff_mom_norm": "normalised_inverse_difference_moment",
    "inv_var": "inverse_variance",
    "corr": "correlation",
    "auto_corr": "autocorrelation",
    "clust_tend": "cluster_tendency",
    "clust_shade": "cluster_shade",
    "clust_prom": "cluster_prominence",
    "info_corr1": "information_correlation_1",
    "info_corr2": "information_correlation_2",
}


def voxels(path):
    """(z, y, x) values of a NIfTI file, in the file's own directions."""
    return np.ascontiguousarray(np.asanyarray(nibabel.load(path).dataobj).T)


def significant(value, digits=3):
    return float(f"{value:.{digits - 1}e}")


def test_equals_pyradiomics_at_200_points_of_a_real_lung(data_path):
    hu = voxels(data_path("oracle/lidc0001_2mm.nii.gz"))
    with data_path("oracle/glcm_lidc0001_2mm.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    points = np.array([[int(r[axis]) for axis in "zyx"] for r in rows])
    levels = grey_levels(hu, np.ones(hu.shape, bool), HaralickSettings())
    found = glcm_features(levels, points, window=9, n_levels=16, features="ibsi25")
    assert len(rows) == 200
    for theirs, ours in PYRADIOMICS_NAMES.items():
        wanted = np.array([float(r[theirs]) for r in rows])
        assert np.allclose(found[:, IBSI_25.index(ours)], wanted, rtol=1e-8, atol=0), ours


def ibsi_reference(path, suffix):
    with path.open() as lines:
        rows = {r["tag"]: r for r in csv.DictReader(lines, delimiter=";")}
    tags = {name: f"cm_{tag}_{suffix}" for tag, name in IBSI_TAGS.items()}
    return {name: (float(rows[t]["reference value"]), float(rows[t]["tolerance"])) for name, t in tags.items()}


def whole_region(levels, mask, aggregation):
    """One window that covers everything."""
    centre = [tuple(n // 2 for n in mask.shape)]
    window = 2 * max(mask.shape) + 1
    n_levels = int(levels[mask].max()) + 1
    found = glcm_features(
        np.where(mask, levels, 0),
        centre,
        window=window,
        n_levels=n_levels,
        mask=mask,
        aggregation=aggregation,
        features="ibsi25",
    )
    return dict(zip(IBSI_25, found[0].tolist(), strict=True))


@pytest.mark.parametrize(("aggregation", "suffix"), [("merged", "3D_comb"), ("averaged", "3D_avg")])
def test_ibsi_digital_phantom(data_path, aggregation, suffix):
    levels = voxels(data_path("ibsi/digital_phantom/nifti/image/phantom.nii.gz")).astype(int) - 1
    mask = voxels(data_path("ibsi/digital_phantom/nifti/mask/mask.nii.gz")) > 0
    wanted = ibsi_reference(data_path("ibsi/reference/ibsi_1_dig_phantom.csv"), suffix)
    assert len(wanted) == 25
    for name, value in whole_region(levels, mask, aggregation).items():
        assert significant(value) == wanted[name][0], name


def ibsi_interpolated(values, old, new):
    """Trilinear, the grid centred on the old one, its size rounded up (IBSI 2.4)."""
    factor = np.array(new) / np.array(old)
    shape = np.ceil(np.array(values.shape) / factor).astype(int)
    offset = (np.array(values.shape) - 1) / 2 - factor * (shape - 1) / 2
    return ndimage.affine_transform(
        values.astype(float), factor, offset, output_shape=tuple(shape), order=1, mode="nearest"
    )


@pytest.mark.parametrize(("aggregation", "suffix"), [("merged", "3D_comb"), ("averaged", "3D_avg")])
def test_ibsi_ct_phantom_configuration_c(data_path, aggregation, suffix):
    path = data_path("ibsi/ct_phantom/nifti/image/phantom.nii.gz")
    spacing = nibabel.load(path).header.get_zooms()[::-1]
    hu = np.round(ibsi_interpolated(voxels(path), spacing, (2, 2, 2)))
    roi = ibsi_interpolated(voxels(data_path("ibsi/ct_phantom/nifti/mask/mask.nii.gz")) > 0, spacing, (2, 2, 2)) >= 0.5
    roi &= (hu >= -1000) & (hu <= 400)
    box = ndimage.find_objects(roi.astype(int))[0]
    levels = np.clip(np.floor((hu + 1000) / 25), 0, 56).astype(int)
    wanted = ibsi_reference(data_path("ibsi/reference/ibsi_1_chest_config_c.csv"), suffix)
    for name, value in whole_region(levels[box], roi[box], aggregation).items():
        reference, tolerance = wanted[name]
        assert abs(significant(value) - reference) <= tolerance + 1e-9 * abs(reference), name


def chest(shape=(40, 44, 48), spacing=(2.0, 2.0, 2.0), seed=0):
    """A box of noisy lung in soft tissue, and its mask."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(40, 20, shape)
    lung = np.zeros(shape, dtype=bool)
    lung[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = True
    hu[lung] = rng.normal(-850, 60, lung.sum())
    return Volume(hu.round().astype(np.int16), spacing, (10.0, -20.0, 30.0)), Volume(lung, spacing, (10.0, -20.0, 30.0))


def test_samples_lie_on_the_grid_inside_the_lung():
    volume, lung = chest()
    samples = sample_haralick(volume, lung, HaralickSettings())
    index = volume.mm_to_index(samples.positions_mm).round().astype(int)
    assert samples.feature_names == HARALICK_13
    assert samples.features.dtype == np.float32
    assert samples.features.shape == (len(samples.positions_mm), 13)
    assert np.isfinite(samples.features).all()
    assert lung.voxels[tuple(index.T)].all()
    assert ((index - np.array(volume.shape) // 2) % 3 == 0).all()
    assert len(index) == grid_points(lung.voxels, 3).shape[0]


def test_window_and_step_are_lengths():
    chosen = HaralickSettings()
    assert (window_voxels(chosen), step_voxels(chosen)) == (9, 3)
    fine = replace(chosen, spacing_mm=1.0)
    assert (window_voxels(fine), step_voxels(fine)) == (19, 6)
    assert window_voxels(replace(chosen, window_mm=1.0)) == 3


def test_the_texture_of_one_anatomy_hardly_depends_on_the_spacing_it_was_stored_at():
    rng = np.random.default_rng(1)
    fine = Volume(
        (ndimage.gaussian_filter(rng.normal(0, 1, (96, 96, 96)), 4) * 6000 - 800).astype(np.int16), (1.0,) * 3
    )
    coarse = resample(fine, 2.0)
    lung = Volume(np.pad(np.ones((60, 60, 60), bool), 18), (1.0,) * 3)
    chosen = HaralickSettings()
    from_fine, from_coarse = (sample_haralick(v, lung, chosen) for v in (fine, coarse))
    assert np.allclose(from_fine.positions_mm, from_coarse.positions_mm)
    assert np.allclose(from_fine.features, from_coarse.features, rtol=1e-5, atol=1e-5)


def test_a_mask_on_another_grid_finds_the_same_points():
    volume, lung = chest()
    finer = Volume(np.repeat(np.repeat(np.repeat(lung.voxels, 2, 0), 2, 1), 2, 2), (1.0,) * 3, (9.5, -20.5, 29.5))
    cropped = Volume(lung.voxels[8:, 9:, 10:], lung.spacing_mm, (26.0, -2.0, 50.0))
    wanted = sample_haralick(volume, lung, HaralickSettings())
    for other in (finer, cropped):
        found = sample_haralick(volume, other, HaralickSettings())
        assert np.array_equal(found.positions_mm, wanted.positions_mm)
        assert np.array_equal(found.features, wanted.features)


def test_a_mask_beyond_the_volume_is_cut_off():
    volume, _ = chest((12, 12, 12))
    mask = Volume(np.ones((40, 40, 40), dtype=bool), (2.0,) * 3, (-10.0, -40.0, 10.0))
    assert mask_on(volume, mask).all()
    assert np.isfinite(sample_haralick(volume, mask, replace(HaralickSettings(), step_mm=2.0)).features).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_the_type_of_the_voxels_does_not_matter(dtype):
    volume, lung = chest()
    wanted = sample_haralick(volume, lung, HaralickSettings())
    found = sample_haralick(volume.with_values(volume.voxels.astype(dtype)), lung, HaralickSettings())
    assert np.array_equal(found.features, wanted.features)


def test_binning():
    hu = np.array([-3000, -1000, -913, -912, 399, 400, 3000]).reshape(1, 1, 7)
    everywhere = np.ones(hu.shape, bool)
    assert grey_levels(hu, everywhere, HaralickSettings()).ravel().tolist() == [0, 0, 0, 1, 15, 15, 15]
    volume, lung = chest()
    equalized = replace(HaralickSettings(), binning="equalized", n_levels=8)
    share = (
        np.bincount(grey_levels(volume.voxels, lung.voxels, equalized)[lung.voxels], minlength=8) / lung.voxels.sum()
    )
    assert share == pytest.approx(np.full(8, 1 / 8), abs=0.02)


def test_masked_windows_see_the_lung_alone():
    volume, lung = chest()
    changed = volume.with_values(np.where(lung.voxels, volume.voxels, 300).astype(np.int16))
    masked = replace(HaralickSettings(), masked=True, at_one_breath=False)
    before, after = (sample_haralick(v, lung, masked).features for v in (volume, changed))
    assert np.array_equal(before, after)
    before, after = (sample_haralick(v, lung, HaralickSettings()).features for v in (volume, changed))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_numbers_refuse_the_volume(value):
    volume, lung = chest()
    hu = volume.voxels.astype(np.float32)
    hu[20, 20, 20] = value
    with pytest.raises(VolumeError, match="not finite"):
        sample_haralick(volume.with_values(hu), lung, HaralickSettings())


def test_no_lung_refuses_the_volume():
    volume, lung = chest()
    elsewhere = Volume(lung.voxels, lung.spacing_mm, (1e4, 1e4, 1e4))
    for mask in (lung.with_values(np.zeros_like(lung.voxels)), elsewhere):
        with pytest.raises(VolumeError, match="no sampling point lies in the lung") as raised:
            sample_haralick(volume, mask, HaralickSettings())
        assert raised.value.code == "no_lung"


def test_a_mask_of_numbers_is_refused():
    volume, lung = chest()
    with pytest.raises(ValueError, match="lung: must be bool"):
        sample_haralick(volume, lung.with_values(lung.voxels.astype(np.uint8)), HaralickSettings())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": 0.0}, "spacing_mm"),
        ({"step_mm": float("nan")}, "step_mm"),
        ({"n_levels": 1}, "n_levels"),
        ({"n_levels": 257}, "n_levels"),
        ({"range_hu": (400.0, -1000.0)}, "range_hu"),
        ({"distances": (9,)}, "distances"),
        ({"distances": ()}, "distances"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    volume, lung = chest((8, 8, 8))
    with pytest.raises(InputError, match=rf"\[haralick\] {message}"):
        sample_haralick(volume, lung, replace(HaralickSettings(), **change))


def test_the_grid_depends_on_the_volume_alone():
    mask = np.zeros((11, 12, 13), dtype=bool)
    mask[2:9, 3:10, 1:12] = True
    everywhere = {tuple(p) for p in grid_points(np.ones_like(mask), 4)}
    assert (5, 6, 6) in everywhere
    assert {tuple(p) for p in grid_points(mask, 4)} == {p for p in everywhere if mask[p]}
    with pytest.raises(ValueError, match="step: must be at least 1"):
        grid_points(mask, 0)


def test_smoothing_hides_noise_and_keeps_shapes():
    rng = np.random.default_rng(5)
    volume, lung = chest()
    shapes = ndimage.gaussian_filter(rng.normal(0, 1, volume.shape), 3) * 2000 - 800
    quiet, loud = (volume.with_values((shapes + rng.normal(0, sd, volume.shape)).astype(np.int16)) for sd in (8, 40))

    def apart(settings: HaralickSettings) -> float:
        """Distance of the two scans in units of the spread within one."""
        a, b = (sample_haralick(v, lung, settings).features for v in (quiet, loud))
        return float(np.mean(np.abs(a.mean(axis=0) - b.mean(axis=0)) / a.std(axis=0)))

    assert apart(HaralickSettings()) < 0.2 * apart(replace(HaralickSettings(), smoothing_mm=0.0))


def test_the_depth_of_a_breath_is_no_texture():
    volume, lung = chest()
    deep = volume.with_values(np.where(lung.voxels, -1000 + (volume.voxels + 1000.0) * 0.7, volume.voxels))
    level = at_one_breath(deep, lung.voxels)
    assert np.median(level.voxels[lung.voxels]) == pytest.approx(-850, abs=40)  # a small lung, and its rim
    outside = ~lung.voxels & (deep.voxels >= 0)
    assert np.array_equal(level.voxels[outside], deep.voxels[outside])
    (as_is, moved), (before, after) = (
        [sample_haralick(v, lung, replace(HaralickSettings(), at_one_breath=flag)).features for v in (volume, deep)]
        for flag in (False, True)
    )
    assert np.abs(before - after).mean() < 0.5 * np.abs(as_is - moved).mean()
    for odd in (-1000, 40):
        constant = volume.with_values(np.full(volume.shape, odd, np.int16))
        assert at_one_breath(constant, lung.voxels) is constant
