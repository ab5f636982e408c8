"""Fluid beside the lung is followed by its own grey; other tissue is not."""

from __future__ import annotations

import numpy as np
import pytest

from popclust.imaging.volume import Volume
from popclust.normalization.effusion import with_fluid
from popclust.normalization.preparation import Prepared

SPACING = (4.0, 4.0, 4.0)
SHAPE = (50, 50, 50)
ORIGIN = (0.0, 0.0, 0.0)
NOWHERE = Volume(np.zeros(SHAPE, bool), SPACING, ORIGIN)


def _chest(grey: float, noise: float = 15.0) -> tuple[Prepared, np.ndarray]:
    """A box of lung in muscle, whose back third is filled by something of a grey; and where that is."""
    rng = np.random.default_rng(0)
    hu = np.full(SHAPE, 50.0)
    filled = np.zeros(SHAPE, bool)
    filled[8:42, 28:42, 8:42] = True
    aerated = np.zeros(SHAPE, bool)
    aerated[8:42, 8:28, 8:42] = True
    hu[aerated], hu[filled] = -850.0, grey
    image = Volume((hu + rng.normal(0, noise, SHAPE)).astype(np.float32), SPACING, ORIGIN)
    ends = (ORIGIN, tuple(4.0 * (n - 1) for n in SHAPE))
    return Prepared(image, Volume(aerated, SPACING, ORIGIN), ends), filled


def _drawn(volume: Prepared, depth: int) -> Volume:
    """Lungs as a map draws them that ends early: only the first layers of what fills the back."""
    mask = volume.lungs.voxels.copy()
    mask[12:38, 28 : 28 + depth, 12:38] = True
    return volume.lungs.with_values(mask)


@pytest.mark.parametrize("grey", [0.0, 12.0, 22.0])
def test_fluid_is_followed_to_the_wall(grey: float) -> None:
    volume, fluid = _chest(grey)
    found = with_fluid(_drawn(volume, 9), volume, NOWHERE).voxels
    assert (found & fluid).sum() > 0.95 * fluid.sum()
    assert (found & ~fluid & ~volume.lungs.voxels).sum() < 0.05 * fluid.sum()


@pytest.mark.parametrize("grey", [45.0, 70.0, -90.0])
def test_muscle_organs_and_fat_are_not(grey: float) -> None:
    volume, _ = _chest(grey)
    drawn = _drawn(volume, 9)
    assert with_fluid(drawn, volume, NOWHERE) is drawn


def test_a_mixture_with_the_median_of_fluid_is_not() -> None:
    volume, filled = _chest(10.0)
    stripes = filled & (np.arange(SHAPE[0])[:, None, None] % 16 < 8)
    hu = volume.image.voxels + np.where(stripes, 50.0, 0.0) - np.where(filled & ~stripes, 110.0, 0.0)
    volume = Prepared(volume.image.with_values(hu.astype(np.float32)), volume.lungs, volume.field_of_view_mm)
    drawn = _drawn(volume, 9)
    assert np.array_equal(with_fluid(drawn, volume, NOWHERE).voxels, drawn.voxels)


def test_a_little_is_no_evidence() -> None:
    volume, _ = _chest(10.0)
    mask = volume.lungs.voxels.copy()
    mask[20:25, 28:32, 20:25] = True  # 6 ml
    drawn = volume.lungs.with_values(mask)
    assert with_fluid(drawn, volume, NOWHERE) is drawn


def test_lungs_without_fluid_stay_as_they_are() -> None:
    volume, _ = _chest(10.0)
    assert with_fluid(volume.lungs, volume, NOWHERE) is volume.lungs


def test_nothing_is_joined_between_the_lungs() -> None:
    volume, fluid = _chest(12.0)
    between = np.zeros(SHAPE, bool)
    between[:, 39:] = True
    found = with_fluid(_drawn(volume, 9), volume, Volume(between, SPACING, ORIGIN)).voxels
    assert not (found & between).any()
    assert (found & fluid & ~between).sum() > 0.9 * (fluid & ~between).sum()
