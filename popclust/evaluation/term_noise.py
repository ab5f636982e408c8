"""What the term extractor's own errors do to Q: mentions missed, mentions that are false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from popclust.evaluation.associations import run_tests
from popclust.evaluation.counting import CountedPopulation
from popclust.settings import AssociateSettings

TERM_NOISE = ["errors", "miss_rate", "false_mention_rate", "Q", "Q_mean", "Q_p05", "Q_p95", "share_found_again"]
"""Columns of the table of term noise."""


def term_noise(
    population: CountedPopulation,
    settings: AssociateSettings,
    measured: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Q of one grouping when terms are dropped and added at random at the extractor's two measured rates.

    The reports as extracted stand for the truth. A mention is missed with probability miss_rate; then so many are
    added to reports without the term, at random, that false_mention_rate of all mentions of a term are false on
    average. Both errors fall alike on all groups, so they can only weaken associations.

    Parameters
    ----------
    population
        Units, terms and one grouping.
    settings
        alpha, n_noise_repeats and seed; miss_rate and false_mention_rate of terms whose own were not measured.
    measured
        The two rates of single terms, by term_id.

    Returns
    -------
    DataFrame
        Rows for errors = 'misses', 'false mentions', 'both': the mean rates of the tested terms, Q as found, mean and
        5th and 95th percentile of Q under errors, and the share of the found associations that are found again.

    Raises
    ------
    ValueError
        A rate outside [0, 1), or a population with more than one grouping.
    """
    if not (0 <= settings.miss_rate < 1 and 0 <= settings.false_mention_rate < 1):
        raise ValueError("miss_rate and false_mention_rate must be at least 0 and below 1")
    if len(population.grid) != 1:
        raise ValueError(f"population: wanted one grouping, got {len(population.grid)}; choose one with only()")
    found = run_tests(population, settings.alpha).p_holm <= settings.alpha
    others = (settings.miss_rate, settings.false_mention_rate)
    rates = np.array([measured.get(t, others) for t in population.term_id]).reshape(-1, 2)
    kinds = {"misses": rates * (1, 0), "false mentions": rates * (0, 1), "both": rates}
    rows = []
    for kind, (name, of_term) in enumerate(kinds.items()):
        Q, again = [], []
        for repeat in range(settings.n_noise_repeats):
            rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(2, kind, repeat)))
            noisy = replace(population, has_term=with_errors(population.has_term, of_term[:, 0], of_term[:, 1], rng))
            significant = run_tests(noisy, settings.alpha).p_holm <= settings.alpha
            Q.append(int(significant.sum()))
            again.append(np.sum(significant & found) / found.sum() if found.any() else np.nan)
        rows.append((name, *_means(of_term), int(found.sum()), *_spread(Q), _mean(again)))
    return pd.DataFrame(rows, columns=TERM_NOISE)


def with_errors(
    has_term: NDArray[np.bool_], miss_rate: ArrayLike, false_mention_rate: ArrayLike, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Terms (unit, term) with random misses, and false mentions that make up the given share of what is mentioned.

    The rates are one for all terms, or one per term.
    """
    miss_rate, false_mention_rate = np.asarray(miss_rate), np.asarray(false_mention_rate)
    kept = has_term & (rng.random(has_term.shape) >= miss_rate)
    n_false = has_term.sum(axis=0) * (1 - miss_rate) * false_mention_rate / (1 - false_mention_rate)
    n_absent = (~has_term).sum(axis=0)
    rate = np.divide(n_false, n_absent, out=np.zeros(n_absent.size), where=n_absent > 0)
    return kept | (~has_term & (rng.random(has_term.shape) < np.minimum(rate, 1.0)))


def _means(of_term: NDArray[np.float64]) -> tuple[float, float]:
    miss_rate, false_rate = of_term.mean(axis=0) if len(of_term) else (0.0, 0.0)
    return float(miss_rate), float(false_rate)


def _spread(values: list[int]) -> tuple[float, float, float]:
    if not values:
        return np.nan, np.nan, np.nan
    return float(np.mean(values)), float(np.percentile(values, 5)), float(np.percentile(values, 95))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else np.nan
