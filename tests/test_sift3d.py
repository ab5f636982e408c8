"""Keypoints of blobs whose place and size are known, invariance, and dense sampling."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from popclust.features import extrema, scale_space, sift_descriptor
from popclust.features.sift3d import Keypoints, detect_keypoints, sample_sift
from popclust.features.sift_sites import Sites
from popclust.imaging.volume import Volume
from popclust.settings import SiftSettings

SETTINGS = SiftSettings()


def blobs(centres_mm: NDArray, sigmas_mm: NDArray, heights_hu: NDArray, shape=(64, 64, 64), spacing=(2.0, 2.0, 2.0)):
    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"), -1)
    values = np.full(shape, -800.0, np.float32)
    for centre, sigma, height in zip(centres_mm, sigmas_mm, heights_hu, strict=True):
        values += height * np.exp(-0.5 * ((grid - centre) ** 2).sum(-1) / sigma**2)
    return Volume(values, spacing)


def rough(seed: int = 0, shape=(56, 56, 56)) -> Volume:
    """Smooth random matter with structure at several scales."""
    rng = np.random.default_rng(seed)
    layers = [ndimage.gaussian_filter(rng.normal(size=shape), s) * s**1.5 for s in (1.5, 3.0, 6.0)]
    return Volume((sum(layers) * 600.0 - 500.0).astype(np.float32), (2.0, 2.0, 2.0), (-300.0, 10.0, -50.0))


def test_blob_is_found_at_its_place_scale_and_sign():
    centres = np.array([[60.0, 61.3, 64.9], [64.4, 64.0, 30.0]])
    volume = blobs(centres, np.array([5.0, 5.0]), np.array([400.0, -400.0]))
    found = detect_keypoints(volume, SETTINGS)
    for centre, sign in zip(centres, (1, -1), strict=True):
        near = np.linalg.norm(found.position_mm - centre, axis=1) < 0.4
        assert near.any()
        assert set(found.contrast[near]) == {sign}
        # A Gaussian blob answers most to the Laplacian at sqrt(2/3) of its sigma; the differences' scale names
        # the narrower of its two Gaussians, a level apart.
        assert found.scale_mm[near][0] == pytest.approx(5.0 * np.sqrt(2 / 3), rel=0.15)


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_scale_follows_the_size_of_the_blob(factor):
    centre = np.array([[63.0, 63.0, 63.0]])
    one, other = (
        detect_keypoints(blobs(centre, np.array([s]), np.array([400.0])), SETTINGS).scale_mm[0]
        for s in (5.0, 5.0 * factor)
    )
    assert other / one == pytest.approx(factor, rel=0.12)


def test_positions_and_scales_are_in_mm_whatever_the_spacing():
    centre, sigma, height = np.array([[60.0, 63.0, 66.0]]), np.array([7.0]), np.array([500.0])
    fine = detect_keypoints(blobs(centre, sigma, height), SETTINGS)
    coarse = blobs(centre, sigma, height, shape=(32, 85, 85), spacing=(4.0, 1.5, 1.5))
    shifted = Volume(coarse.voxels, coarse.spacing_mm, (100.0, -40.0, 7.0))
    other = detect_keypoints(shifted, SETTINGS)
    assert np.allclose(other.position_mm[0] - (100.0, -40.0, 7.0), fine.position_mm[0], atol=1.0)
    assert other.scale_mm[0] == pytest.approx(fine.scale_mm[0], rel=0.1)


def test_plates_and_edges_are_refused():
    values = np.full((48, 48, 48), -800.0, np.float32)
    values[20:26] = 0.0
    assert len(detect_keypoints(Volume(values, (2.0, 2.0, 2.0)), SETTINGS)) == 0


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_quarter_turn_turns_positions_and_frames_and_keeps_descriptors(k):
    volume = rough()
    turned = volume.with_values(np.ascontiguousarray(np.rot90(volume.voxels, k, axes=(1, 2))))
    rotation = np.eye(3)
    rotation[1:, 1:] = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), k)
    centre = volume.index_to_mm([(np.asarray(volume.shape) - 1) / 2])[0]
    a, b = detect_keypoints(volume, SETTINGS), detect_keypoints(turned, SETTINGS)
    expected = (a.position_mm - centre) @ rotation.T + centre
    frames = np.einsum("nij,kj->nik", a.frame, rotation)
    same = 0
    for i in range(len(a)):
        gap = np.linalg.norm(b.position_mm - expected[i], axis=1) + 10 * np.abs(b.frame - frames[i]).max(axis=(1, 2))
        j = int(gap.argmin())
        same += gap[j] < 0.1 and np.mean(a.descriptor[i] == b.descriptor[j]) > 0.9
    assert len(a) > 30
    assert same > 0.95 * len(a)


def test_frames_are_rotations_and_descriptors_are_ranks():
    found = detect_keypoints(rough(1), SETTINGS)
    assert len(found) > 20
    assert np.allclose(np.einsum("nij,nkj->nik", found.frame, found.frame), np.eye(3), atol=1e-4)
    assert np.all(np.linalg.det(found.frame) > 0)
    assert np.array_equal(np.sort(found.descriptor, axis=1), np.tile(np.arange(64, dtype=np.uint8), (len(found), 1)))


def test_equal_input_gives_equal_bytes_and_the_strongest_stay_under_a_limit():
    volume = rough(2)
    one, two = detect_keypoints(volume, SETTINGS), detect_keypoints(volume, SETTINGS)
    for field in fields(Keypoints):
        assert getattr(one, field.name).tobytes() == getattr(two, field.name).tobytes()
    few = detect_keypoints(volume, replace(SETTINGS, max_locations=5))
    assert len(np.unique(few.position_mm, axis=0)) == 5
    assert np.array_equal(few.position_mm, one.position_mm[: len(few)])


def test_balls_lie_inside_the_volume():
    volume = rough(3)
    found = detect_keypoints(volume, SETTINGS)
    index = volume.mm_to_index(found.position_mm)
    room = np.minimum(index, np.asarray(volume.shape) - 1 - index).min(axis=1) * 2.0
    assert np.all(room >= sift_descriptor.SUPPORT_SIGMAS * found.scale_mm)


def test_nothing_is_found_in_nothing():
    for shape in ((40, 40, 40), (3, 40, 40)):
        empty = Volume(np.full(shape, -1024, np.int16), (2.0, 2.0, 2.0))
        found = detect_keypoints(empty, SETTINGS)
        assert len(found) == 0
        assert found.descriptor.shape == (0, 64)
        assert len(sample_sift(empty, empty.with_values(np.zeros(shape, bool)), SETTINGS)) == 0


@pytest.mark.parametrize("sampling", ["keypoints", "dense"])
def test_words_come_from_the_lung_only(sampling):
    volume = rough(4)
    lung = np.zeros((28, 28, 28), bool)
    lung[:, :14] = True
    mask = Volume(lung, (4.0, 4.0, 4.0), volume.origin_mm)
    found = sample_sift(volume, mask, replace(SETTINGS, sampling=sampling))
    assert len(found) > 3
    assert np.all(found.position_mm[:, 1] <= volume.origin_mm[1] + 14 * 4.0)


def test_micro_and_macro_part_at_the_diameter():
    volume = rough(5)
    found = sample_sift(volume, volume.with_values(np.ones(volume.shape, bool)), SETTINGS)
    micro, macro = found.micro(SETTINGS), found.macro(SETTINGS)
    assert len(micro) + len(macro) == len(found)
    assert micro.diameter_mm.max() <= SETTINGS.micro_macro_mm < macro.diameter_mm.min()
    assert np.allclose(found.diameter_mm, SETTINGS.diameter_sigmas * found.scale_mm)


def test_dense_descriptors_are_relative_to_the_atlas():
    """A volume lying a quarter turn from the atlas is described as the one that lies as the atlas does."""
    volume = rough(6)
    turned = volume.with_values(np.ascontiguousarray(np.rot90(volume.voxels, 1, axes=(1, 2))))
    everywhere = volume.with_values(np.ones(volume.shape, bool))
    to_atlas = np.eye(3)
    to_atlas[1:, 1:] = [[0.0, 1.0], [-1.0, 0.0]]
    centre = volume.index_to_mm([(np.asarray(volume.shape) - 1) / 2])[0]
    a = sample_sift(volume, everywhere, replace(SETTINGS, sampling="keypoints"))
    b = sample_sift(turned, everywhere, replace(SETTINGS, sampling="keypoints"), to_atlas)
    back = (b.position_mm - centre) @ to_atlas.T + centre
    pairs = [(i, int(np.linalg.norm(back - p, axis=1).argmin())) for i, p in enumerate(a.position_mm)]
    agree = [np.mean(a.descriptor[i] == b.descriptor[j]) for i, j in pairs]
    assert np.median(agree) > 0.9
    unaware = sample_sift(turned, everywhere, replace(SETTINGS, sampling="keypoints"))
    assert np.median([np.mean(a.descriptor[i] == unaware.descriptor[j]) for i, j in pairs]) < 0.5


def test_rotation_to_atlas_must_be_a_rotation():
    volume = rough()
    mask = volume.with_values(np.ones(volume.shape, bool))
    for wrong in (2 * np.eye(3), -np.eye(3), np.eye(2)):
        with pytest.raises(ValueError, match="rotation_to_atlas"):
            sample_sift(volume, mask, SETTINGS, wrong)


@given(sigma=st.floats(0.6, 4.0), seed=st.integers(0, 10))
@settings(max_examples=15, deadline=None)
def test_blur_is_scipys_gaussian(sigma, seed):
    values = np.random.default_rng(seed).normal(0, 100, (17, 12, 23)).astype(np.float32)
    expected = ndimage.gaussian_filter(
        values.astype(np.float64), sigma, mode="nearest", radius=int(np.ceil(3.5 * sigma))
    )
    assert np.allclose(scale_space.blur(values, sigma), expected, atol=2e-3)


def test_pyramid_has_the_scales_it_says():
    values = rough(7).voxels
    coarse = list(scale_space.octaves(values))[1]
    direct = ndimage.gaussian_filter(values.astype(np.float64), np.sqrt((1.6 * 2 * 2 ** (2 / 3)) ** 2 - 0.25))[
        ::2, ::2, ::2
    ]
    inner = (slice(8, -8),) * 3
    assert coarse.sigmas[2] == pytest.approx(1.6 * 2 ** (2 / 3))
    assert np.abs(coarse.levels[2] - direct)[inner].max() < 0.01 * np.ptp(direct)


def test_strict_extrema_are_among_those_found():
    octave = next(scale_space.octaves(rough(8).voxels))
    found = extrema.find_extrema(octave, 5.0)
    d = octave.differences.astype(np.float64)
    box = ndimage.maximum_filter(d, 3)
    inner = d[1:-1, 1:-1, 1:-1, 1:-1]
    tops = np.argwhere((inner == box[1:-1, 1:-1, 1:-1, 1:-1]) & (inner > 5.0)) + 1
    assert len(tops) > 5
    for top in tops:
        gap = np.abs(np.column_stack([found.level, found.position]) - top).max(axis=1)
        assert gap.min() <= 3.9


def test_structure_tensor_is_the_sum_of_outer_products():
    values, position, sigma = rough(9).voxels, np.array([20.3, 24.0, 27.6]), 2.0
    gradient = np.stack(np.gradient(values.astype(np.float64)), -1) * 2
    grid = np.stack(np.indices(values.shape), -1)
    ball = ((grid - position) ** 2).sum(-1) < (sift_descriptor.TENSOR_SIGMAS * sigma) ** 2
    expected = np.einsum("ni,nj->ij", gradient[ball], gradient[ball])
    assert np.allclose(sift_descriptor.structure_tensor(values, position, sigma), expected, rtol=1e-3)
    values_only = np.linalg.eigvalsh(expected)
    assert sift_descriptor.isotropy(expected) == pytest.approx(
        27 * values_only.prod() / values_only.sum() ** 3, rel=1e-6
    )


def test_descriptor_is_a_histogram_over_cells_and_octants():
    values, position, sigma = rough(10).voxels, np.array([22.0, 25.5, 24.2]), 1.8
    radius = sift_descriptor.SUPPORT_SIGMAS * sigma
    gradient = np.stack(np.gradient(values.astype(np.float64)), -1) * 2
    expected = np.zeros((8, 8))
    for index in np.argwhere(((np.stack(np.indices(values.shape), -1) - position) ** 2).sum(-1) <= radius**2):
        offset, g = index - position, gradient[tuple(index)]
        length = np.linalg.norm(g)
        shares = []
        for vector, slope in ((offset / radius, 1.0), (g / length, sift_descriptor.OCTANT_SHARPNESS)):
            high = np.clip(0.5 + slope * vector, 0, 1)
            ramps = np.stack([1 - high, high])
            shares.append([ramps[a, 0] * ramps[b, 1] * ramps[c, 2] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
        expected += length * (1 - offset @ offset / radius**2) * np.outer(*shares)
    found = sift_descriptor.describe_along(values, position[None], np.array([sigma]), np.eye(3))[0]
    assert np.allclose(found, expected.ravel(), rtol=2e-3)


def test_one_blob_is_kept_once():
    position = np.array([[10.0, 10, 10], [10.5, 10, 10], [10.5, 10, 10], [30.0, 10, 10]])
    kept = extrema.strongest_of_each_blob(
        position, np.array([2.0, 2.1, 2.1, 2.0]), np.array([-9.0, -8.0, 7.0, -6.0]), 1.3, 1.26
    )
    assert kept.tolist() == [0, 2, 3]


def test_sites_know_their_layer():
    layers = ()
    sites = Sites(np.zeros((2, 3)), np.ones(2), np.ones(2), np.ones(2), np.array([0, 1]), layers)
    assert len(sites.take(np.array([True, False])).sigma) == 1


def test_real_lung_gives_hundreds_of_micro_and_macro_descriptors(data_path):
    from popclust.imaging.files import read_volume_file

    paths = [str(data_path(n)) for n in ("oracle/lidc0001_2mm.nii.gz", "masks/lidc0001_lungs.nii.gz")]
    volume, mask = (read_volume_file(p) for p in paths)
    found = sample_sift(volume, mask.with_values(mask.voxels > 0), SETTINGS)
    assert len(found.micro(SETTINGS)) >= 300
    assert len(found.macro(SETTINGS)) >= 300
    assert 250 <= len(np.unique(detect_keypoints(volume, SETTINGS).position_mm, axis=0)) <= 420
