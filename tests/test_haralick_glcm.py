"""The co-occurrence kernels against a slow, obvious reference, and by what must not change them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popclust.features import glcm
from popclust.features.glcm import glcm_features
from popclust.features.glcm_counting import directions, n_pairs
from popclust.features.glcm_features import HARALICK_13, IBSI_25


def slow_matrix(levels, centre, window, n_levels, offset, mask):
    """Symmetric matrix of one window and offset, by looking at every pair."""
    matrix = np.zeros((n_levels, n_levels))
    r = window // 2
    ranges = [range(max(c - r, 0), min(c + r + 1, n)) for c, n in zip(centre, levels.shape, strict=True)]
    for voxel in itertools.product(*ranges):
        other = tuple(v + o for v, o in zip(voxel, offset, strict=True))
        if all(o in rng for o, rng in zip(other, ranges, strict=True)) and mask[voxel] and mask[other]:
            matrix[levels[voxel], levels[other]] += 1
            matrix[levels[other], levels[voxel]] += 1
    return matrix


def slow_features(matrix):
    """The 25 features straight from their definitions (IBSI 3.6), on the whole matrix."""
    p = matrix / matrix.sum()
    n = len(p)
    i, j = np.indices(p.shape) + 1
    px = p.sum(axis=1)
    d = np.arange(n)
    pd = np.array([p[np.abs(i - j) == k].sum() for k in d])
    s = np.arange(2, 2 * n + 1)
    ps = np.array([p[i + j == k].sum() for k in s])

    def entropy(q):
        q = q[q > 0]
        return -np.sum(q * np.log2(q))

    mu = np.sum(i * p)
    variance = np.sum((i - mu) ** 2 * p)
    cross = np.outer(px, px)
    hxy1 = -np.sum(p[p > 0] * np.log2(cross[p > 0]))
    hxy2 = entropy(cross)
    hx, hxy = entropy(px), entropy(p)
    off = i != j
    return {
        "joint_maximum": p.max(),
        "joint_average": mu,
        "joint_variance": variance,
        "joint_entropy": hxy,
        "difference_average": np.sum(d * pd),
        "difference_variance": np.sum((d - np.sum(d * pd)) ** 2 * pd),
        "difference_entropy": entropy(pd),
        "sum_average": np.sum(s * ps),
        "sum_variance": np.sum((s - np.sum(s * ps)) ** 2 * ps),
        "sum_entropy": entropy(ps),
        "angular_second_moment": np.sum(p**2),
        "contrast": np.sum((i - j) ** 2 * p),
        "dissimilarity": np.sum(np.abs(i - j) * p),
        "inverse_difference": np.sum(p / (1 + np.abs(i - j))),
        "normalised_inverse_difference": np.sum(p / (1 + np.abs(i - j) / n)),
        "inverse_difference_moment": np.sum(p / (1 + (i - j) ** 2)),
        "normalised_inverse_difference_moment": np.sum(p / (1 + (i - j) ** 2 / n**2)),
        "inverse_variance": np.sum(p[off] / (i - j)[off] ** 2),
        "correlation": (np.sum(i * j * p) - mu**2) / variance if variance > 1e-12 else 1.0,
        "autocorrelation": np.sum(i * j * p),
        "cluster_tendency": np.sum((i + j - 2 * mu) ** 2 * p),
        "cluster_shade": np.sum((i + j - 2 * mu) ** 3 * p),
        "cluster_prominence": np.sum((i + j - 2 * mu) ** 4 * p),
        "information_correlation_1": (hxy - hxy1) / hx if hx > 1e-12 else 0.0,
        "information_correlation_2": np.sqrt(max(0.0, 1 - np.exp(-2 * (hxy2 - hxy)))),
    }


def slow_glcm_features(levels, centre, window, n_levels, distances, mask, aggregation):
    matrices = [slow_matrix(levels, centre, window, n_levels, o, mask) for o in directions(distances)]
    if aggregation == "merged":
        matrices = [sum(matrices)]
    matrices = [m for m in matrices if m.sum() > 0]
    if not matrices:  # one voxel alone counts as a window of its level
        matrices = [np.zeros((n_levels, n_levels))]
        matrices[0][levels[centre], levels[centre]] = 2
    rows = [slow_features(m) for m in matrices]
    return np.array([np.mean([r[name] for r in rows]) for name in IBSI_25])


@st.composite
def cases(draw):
    shape = tuple(draw(st.integers(1, 7)) for _ in range(3))
    n_levels = draw(st.sampled_from([2, 5, 16, 17, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([1, 3, 100]))  # few levels, as in real lung, or all
    levels = np.minimum(rng.integers(0, spread + 1, shape), n_levels - 1).astype(np.uint8)
    window = draw(st.sampled_from([3, 5, 7]))
    distances = draw(st.sampled_from([(1,), (2,), (1, 2)]))
    mask = rng.random(shape) < draw(st.sampled_from([0.2, 0.7])) if draw(st.booleans()) else None
    points = np.stack([rng.integers(0, n, 6) for n in shape], axis=1)
    return levels, points, window, n_levels, distances, mask, draw(st.sampled_from(["merged", "averaged"]))


@settings(deadline=None, max_examples=40)
@given(cases())
def test_equals_the_definitions(case):
    levels, points, window, n_levels, distances, mask, aggregation = case
    found = glcm_features(
        levels,
        points,
        window=window,
        n_levels=n_levels,
        distances=distances,
        mask=mask,
        aggregation=aggregation,
        features="ibsi25",
    )
    everywhere = np.ones(levels.shape, dtype=bool) if mask is None else mask
    for row, point in zip(found, points, strict=True):
        wanted = slow_glcm_features(levels, tuple(point), window, n_levels, distances, everywhere, aggregation)
        scale = np.maximum(np.abs(wanted), 1e-3)
        # The square root in the second information correlation enlarges rounding of an entropy difference near 0.
        tolerance = np.where(np.array(IBSI_25) == "information_correlation_2", 1e-6, 1e-9)
        assert (np.abs(row - wanted) <= tolerance * scale).all(), dict(zip(IBSI_25, row - wanted, strict=True))


def random_levels(shape, n_levels=16, seed=0):
    """Smooth and rough parts, so that windows differ."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    smooth = 4 + 3 * np.sin(z / 5) + 3 * np.cos(y / 4 + x / 7)
    return np.clip(smooth + rng.normal(0, 1 + (x > shape[2] // 2)), 0, n_levels - 1).astype(np.uint8)


def all_points(shape, step=1):
    return np.argwhere(np.ones(shape, dtype=bool)[::step, ::step, ::step]) * step


def test_the_13_features_are_the_first_of_the_25():
    levels = random_levels((12, 13, 14))
    points = all_points(levels.shape, 3)
    few = glcm_features(levels, points, window=5, n_levels=16)
    many = glcm_features(levels, points, window=5, n_levels=16, features="ibsi25")
    assert IBSI_25[:13] == HARALICK_13
    assert np.array_equal(few, many[:, :13])


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_the_48_symmetries_of_the_cube_change_no_bit(permutation, flips):
    levels = random_levels((9, 10, 11))
    points = all_points(levels.shape, 2)
    turned = levels.transpose(permutation)[tuple(slice(None, None, f) for f in flips)]
    moved = points[:, permutation]
    moved = np.where(np.array(flips) == 1, moved, np.array(turned.shape) - 1 - moved)
    wanted = glcm_features(levels, points, window=5, n_levels=16, features="ibsi25")
    found = glcm_features(np.ascontiguousarray(turned), moved, window=5, n_levels=16, features="ibsi25")
    assert np.array_equal(found, wanted)


def test_what_no_relabelling_changes():
    levels = random_levels((10, 10, 10), seed=2)
    points = all_points(levels.shape, 2)
    permutation = np.random.default_rng(3).permutation(16).astype(np.uint8)
    names = [
        "angular_second_moment",
        "joint_entropy",
        "joint_maximum",
        "information_correlation_1",
        "information_correlation_2",
    ]
    columns = [IBSI_25.index(n) for n in names]
    before = glcm_features(levels, points, window=5, n_levels=16, features="ibsi25")
    after = glcm_features(permutation[levels], points, window=5, n_levels=16, features="ibsi25")
    assert np.array_equal(before[:, columns], after[:, columns])
    assert not np.array_equal(before, after)


def test_what_reversing_and_shifting_the_levels_change():
    levels = np.minimum(random_levels((10, 10, 10), seed=4), 11)
    points = all_points(levels.shape, 2)
    before = glcm_features(levels, points, window=5, n_levels=16, features="ibsi25")
    reversed_ = glcm_features(15 - levels, points, window=5, n_levels=16, features="ibsi25")
    shifted = glcm_features(levels + np.uint8(4), points, window=5, n_levels=16, features="ibsi25")
    changes = {"sum_average", "joint_average", "autocorrelation"}
    same = [IBSI_25.index(n) for n in IBSI_25 if n not in changes | {"cluster_shade"}]
    assert np.allclose(before[:, same], reversed_[:, same], rtol=1e-12)
    assert np.allclose(before[:, same], shifted[:, same], rtol=1e-12)
    average, shade = IBSI_25.index("sum_average"), IBSI_25.index("cluster_shade")
    assert np.allclose(reversed_[:, average], 34 - before[:, average], rtol=1e-12)
    assert np.allclose(shifted[:, average], 8 + before[:, average], rtol=1e-12)
    assert np.allclose(reversed_[:, shade], -before[:, shade], rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    cut=st.tuples(*[st.integers(4, 12)] * 3),
    step=st.sampled_from([1, 2, 3, 5]),
    aggregation=st.sampled_from(["merged", "averaged"]),
    masked=st.booleans(),
)
def test_blocks_with_halo_are_the_whole_to_the_bit(cut, step, aggregation, masked):
    shape, window = (16, 17, 18), 7
    levels = random_levels(shape, seed=5)
    mask = np.random.default_rng(6).random(shape) < 0.8 if masked else None
    points = all_points(shape, step)
    chosen = {"window": window, "n_levels": 16, "aggregation": aggregation}
    whole = glcm_features(levels, points, mask=mask, **chosen)
    halo = window // 2
    blocks = [[(0, c), (c, n)] for c, n in zip(cut, shape, strict=True)]
    for block in itertools.product(*blocks):
        low, high = np.array(block).T
        mine = ((points >= low) & (points < high)).all(axis=1)
        start = np.maximum(low - halo, 0)
        part = tuple(slice(a, b + halo) for a, b in zip(start, high, strict=True))
        found = glcm_features(levels[part], points[mine] - start, mask=None if mask is None else mask[part], **chosen)
        assert np.array_equal(found, whole[mine])


def test_neither_the_order_of_points_nor_the_slabs_change_a_bit(monkeypatch):
    levels = random_levels((20, 15, 14), seed=7)
    points = all_points(levels.shape, 2)
    wanted = glcm_features(levels, points, window=5, n_levels=16)
    shuffled = np.random.default_rng(8).permutation(np.repeat(np.arange(len(points)), 2))
    assert np.array_equal(glcm_features(levels, points[shuffled], window=5, n_levels=16), wanted[shuffled])
    monkeypatch.setattr(glcm, "_SLAB_BYTES", 1)
    assert np.array_equal(glcm_features(levels, points, window=5, n_levels=16), wanted)


@pytest.mark.parametrize("n_levels", [2, 16, 100, 256])
@pytest.mark.parametrize("aggregation", ["merged", "averaged"])
def test_windows_of_one_level_or_one_voxel_have_defined_values(n_levels, aggregation):
    level = n_levels - 1
    levels = np.full((6, 6, 6), level, dtype=np.uint8)
    alone = np.zeros(levels.shape, dtype=bool)
    alone[3, 3, 3] = True
    wanted = dict.fromkeys(IBSI_25, 0.0)
    ones = ["angular_second_moment", "correlation", "joint_maximum"]
    ones += [n for n in IBSI_25 if "inverse_difference" in n]
    wanted |= dict.fromkeys(ones, 1.0)
    wanted |= {"sum_average": 2 * n_levels, "joint_average": n_levels, "autocorrelation": n_levels**2}
    for mask in (None, alone, np.zeros(levels.shape, dtype=bool)):
        found = glcm_features(
            levels,
            [(3, 3, 3)],
            window=3,
            n_levels=n_levels,
            mask=mask,
            aggregation=aggregation,
            features="ibsi25",
        )
        assert np.allclose(found[0], [wanted[n] for n in IBSI_25], rtol=1e-14, atol=0)


def test_many_levels_and_wide_windows():
    levels = np.random.default_rng(9).integers(0, 200, (12, 12, 12)).astype(np.uint8)
    found = glcm_features(levels, [(5, 6, 7)], window=25, n_levels=200, features="ibsi25")[0]
    matrix = sum(slow_matrix(levels, (5, 6, 7), 25, 200, o, np.ones(levels.shape, bool)) for o in directions())
    wanted = slow_features(matrix)
    assert np.allclose(found, [wanted[n] for n in IBSI_25], rtol=1e-9)


def test_no_points_give_no_rows():
    assert glcm_features(np.zeros((4, 4, 4), np.uint8), np.empty((0, 3), int), window=3, n_levels=4).shape == (0, 13)


def test_counts_of_pairs():
    assert len(directions()) == 13
    assert n_pairs((9, 9, 9), directions()) == 7448  # 3 * 648 + 6 * 576 + 4 * 512
    assert {max(map(abs, o)) for o in directions((2, 3))} == {2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 4}, "window: must be odd"),
        ({"n_levels": 1}, "n_levels: must be 2"),
        ({"n_levels": 3}, "levels: must be 0"),
        ({"distances": (5,)}, "distances: must be different"),
        ({"distances": ()}, "distances: must be different"),
        ({"mask": np.ones((1, 1, 1), bool)}, "mask: must be bool of shape"),
        ({"levels": np.zeros((6, 6, 6))}, "levels: must be integers"),
        ({"levels": np.zeros((6, 6), int)}, "levels: must have 3 axes"),
        ({"points": [(0, 0, 6)]}, "points: must be indices"),
        ({"points": [(0, 0, -1)]}, "points: must be indices"),
        ({"points": [(0.5, 0, 0)]}, "points: must be \\(n, 3\\) integers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
    good = {"levels": np.full((6, 6, 6), 3, np.uint8), "points": [(3, 3, 3)], "window": 5, "n_levels": 8}
    with pytest.raises(ValueError, match=message):
        glcm_features(**(good | change))
