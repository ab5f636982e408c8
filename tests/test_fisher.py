"""Fisher's exact test and exact odds ratios against whole numbers, scipy and their own definitions."""

from __future__ import annotations

from fractions import Fraction
from math import comb, exp, lgamma, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from popclust.evaluation.fisher import critical_counts, fisher_exact, log_factorials
from popclust.evaluation.odds_ratios import detectable_odds_ratios, odds_ratio_intervals


@st.composite
def tables(draw, largest=400):
    B = draw(st.integers(1, largest))
    R, C = draw(st.integers(0, B)), draw(st.integers(0, B))
    V = draw(st.integers(max(0, R + C - B), min(R, C)))
    return V, R, C, B


def exact_p(V, R, C, B):
    """Two-sided p in whole numbers: ties are ties."""
    ways = {x: comb(C, x) * comb(B - C, R - x) for x in range(max(0, R + C - B), min(R, C) + 1)}
    return Fraction(sum(w for w in ways.values() if w <= ways[V]), comb(B, R))


@settings(deadline=None, max_examples=300)
@given(tables())
def test_p_is_that_of_whole_numbers(table):
    exact = exact_p(*table)
    test = fisher_exact(*table)
    assert float(test.p_value) == pytest.approx(float(exact), rel=1e-12)
    if exact == 1:  # exactly 1, not 1 - 1e-16: ties of the likeliest tables included
        assert float(test.log_p) == 0.0
    else:
        assert float(test.log_p) == pytest.approx(log(exact), rel=1e-12, abs=0)


@settings(deadline=None, max_examples=100)
@given(tables(largest=20_000))
def test_log_p_and_odds_ratio_are_scipys(table):
    V, R, C, B = table
    reference = stats.fisher_exact([[V, R - V], [C - V, B - R - C + V]])
    test = fisher_exact(V, R, C, B)
    np.testing.assert_equal(float(test.odds_ratio), float(reference.statistic))
    if reference.pvalue > 1e-300:
        assert float(test.log_p) == pytest.approx(min(0.0, log(reference.pvalue)), rel=1e-10, abs=1e-14)


def test_a_p_below_the_smallest_double_keeps_its_logarithm():
    test = fisher_exact(3000, 3000, 3000, 6000)
    expected = log(2) - (lgamma(6001) - 2 * lgamma(3001))  # V = R = C = B/2: this table and its mirror image
    assert float(test.p_value) == 0.0
    assert float(test.log_p) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=100)
@given(tables())
def test_exchanging_rows_columns_or_both_changes_nothing(table):
    V, R, C, B = table
    p = float(fisher_exact(V, R, C, B).p_value)
    for other in ((V, C, R, B), (C - V, B - R, C, B), (R - V, R, B - C, B)):
        assert float(fisher_exact(*other).p_value) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "odds"),
    [((0, 0, 5, 10), np.nan), ((5, 10, 5, 10), np.nan), ((0, 5, 0, 10), np.nan), ((5, 5, 10, 10), np.nan)],
)
def test_an_empty_margin_has_p_1(table, odds):
    test = fisher_exact(*table)
    assert float(test.p_value) == 1.0
    np.testing.assert_equal(float(test.odds_ratio), odds)


@pytest.mark.parametrize("table", [(3, 2, 5, 10), (-1, 2, 5, 10), (0, 11, 5, 10), (0, 8, 8, 10)])
def test_counts_that_form_no_table_are_refused(table):
    with pytest.raises(ValueError, match="no table"):
        fisher_exact(*table)


def test_fractions_of_people_are_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        fisher_exact(1.5, 2, 5, 10)


def test_counts_are_broadcast():
    assert fisher_exact(np.arange(3)[:, None], 5, np.array([4, 6]), 20).p_value.shape == (3, 2)
    assert fisher_exact(np.array([], dtype=int), 1, 1, 2).p_value.shape == (0,)


def test_log_factorials_hold_twice_the_digits():
    table = log_factorials(2000)
    for n in (2, 63, 64, 65, 170, 2000):
        product = Fraction(1)
        for m in range(2, n + 1):
            product *= m
        scaled = product / Fraction(2) ** (product.numerator.bit_length())
        remainder = log(scaled) + product.numerator.bit_length() * log(2)
        assert table[n, 0] == pytest.approx(remainder, rel=1e-14)
        assert abs(table[n, 1]) <= np.spacing(table[n, 0])
    step = (table[1001, 0] - table[1000, 0]) + (table[1001, 1] - table[1000, 1])
    assert step == pytest.approx(log(1001), abs=1e-16, rel=0) or abs(step - log(1001)) <= np.spacing(log(1001))


@settings(deadline=None, max_examples=100)
@given(tables(), st.sampled_from([0.05, 0.0025, 1e-6]))
def test_no_significant_count_lies_inside_the_critical_bounds(table, level):
    _, R, C, B = table
    low, high = critical_counts(R, C, B, level, log_factorials(B))
    V = np.arange(max(0, R + C - B), min(R, C) + 1)
    p = fisher_exact(V, R, C, B).p_value
    assert not np.any((p <= level) & (low < V) & (high > V))
    # and they are no idle bounds: at most the next count is let through on each side
    assert np.sum((p > level) & ((low >= V) | (high <= V))) <= 2


