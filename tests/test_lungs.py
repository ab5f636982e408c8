"""Aerated lung by intensity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.files import read_volume_file
from popclust.imaging.lungs import lung_volume_ml, segment_lungs
from popclust.imaging.volume import Volume

# ITK's SWIG modules warn when they are imported, and crash if the warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")


def read(path: Path) -> Volume:
    return read_volume_file(path)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("ct", "mask", "least"),
    [
        ("lidc0001.nii.gz", "lidc0001_lungs.nii.gz", 0.985),
        ("lidc0002.nii.gz", "lidc0002_lungs.nii.gz", 0.985),
        ("pyrad_lung2.nii.gz", "pyrad_lung2_lungs.nii.gz", 0.975),
        ("lungdx_a0002_B40f.nii.gz", "lungdx_a0002_B40f_lungs.nii.gz", 0.95),
        ("lungdx_a0002_B70f.nii.gz", "lungdx_a0002_B40f_lungs.nii.gz", 0.95),
        ("cip_ct64.nii.gz", "cip_wholeLung-64.nrrd", 0.965),
        ("elastix_rightlung_result.mha", "elastix_baseline_mask.mha", 0.975),
    ],
)
def test_agrees_with_masks_that_were_looked_at(ct: str, mask: str, least: float, data_path) -> None:
    volume = read(data_path(f"ct/{ct}"))
    found = segment_lungs(volume)
    assert found.voxels.dtype == bool
    assert (found.spacing_mm, found.origin_mm) == (volume.spacing_mm, volume.origin_mm)
    wanted = read(data_path(f"masks/{mask}")).voxels > 0
    assert dice(found.voxels, wanted) >= least


def test_coarse_mask_covers_the_same_lungs(data_path) -> None:
    volume = read(data_path("ct/lidc0001.nii.gz"))
    fine, coarse = segment_lungs(volume), segment_lungs(volume, spacing_mm=3.0)
    assert coarse.spacing_mm == pytest.approx((2.5, 2.8125, 2.8125))
    assert lung_volume_ml(coarse) == pytest.approx(lung_volume_ml(fine), rel=0.03)
    centres = [m.index_to_mm(np.argwhere(m.voxels)).mean(axis=0) for m in (fine, coarse)]
    np.testing.assert_allclose(centres[0], centres[1], atol=0.5)


FRAGMENTS = {
    "upper half": (slice(66, None), slice(None), slice(None)),
    "lower half": (slice(None, 80), slice(None), slice(None)),
    "three slices": (slice(70, 73), slice(None), slice(None)),
    "one side": (slice(None), slice(None), slice(128, None)),
    "cube of 64": (slice(50, 114), slice(90, 154), slice(30, 94)),
}


@pytest.mark.parametrize("name", FRAGMENTS)
def test_fragments(name: str, data_path) -> None:
    """What the field of view cuts off changes nothing in the rest."""
    volume = read(data_path("ct/lidc0001.nii.gz"))
    whole = segment_lungs(volume).voxels
    part = Volume(volume.voxels[FRAGMENTS[name]].copy(), volume.spacing_mm)
    assert dice(segment_lungs(part).voxels, whole[FRAGMENTS[name]]) > 0.97


@pytest.mark.parametrize("lying", [slice(0, 18), slice(0, 8)])
def test_abdomen_below_the_lungs(lying: slice, data_path) -> None:
    """Slices of lidc0001 with gas in stomach and bowel, and no lung."""
    volume = read(data_path("ct/lidc0001.nii.gz"))
    wanted = read(data_path("masks/lidc0001_lungs.nii.gz")).voxels[lying] > 0
    assert wanted.sum() == 0
    assert not segment_lungs(Volume(volume.voxels[lying].copy(), volume.spacing_mm)).voxels.any()


@given(
    value=st.sampled_from([-1024, -1000, -850, -500, -401, 0, 40, 3000]),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    spacing=st.floats(0.3, 12.0),
)
@settings(deadline=None, max_examples=30)
def test_constant_image_shows_no_lung(value: int, shape: tuple[int, int, int], spacing: float) -> None:
    volume = Volume(np.full(shape, value, dtype=np.int16), (spacing,) * 3)
    for mask in (segment_lungs(volume), segment_lungs(volume, spacing_mm=3.0)):
        assert not mask.voxels.any()
        assert lung_volume_ml(mask) == 0.0


def ellipsoid(points: NDArray, centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
    return (((points - centre) / radii) ** 2).sum(axis=-1) < 1


def thorax(spacing_mm: float) -> tuple[Volume, NDArray[np.bool_], NDArray[np.bool_]]:
    """A body on a hollow table with two lungs, a trachea and a gas bubble in the bowel; lungs, and other air inside."""
    n_z, n_y, n_x = np.rint(np.array([280, 300, 400]) / spacing_mm).astype(int)
    index = np.stack(np.meshgrid(np.arange(n_z), np.arange(n_y), np.arange(n_x), indexing="ij"), axis=-1)
    p = (index + 0.5) * spacing_mm
    body = ((p[..., 1:] - [140, 200]) / [110, 170])[..., :] ** 2
    hu = np.where(body.sum(axis=-1) < 1, 40.0, -1000.0)
    table = (p[..., 1] > 252) & (p[..., 1] < 285) & (abs(p[..., 2] - 200) < 180)
    hu[table] = 100.0
    hu[ndimage.binary_erosion(table, iterations=2, border_value=1)] = -900.0
    lungs = np.zeros(hu.shape, dtype=bool)
    for x in (120.0, 280.0):
        lungs |= ellipsoid(p, (160, 140, x), (95, 75, 55))
    rough = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=hu.shape), 4 / spacing_mm)
    hu[lungs] = -850 + 60 * (rough / rough.std())[lungs]
    trachea = ((p[..., 1:] - [140, 200]) ** 2).sum(axis=-1) < 9**2
    trachea &= p[..., 0] > 170
    gas = ellipsoid(p, (30, 100, 260), (20, 25, 30))
    hu[trachea | gas] = -1000.0
    hu += np.random.default_rng(2).normal(scale=15, size=hu.shape)
    return Volume(hu.astype(np.int16), (spacing_mm,) * 3), lungs & ~trachea, trachea | gas


@pytest.mark.parametrize("spacing_mm", [2.0, 3.0, 4.2])
def test_phantom(spacing_mm: float) -> None:
    volume, lungs, other_air = thorax(spacing_mm)
    found = segment_lungs(volume).voxels
    assert dice(found, lungs) > 0.97
    assert (found & other_air).sum() < 0.02 * other_air.sum()


def test_one_lung_filled_with_fluid() -> None:
    volume, lungs, _ = thorax(3.0)
    middle = volume.shape[2] // 2
    hu = volume.voxels.copy()
    hu[..., :middle][lungs[..., :middle]] = 10
    wanted = lungs.copy()
    wanted[..., :middle] = False
    assert dice(segment_lungs(volume.with_values(hu)).voxels, wanted) > 0.97


def test_volume_of_a_mask() -> None:
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 1:3, 1:4] = True
    assert lung_volume_ml(Volume(mask, (10.0, 5.0, 2.0))) == pytest.approx(0.6)
