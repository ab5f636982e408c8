"""Displacements between nodes: what scipy gives for one component after the other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from popclust.normalization import interpolation

SHAPES = [(9, 12, 7), (4, 4, 4), (30, 5, 21)]


def indices(shape: tuple[int, int, int]) -> np.ndarray:
    """Between nodes, at nodes, at the ends, and beyond."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(-0.5, 1.5, (5000, 3)) * shape
    corners = np.stack(np.meshgrid(*[(0.0, 1.0, n - 2.0, n - 1.0) for n in shape]), axis=-1).reshape(-1, 3)
    return np.concatenate([spread, np.round(spread[:500]), corners])


@pytest.mark.parametrize("shape", [*SHAPES, (1, 3, 2)])
def test_linear_is_scipy_s(shape: tuple[int, int, int]) -> None:
    nodes = np.random.default_rng(1).normal(0, 20, (3, *shape)).astype(np.float32)
    index = indices(shape)
    wanted = [ndimage.map_coordinates(c, index.T, order=1, mode="nearest") for c in nodes]
    found = interpolation.linear(nodes, index)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack(wanted, axis=-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_cubic_is_scipy_s(shape: tuple[int, int, int]) -> None:
    coefficients = np.random.default_rng(1).normal(0, 20, (3, *shape))
    index = indices(shape)
    inside = np.clip(index, 1.0, np.array(shape) - 2.0).T
    wanted = [ndimage.map_coordinates(c, inside, order=3, prefilter=False, mode="nearest") for c in coefficients]
    np.testing.assert_allclose(interpolation.cubic(coefficients, index), np.stack(wanted, axis=-1), rtol=0, atol=1e-12)


def test_what_is_no_number_reads_within_the_grid() -> None:
    nowhere = np.full((2, 3), np.nan)
    assert interpolation.linear(np.ones((3, 4, 5, 6), np.float32), nowhere).shape == (2, 3)
    assert interpolation.cubic(np.ones((3, 4, 5, 6)), nowhere).shape == (2, 3)


def test_no_points_give_none() -> None:
    assert interpolation.linear(np.ones((3, 4, 5, 6), np.float32), np.zeros((0, 3))).shape == (0, 3)
    assert interpolation.cubic(np.ones((3, 4, 5, 6)), np.zeros((0, 3))).shape == (0, 3)
