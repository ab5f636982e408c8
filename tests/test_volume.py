"""Parts of volumes: the same values as in the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from popclust.features import haralick
from popclust.features.haralick import sample_haralick
from popclust.imaging.masks import opened_by_box
from popclust.imaging.volume import Volume, box_around, crop, resample
from popclust.settings import HaralickSettings

VOLUME = Volume(
    np.random.default_rng(0).normal(-700, 200, (37, 52, 45)).astype(np.float32), (2.5, 1.4, 1.4), (-31.0, 4.0, 100.0)
)


@pytest.mark.parametrize("spacing_mm", [3.5, 2.0, 1.0, (2.5, 1.4, 1.4), (2.5, 3.0, 1.4)])
@pytest.mark.parametrize("corners_mm", [[(-10, 20, 120), (25, 50, 140)], [(-99, 0, 90), (0, 30, 300)]])
def test_a_part_of_a_resampled_volume_is_that_of_the_whole(
    spacing_mm: float | tuple[float, float, float], corners_mm: list[tuple[float, float, float]]
) -> None:
    whole, part = resample(VOLUME, spacing_mm), resample(VOLUME, spacing_mm, within_mm=corners_mm)
    first = np.rint(whole.mm_to_index(part.origin_mm)).astype(int)
    np.testing.assert_allclose(whole.index_to_mm(first), part.origin_mm, atol=1e-9)
    last = first + part.shape - 1
    np.testing.assert_allclose(part.voxels, whole.voxels[tuple(map(slice, first, last + 1))], rtol=0, atol=1e-3)
    inside = np.clip(corners_mm, whole.index_to_mm([0] * 3), whole.index_to_mm(np.array(whole.shape) - 1))
    assert (whole.index_to_mm(first) <= inside[0] + 1e-9).all() and (whole.index_to_mm(last) >= inside[1] - 1e-9).all()


def test_a_box_reaches_no_further_than_the_volume() -> None:
    mask = np.zeros(VOLUME.shape, bool)
    assert crop(VOLUME, box_around(mask, 3)).shape == VOLUME.shape
    mask[2:5, 20:30, 40:45] = True
    part = crop(VOLUME, box_around(mask, 3))
    assert part.shape == (8, 16, 8)
    assert part.origin_mm == pytest.approx((-31.0, 4.0 + 17 * 1.4, 100.0 + 37 * 1.4))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("smoothing_mm", [0.0, 2.5, 6.0])
def test_texture_is_the_same_when_only_the_lung_and_what_reaches_it_is_looked_at(
    masked: bool, smoothing_mm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lung = np.zeros((60, 70, 80), bool)
    lung[0:20, 25:45, 30:55] = True  # at the volume's lower end, far from the others
    volume = Volume(np.random.default_rng(1).normal(-700, 150, lung.shape).astype(np.float32), (2.0, 2.0, 2.0))
    settings = replace(HaralickSettings(), masked=masked, smoothing_mm=smoothing_mm)
    part = sample_haralick(volume, volume.with_values(lung), settings)
    monkeypatch.setattr(haralick, "box_around", lambda mask, _: tuple(slice(0, n) for n in mask.shape))
    whole = sample_haralick(volume, volume.with_values(lung), settings)
    assert part.features.tobytes() == whole.features.tobytes()
    assert part.positions_mm.tobytes() == whole.positions_mm.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_opening_by_a_box_is_scipy_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, size = rng.integers(1, 40, 3), rng.integers(1, 9, 3)
    mask = ndimage.gaussian_filter(rng.normal(size=shape), 1.5) > -0.02
    wanted = ndimage.binary_opening(mask, np.ones(size))
    assert np.array_equal(opened_by_box(mask, 12.0, (12.0 / size).tolist()), wanted)