def two_sided(table, odds):
    """p of V in its noncentral hypergeometric distribution, by brute force; odds is (n,)."""
    V, R, C, B = table
    x = np.arange(max(0, R + C - B), min(R, C) + 1)
    weight = stats.hypergeom.logpmf(x, B, C, R) + x * np.log(odds)[:, None]
    weight = np.exp(weight - weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    observed = weight[:, x == V]
    return (weight * (weight <= observed * (1 + 1e-9))).sum(axis=1)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((1, 1, 1, 1), 0.0131, 76.2492),
        ((1, 9, 11, 3), 0.0013, 0.3567),
        ((7, 12, 0, 5), 0.5171, np.inf),
        ((12, 7, 5, 0), 0.0, 1.9338),
        ((2, 31, 136, 15532), 1.2436, 28.3557),
        ((4, 1, 20, 1), 0.005, 9.5943),
    ],
)
def test_intervals_are_those_of_rs_exact2x2(cells, low, high):
    """Printed by exact2x2(tsmethod = "minlike") to four digits; they stand in the tests of Julia's HypothesisTests."""
    V, others, without, neither = (np.array([count]) for count in cells)
    interval = odds_ratio_intervals(V, V + others, V + without, V + others + without + neither)
    assert (interval.low[0], interval.high[0]) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@settings(deadline=None, max_examples=150)
@given(tables(largest=150))
def test_intervals_invert_the_test(table):
    V, R, C, B = table
    interval = odds_ratio_intervals(*(np.array([count]) for count in table))
    low, high = interval.low[0], interval.high[0]
    if max(0, R + C - B) == min(R, C):
        assert (low, high) == (0.0, np.inf)
        return
    p = fisher_exact(V, R, C, B).p_value
    assert (low <= 1.0 <= high) == (p > 0.05)
    if low > 0:
        below = low * (1 - np.concatenate([[1e-9], np.geomspace(1e-4, 0.95, 60)]))
        assert np.all((two_sided(table, below) <= 0.05 + 1e-8) | (below < 1) & (low >= 1))  # a gap that holds 1
        assert two_sided(table, np.array([low * (1 + 1e-9)]))[0] > 0.05 - 1e-8
    if high < np.inf:
        above = high / (1 - np.concatenate([[1e-9], np.geomspace(1e-4, 0.95, 60)]))
        assert np.all((two_sided(table, above) <= 0.05 + 1e-8) | (above > 1) & (high <= 1))
        assert two_sided(table, np.array([high / (1 + 1e-9)]))[0] > 0.05 - 1e-8


@settings(deadline=None, max_examples=60)
@given(tables(largest=8000))
def test_intervals_of_large_tables_end_where_the_test_does(table):
    V, R, C, B = table
    interval = odds_ratio_intervals(*(np.array([count]) for count in table))
    assert (interval.low[0] <= 1.0 <= interval.high[0]) == (fisher_exact(V, R, C, B).p_value > 0.05)
    for end, outside, inside in ((interval.low[0], 1 - 1e-7, 1 + 1e-7), (interval.high[0], 1 + 1e-7, 1 - 1e-7)):
        if 0 < end < np.inf:
            p = two_sided(table, np.array([end * outside, end * inside]))
            assert p[0] < 0.05 + 1e-6 or (end - 1) * (end * outside - 1) <= 0
            assert p[1] > 0.05 - 1e-6


@pytest.mark.parametrize(("R", "C", "B"), [(50, 100, 5886), (300, 60, 900), (100, 90, 200)])
def test_detectable_odds_ratio_has_the_wanted_power(R, C, B):
    level, wanted = 0.05 / 20, 0.8
    found = detectable_odds_ratios(np.array([R]), np.array([C]), B, level, wanted)
    x = np.arange(max(0, R + C - B), min(R, C) + 1)
    significant = np.array([stats.fisher_exact([[v, R - v], [C - v, B - R - C + v]]).pvalue for v in x]) <= level
    mean = R * C / B
    for odds, side in ((found.above[0], x > mean), (found.below[0], x < mean)):
        if not np.any(significant & side):
            assert odds in (0.0, np.inf)
            continue
        power = stats.nchypergeom_fisher.pmf(x[significant & side], B, C, R, odds).sum()
        assert power == pytest.approx(wanted, rel=1e-8)


def test_a_group_too_small_to_show_anything_detects_nothing():
    found = detectable_odds_ratios(np.array([1]), np.array([50]), 100, 0.0025)
    assert (found.above[0], found.below[0]) == (np.inf, 0.0)
    with pytest.raises(ValueError, match="power"):
        detectable_odds_ratios(np.array([5]), np.array([5]), 100, 0.05, 1.0)


def test_probability_of_a_single_table_matches_its_formula():
    """A hand-made case: a lady tasting tea, all eight cups right."""
    assert float(fisher_exact(4, 4, 4, 8).p_value) == pytest.approx(2 / 70, rel=1e-14)
    assert exp(float(fisher_exact(3, 4, 4, 8).log_p)) == pytest.approx(34 / 70, rel=1e-14)
