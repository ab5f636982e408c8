"""Focal densities: what is round and denser than the lung counts, vessels, walls and noise do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from popclust.features.focal import NEAR_MM, distances_mm, focal_densities
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume
from popclust.normalization.preparation import prepare
from popclust.population.composition import usual_compositions
from popclust.population.topics import scale_counts
from popclust.settings import EncodeSettings

SHAPE, SPACING, ORIGIN = (60, 60, 60), (2.0, 1.5, 1.5), (-40.0, 10.0, -100.0)
SPOTS_MM = [(40.0, 40.0, 40.0), (70.0, 60.0, 30.0), (60.0, 30.0, 66.0)]


def _volume(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.float32), SPACING, ORIGIN)


def _lung() -> Volume:
    mask = np.zeros(SHAPE, bool)
    mask[4:56, 4:56, 4:56] = True
    return Volume(mask, SPACING, ORIGIN)


def _places() -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"), -1)


def _with_spots(radius_mm: float, hu: float = 40.0) -> np.ndarray:
    voxels = np.full(SHAPE, -850.0)
    for spot in SPOTS_MM:
        voxels[np.linalg.norm(_places() - spot, axis=-1) <= radius_mm] = hu
    return voxels


def _with_vessels(radius_mm: float) -> np.ndarray:
    """A tree: one that goes straight, one that parts from it."""
    at = _places()
    straight = np.linalg.norm(at[..., 1:] - (45.0, 45.0), axis=-1) <= radius_mm
    branch = np.linalg.norm(at[..., [0, 2]] - (60.0, 45.0), axis=-1) <= 0.7 * radius_mm
    return np.where(straight | (branch & (at[..., 1] > 45)), 40.0, -850.0)


@pytest.mark.parametrize("radius_mm", [4.0, 6.0])
@pytest.mark.parametrize("noise_hu", [0.0, 60.0])
def test_round_spots_are_found_where_they_are(radius_mm: float, noise_hu: float) -> None:
    noise = np.random.default_rng(0).normal(0, noise_hu, SHAPE)
    found = focal_densities(_volume(_with_spots(radius_mm) + noise), _lung())
    expected = np.array(SPOTS_MM) + ORIGIN
    assert len(found) == 3
    assert np.abs(found[np.lexsort(found.T)] - expected[np.lexsort(expected.T)]).max() < 3.0


@pytest.mark.parametrize("radius_mm", [1.5, 3.0, 5.0])
def test_vessels_are_none(radius_mm: float) -> None:
    noise = np.random.default_rng(1).normal(0, 40.0, SHAPE)
    assert len(focal_densities(_volume(_with_vessels(radius_mm) + noise), _lung())) == 0


def test_faint_spots_noise_the_wall_and_lungs_that_are_empty_are_none() -> None:
    rng, lung = np.random.default_rng(2), _lung()
    assert len(focal_densities(_volume(_with_spots(6.0, hu=-700.0)), lung)) == 0
    assert len(focal_densities(_volume(rng.normal(-850, 60, SHAPE)), lung)) == 0
    walled = np.where(ndimage.binary_erosion(lung.voxels, iterations=2), -850.0, 40.0)
    assert len(focal_densities(_volume(walled), lung)) == 0
    nothing = lung.with_values(np.zeros(SHAPE, bool))
    assert focal_densities(_volume(_with_spots(5.0)), nothing).shape == (0, 3)


@pytest.mark.parametrize("name", ["lidc0001", "lungdx_a0002_B70f", "4dlung_113"])
def test_real_lungs_have_next_to_none_at_any_scanner(data_path: Callable[[str], Path], name: str) -> None:
    volume = read_volume_file(str(data_path(f"ct/{name}.nii.gz")))
    lungs = prepare(volume, 3.0).lungs
    whole = lungs.with_values(ndimage.binary_closing(lungs.voxels, iterations=5))
    litres = whole.voxels.sum() * np.prod(whole.spacing_mm) / 1e6
    assert len(focal_densities(volume, whole)) / litres < 0.5


def test_distances_are_to_the_nearest() -> None:
    near = distances_mm(np.array([[0.0, 0, 0], [0, 0, 30]]), np.array([[0.0, 0, 4], [0, 0, 29]]))
    np.testing.assert_allclose(near, [4.0, 1.0])
    assert (distances_mm(np.zeros((2, 3)), np.zeros((0, 3))) > NEAR_MM).all()


def test_they_count_nothing_by_chance_and_much_where_lungs_are_full_of_them() -> None:
    words = np.array(["haralick"] * 4 + ["micro_sift"] * 2 + ["focal"], object)
    settings = EncodeSettings()
    near = np.array([0, 1, 4, 20])
    counts = np.hstack([np.full((4, 4), 250), np.full((4, 2), 9), near[:, None]])
    scaled = scale_counts(counts, words, settings)[:, -1] / settings.mass_focal
    assert scaled[0] == 0 and scaled[1] < 0.1 and scaled[2] == pytest.approx(0.5) and scaled[3] > 0.95
    np.testing.assert_array_equal(scaled, scale_counts(4 * counts, words, settings)[:, -1] / settings.mass_focal)


def test_many_are_strange_where_nobody_has_any_and_a_few_are_not() -> None:
    usual, left_out = usual_compositions(np.zeros((30, 1)), np.array(["focal"]))
    unit = np.quantile(left_out, 0.95)
    few, many = usual.distances(np.array([[0.05], [0.6]]), np.array(["focal"]))[:, 0] / unit
    assert few < 1 < 5 < many
