"""Noise and sharpness, measured from the voxels of real CT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from popclust.imaging.acquisition import Acquisition, measure_acquisition
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume
from popclust.simulation.canvas import Grid
from popclust.simulation.scanner import SCANNERS, reconstruct

WIDTH_OF_SPREAD = np.sqrt(2 * np.pi)
"""Width of an edge by a point spread of standard deviation 1."""


@pytest.fixture(scope="module", params=["lidc0001", "nsclcrg_R01-001", "lung1_LUNG1-002"])
def volume(request: pytest.FixtureRequest, data_path: Callable[[str], Path]) -> Volume:
    """A real chest CT."""
    return read_volume_file(data_path(f"ct/{request.param}.nii.gz"))


def changed(volume: Volume, change: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    found = measure_acquisition(volume.with_values(change(volume.voxels.astype(np.float32))))
    assert found.noise_hu is not None
    assert found.edge_mm is not None
    return found.noise_hu, found.edge_mm


def test_added_noise_is_found(volume: Volume):
    rng = np.random.default_rng(0)
    before, _ = changed(volume, lambda hu: hu)
    after, _ = changed(volume, lambda hu: hu + rng.normal(0, 30, hu.shape).astype(np.float32))
    assert after == pytest.approx(np.hypot(before, 30), rel=0.1)


def test_blur_is_found(volume: Volume):
    mm = volume.spacing_mm[2]
    (before_noise, before), sigma = changed(volume, lambda hu: hu), 2.5
    noise, edge = changed(volume, lambda hu: ndimage.gaussian_filter(hu, (0, sigma / mm, sigma / mm)))
    assert edge == pytest.approx(np.hypot(before, sigma * WIDTH_OF_SPREAD), rel=0.2)
    assert noise < before_noise


def test_a_soft_and_a_sharp_kernel_of_one_acquisition(data_path: Callable[[str], Path]):
    soft, sharp = (
        measure_acquisition(read_volume_file(data_path(f"ct/lungdx_a0002_{kernel}.nii.gz")))
        for kernel in ("B40f", "B70f")
    )
    assert sharp.noise_hu > 1.5 * soft.noise_hu
    assert sharp.edge_mm < 0.9 * soft.edge_mm


def test_the_sharp_kernel_is_taken_without_its_name(data_path: Callable[[str], Path]):
    for kernel, is_sharp in (("B40f", False), ("B70f", True)):
        volume = read_volume_file(data_path(f"ct/lungdx_a0002_{kernel}.nii.gz"))
        assert (measure_acquisition(volume).sharpness(volume.spacing_mm[2]) > 0) is is_sharp


@pytest.mark.parametrize(("scanner", "noise_hu", "correlation"), [(0, 28.0, 0.1), (1, 15.0, 0.5)])
def test_kernels_made_on_real_ct_are_on_the_right_side(
    scanner: int, noise_hu: float, correlation: float, data_path: Callable[[str], Path]
):
    """Sharp ones of a scanner of little noise, soft ones of one of much: what tells them is how fine the noise is."""
    volume = read_volume_file(data_path("ct/lungdx_a0002_B40f.nii.gz"))
    grid = Grid(volume.shape, volume.spacing_mm, (0.0, 0.0, 0.0))
    for kernel in (*SCANNERS[scanner].sharp, *SCANNERS[scanner].soft):
        rng = np.random.default_rng(1)
        hu = reconstruct(volume.voxels.astype(np.float32), grid, kernel, noise_hu, correlation, rng)
        found = measure_acquisition(volume.with_values(np.rint(hu).clip(-1024, 3071).astype(np.int16)))
        assert (found.sharpness(volume.spacing_mm[2]) > 0) is (kernel in SCANNERS[scanner].sharp)


def test_white_noise_is_fine_and_smooth_noise_is_not(data_path: Callable[[str], Path]):
    volume = read_volume_file(data_path("ct/lungdx_a0002_B40f.nii.gz"))
    still = ndimage.gaussian_filter(volume.voxels.astype(np.float32), (0, 2, 2))
    white = np.random.default_rng(0).normal(0, 30, still.shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(white, (0, 1, 1))
    for noise, low, high in ((white, 0.9, 1.1), (smooth * (30 / smooth.std()), 0.05, 0.2)):
        fineness = measure_acquisition(volume.with_values(np.rint(still + noise).astype(np.int16))).fineness
        assert fineness is not None
        assert low < fineness < high


def test_smooth_noise_counts_against_a_kernel_and_fine_noise_not_for_it():
    coarse, border, white = (Acquisition(20.0, 2.0, fineness).sharpness(0.7) for fineness in (0.1, 0.35, 1.0))
    assert coarse < 0 < border
    assert border == white == Acquisition(20.0, 2.0).sharpness(0.7)


@pytest.mark.parametrize("value", [-1000, -800, 40])
def test_where_nothing_is_seen_nothing_is_said(value: int):
    constant = Volume(np.full((30, 64, 64), value, np.int16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    found = measure_acquisition(constant)
    assert found.edge_mm is None
    assert found.sharpness(1.0) is None
    assert found == Acquisition(0.5 if value == 40 else None, None)
