from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from popclust.imaging.volume import Volume
from popclust.simulation.scoring import agreement, histogram_agreement, lung_histogram, score_pairs


def _pairs(*rows: tuple[int, str, float, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["cluster", "term_id", "p_holm", "direction"])


def test_pairs_count_with_their_sign():
    true = _pairs((0, "a", 0.01, 1), (0, "b", 0.04, 1), (1, "a", 0.01, -1), (1, "b", 0.5, 1))
    found = _pairs((0, "a", 0.02, 1), (0, "b", 0.2, 1), (1, "a", 0.01, 1), (1, "b", 0.01, 1))
    scores = score_pairs(found, true, 0.05)
    assert (scores.n_true, scores.n_found) == (2, 3)
    assert scores.recall == pytest.approx(1 / 2)
    assert scores.false_share == pytest.approx(2 / 3)
    assert scores.jaccard == pytest.approx(1 / 5)


def test_nothing_found_is_nothing_false():
    scores = score_pairs(_pairs(), _pairs((0, "a", 0.01, 1)), 0.05)
    assert (scores.recall, scores.false_share) == (0.0, 0.0)


def test_agreement_counts_only_what_both_know():
    groups = {"v1": "a", "v2": "a", "v3": "b", "v4": "b", "v5": "c"}
    assert agreement(groups, {"v1": 3, "v2": 3, "v3": 0, "v4": 0, "other": 1}) == 1.0
    assert agreement(groups, {"v1": 0, "v2": 1, "v3": 0, "v4": 1}) < 0.1


def test_histograms_are_of_the_lung_and_tell_densities_apart():
    hu = np.full((8, 8, 8), 40, np.int16)
    hu[:, 2:6, 2:6] = -850
    volume = Volume(hu, (2.0, 2.0, 2.0))
    lung = volume.with_values(hu < -500)
    histogram = lung_histogram(volume, lung)
    assert histogram.sum() == pytest.approx(1)
    assert histogram.max() == 1.0
    others = {f"v{i}": np.roll(histogram, 5 * (i % 2)) for i in range(8)}
    assert histogram_agreement(others, {f"v{i}": "ab"[i % 2] for i in range(8)}, 2, (0, 1)) == 1.0
