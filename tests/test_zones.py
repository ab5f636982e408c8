"""Histograms of six zones: the plain rival of words and topics."""

from __future__ import annotations

import numpy as np

from popclust.features.zones import EDGES_HU, ZONES, zone_histograms
from popclust.imaging.volume import Volume
from popclust.population.clustering import zone_matrix

SHAPE, SPACING = (60, 50, 60), (3.0, 3.0, 3.0)


def _lung() -> Volume:
    mask = np.zeros(SHAPE, bool)
    mask[5:55, 5:45, 5:55] = True
    return Volume(mask, SPACING, (0.0, 0.0, 0.0))


def _of(hu: np.ndarray) -> np.ndarray:
    return zone_histograms(Volume(hu.astype(np.float32), SPACING, (0.0, 0.0, 0.0)), _lung())


def test_every_voxel_counts_once_by_height_and_depth_and_once_by_front_and_back() -> None:
    counts = _of(np.full(SHAPE, -850.0))
    n_voxels = np.count_nonzero(_lung().voxels)
    assert counts.shape == (len(ZONES), len(EDGES_HU) - 1)
    assert counts[:4].sum() == counts[4:].sum() == n_voxels
    assert np.count_nonzero(counts.sum(axis=0)) == 1


def test_dense_tissue_is_seen_in_the_zone_where_it_lies() -> None:
    hu = np.full(SHAPE, -850.0)
    hu[:30, 25:] = 10.0  # the lower half of the back
    share_dense = zone_matrix(_of(hu)[None])[0].reshape(len(ZONES), -1)[:, EDGES_HU[:-1] >= 0] ** 2
    share = dict(zip(ZONES, share_dense.sum(axis=1), strict=True))
    assert share["upper rim"] < 0.1 and share["upper core"] < 0.1 and share["front"] < 0.1
    assert share["lower rim"] > 0.3 and share["lower core"] > 0.3 and share["back"] > 0.35


def test_noise_of_a_scanner_hardly_changes_them() -> None:
    rng = np.random.default_rng(0)
    hu = np.full(SHAPE, -825.0)
    clean, noisy = (zone_matrix(_of(v)[None]) for v in (hu, hu + rng.normal(0, 35, SHAPE)))
    assert np.abs(clean - noisy).max() < 0.1


def test_a_zone_without_a_voxel_is_no_fault() -> None:
    assert np.isfinite(zone_matrix(np.zeros((2, 6, 24), np.uint32))).all()
