"""Slices of volumes as pictures: the right way up, to scale, in a window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_study import phantom

from popclust.imaging.volume import Volume
from popclust.presentation import slices, style


def test_slices_are_the_right_way_up_and_to_scale() -> None:
    hu = np.full((20, 40, 60), -1000, np.int16)
    hu[:, 5:35, 5:55] = 40
    lungs = np.zeros(hu.shape, bool)
    lungs[2:15, 10:30, 10:25] = True  # to the feet, patient's right
    hu[lungs] = -800
    hu[17:, 5:35, 5:55] = 1000  # bone at the head
    volume, mask = Volume(hu, (4.0, 2.0, 2.0)), Volume(lungs, (4.0, 2.0, 2.0))
    coronal = slices.slice_tile(volume, mask, "coronal", 60, outline=False)
    assert coronal.shape == (60, 60, 3)
    content = coronal[10:50]  # 80 mm of 120 mm, centred
    assert (coronal[:10] == 0).all() and (coronal[50:] == 0).all()
    assert content[0, 30, 0] == 255  # the head is on top
    is_lung = (coronal[:, :, 0] > 85) & (coronal[:, :, 0] < 100)
    assert is_lung[:, :30].sum() > 200 and not is_lung[:, 30:].any()  # the patient's right is on the left
    axial = slices.slice_tile(volume, mask, "axial", 60)
    is_outline = (axial == style.OUTLINE_RGB).all(axis=2)
    rows, columns = np.nonzero(is_outline)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 24)
    assert not is_outline[21:39, 11:24].any()


def test_the_plane_shows_most_lung() -> None:
    volume, lungs = phantom(np.random.default_rng(1), 0)
    flat = slices.slice_tile(volume, lungs, "axial", 64)
    n_outline = int((flat == style.OUTLINE_RGB).all(axis=2).sum())
    assert n_outline > 100
    none = slices.slice_tile(volume, lungs.with_values(np.zeros(lungs.shape, bool)), "axial", 64)
    assert not (none == style.OUTLINE_RGB).all(axis=2).any()
    assert slices.slice_tile(volume, None, "coronal", 64).shape == (64, 64, 3)


def test_a_mask_whose_grid_ends_beside_the_slice_is_outlined() -> None:
    volume = Volume(np.full((20, 30, 30), -800, np.int16), (2.0, 2.0, 2.0))
    lungs = np.ones((4, 8, 8), bool)
    for first, is_drawn in ((0.5, True), (8.0, False)):  # mm from the slice to the grid
        mask = Volume(lungs, (5.0, 5.0, 5.0), (first, 10.0, 10.0))
        tile = slices.slice_tile(volume, mask, "axial", 60, marks=False, position_mm=0.0)
        assert (tile == style.OUTLINE_RGB).all(axis=-1).any() == is_drawn


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-4000, 4000, width=32)))
@settings(deadline=None, max_examples=40)
def test_the_window_is_monotone(hu: np.ndarray) -> None:
    grey = slices.windowed(np.sort(hu, axis=None))
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert (grey[np.sort(hu, axis=None) <= -1350] == 0).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_padding_centres_or_cuts(height: int, width: int, size: int) -> None:
    rgb = np.random.default_rng(0).integers(1, 255, (height, width, 3), np.uint8)
    out = slices.padded(rgb, size)
    assert out.shape == (size, size, 3)
    assert np.count_nonzero(out[:, :, 0]) == min(height, size) * min(width, size)


def test_mosaic_places_tiles_in_rows() -> None:
    tiles = [np.full((4, 4, 3), v, np.uint8) for v in (1, 2, 3)]
    out = slices.mosaic(tiles, 2, gap=1)
    assert out.shape == (9, 9, 3)
    assert (out[0, 0, 0], out[0, 5, 0], out[5, 0, 0], out[5, 5, 0]) == (1, 2, 3, 255)
    with pytest.raises(ValueError, match="at least one"):
        slices.mosaic([], 2)
    framed = slices.framed(tiles[0], (9, 9, 9), 1)
    assert framed[0, 0, 0] == 9 and framed[1, 1, 0] == 1 and tiles[0][0, 0, 0] == 1
