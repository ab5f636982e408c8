"""Airless lung is followed to the wall where the maps end short of it; healthy lungs stay as they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from popclust.imaging.volume import Volume
from popclust.normalization.consolidation import REACH_MM, STEP_MM, with_consolidation
from popclust.normalization.preparation import Prepared

SPACING = (4.0, 4.0, 4.0)
SHAPE = (50, 50, 50)
ORIGIN = (0.0, 0.0, 0.0)
NOWHERE = Volume(np.zeros(SHAPE, bool), SPACING, ORIGIN)


def _chest(grey: float, around: float = 55.0) -> tuple[Prepared, np.ndarray]:
    """A box of lung whose back half is airless, of a grey, in a wall of another; and where that half is."""
    rng = np.random.default_rng(0)
    hu = np.full(SHAPE, around)
    aerated, airless = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    aerated[8:42, 8:25, 8:42] = True
    airless[8:42, 25:42, 8:42] = True
    hu[aerated], hu[airless] = -850.0, grey
    image = Volume((hu + rng.normal(0, 15, SHAPE)).astype(np.float32), SPACING, ORIGIN)
    ends = (ORIGIN, tuple(4.0 * (n - 1) for n in SHAPE))
    return Prepared(image, Volume(aerated, SPACING, ORIGIN), ends), airless


def _drawn(volume: Prepared, until: int) -> Volume:
    """Lungs as a map draws them that ends early."""
    mask = volume.lungs.voxels.copy()
    mask[10:40, 25:until, 10:40] = True
    return volume.lungs.with_values(mask)


def test_the_walls_map_is_believed_near_a_large_airless_piece() -> None:
    volume, airless = _chest(45.0)
    wall = volume.lungs.with_values(volume.lungs.voxels | airless)
    drawn = _drawn(volume, 36)
    found = with_consolidation(drawn, wall, volume, NOWHERE).voxels
    assert (drawn.voxels & airless).sum() < 0.6 * airless.sum()
    assert (found & airless).sum() > 0.99 * airless.sum()


def test_a_step_beyond_both_maps_is_joined_unless_it_is_fat() -> None:
    step = round(STEP_MM / SPACING[0])
    for around, joined in ((55.0, True), (-100.0, False)):
        volume, _ = _chest(45.0, around)
        found = with_consolidation(_drawn(volume, 42), NOWHERE, volume, NOWHERE).voxels
        assert found[25, 42 : 42 + step, 25].all() == joined
        assert not found[:, 42 + step + 1 :].any()


def test_fluid_goes_no_step_beyond_the_maps() -> None:
    volume, _ = _chest(10.0)
    drawn = _drawn(volume, 42)
    np.testing.assert_array_equal(with_consolidation(drawn, NOWHERE, volume, NOWHERE).voxels, drawn.voxels)


def test_nothing_is_joined_far_from_a_piece_nor_between_the_lungs() -> None:
    volume, _ = _chest(45.0)
    everywhere = volume.lungs.with_values(np.ones(SHAPE, bool))
    between = np.zeros(SHAPE, bool)
    between[:, :, :12] = True
    drawn = _drawn(volume, 31)
    found = with_consolidation(drawn, everywhere, volume, Volume(between, SPACING, ORIGIN)).voxels
    assert not (found & between & ~drawn.voxels).any()
    assert not found[:, 31 + round((REACH_MM + STEP_MM) / SPACING[1]) + 1 :].any()


@pytest.mark.parametrize("until", [25, 27])
def test_lungs_without_a_large_piece_stay_as_they_are(until: int) -> None:
    volume, airless = _chest(45.0)
    wall = volume.lungs.with_values(volume.lungs.voxels | airless)
    drawn = _drawn(volume, until)
    assert with_consolidation(drawn, wall, volume, NOWHERE) is drawn
