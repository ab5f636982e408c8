"""Every figure at the sizes that studies have: no text is cut or covered, no legend lies on data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_text import unreadable
from made_study import make_study
from numpy.typing import NDArray

from popclust.presentation import captions, figures, maps, profiles, side_by_side, style
from popclust.presentation.criterion_figures import DESCRIPTOR_TITLES, criterion_figure, descriptor_figure
from popclust.presentation.view import read_view
from popclust.reported import Grouping
from popclust.reports.lexicon import load_lexicon

LONG = ("interlobular septal thickening of the posterior basal segments of both lower lobes", "$p_0", "‮abc\u202c x\ty")
"""A name that must be cut, one that is no formula, one that turns the line around."""


def names(n_terms: int) -> dict[str, str]:
    labels = sorted(load_lexicon().labels.items())[: n_terms - len(LONG)]
    return {**dict(labels), **{f"RID9999{i}": name for i, name in enumerate(LONG)}}


def drawn(tmp_path: Path, n_groups: int, n_volumes: int) -> Iterator[captions.Drawn]:
    made = make_study(
        tmp_path / "s",
        n_volumes,
        with_volumes=n_volumes < 100,
        with_quarantine=True,
        overrides={"cluster": {"seeds": [0]}, "associate": {"min_term_count": 2, "n_permutations": 0}},
        terms=names(69),
        n_groups=n_groups,
        numbers_of_clusters=range(n_groups, n_groups + 1),
    )
    study = made.study
    headers = study.read_table("cohort")
    headers["model"] = [
        f"{m} with a long name that nobody can read" if i % 3 else m for i, m in enumerate(headers["model"])
    ]
    study.write_table("cohort", headers)
    view = read_view(study)
    assert view.n_groups == n_groups and view.record["n_tested_terms"] >= 60
    return figures.draw_figures(view)


def spread_out(descriptors: NDArray, seed: int) -> NDArray[np.float64]:
    """In place of t-SNE, which takes minutes: the plane of most variance."""
    place, _ = maps.principal_axes(descriptors)
    return (place - place.min(axis=0)) / np.ptp(place, axis=0)


SIZES = [
    (19, 72),
    *(pytest.param(*size, marks=pytest.mark.slow) for size in [(60, 8000)]),
    *(pytest.param(*size, marks=pytest.mark.full) for size in [(5, 72), (60, 72), (5, 8000), (19, 8000)]),
]


@pytest.mark.parametrize(("n_groups", "n_volumes"), SIZES)
def test_every_text_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_groups: int, n_volumes: int) -> None:
    monkeypatch.setattr(figures, "embed", spread_out)
    looked_at = {}
    for one in drawn(tmp_path, n_groups, n_volumes):
        name = one.caption.name
        if name == "group_02":
            break  # profiles are of one size
        looked_at[name] = unreadable(one.figure)
    assert {"cohort", "registration", "criterion", "descriptors", "associations", "acquisition"} & set(looked_at)
    assert {"map", "map_pca", "group_00"} <= set(looked_at)
    assert {name: wrong for name, wrong in looked_at.items() if wrong} == {}


@pytest.mark.parametrize(("k_max", "q_max"), [(5, 4), (19, 400), (60, 4140)])
def test_the_choice_of_the_number_of_groups_can_be_read(k_max: int, q_max: int) -> None:
    """All pairs of a group and one of 69 terms are significant at most."""
    names = {"descriptor": list(DESCRIPTOR_TITLES), "n_clusters": range(2, k_max + 1), "seed": range(5)}
    rows = pd.MultiIndex.from_product(names.values(), names=names).to_frame(index=False)
    found = np.random.default_rng(0).integers(0, q_max + 1, len(rows))
    rows = rows.assign(unit="patient", Q=found, Q_null_mean=q_max / 9, Q_null_p95=q_max / 4)
    reported = Grouping("lda", k_max, 4)
    for draw in (criterion_figure, descriptor_figure):
        assert unreadable(draw(rows, reported)) == []


def test_what_cannot_be_read_is_found() -> None:
    figure = style.new_figure(3, 2, None)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.plot([0, 1], label="a line")
    axes.legend(loc="center")
    for x, text in ((0.5, "one"), (0.52, "two"), (0.99, "too far to the right")):
        axes.text(x, 0.9, text, transform=axes.transAxes)
    wrong = unreadable(figure)
    assert "overlap: 'one' and 'two'" in wrong and "a legend lies on data" in wrong
    assert any(w.startswith("cut: 'too far") for w in wrong)


@pytest.mark.parametrize("n_labels", [1, 5, 60])
def test_numbers_on_the_map_do_not_cover_each_other(n_labels: int) -> None:
    rng = np.random.default_rng(0)
    sizes = np.tile([0.05, 0.04], (n_labels, 1))
    anchors = 0.5 + rng.normal(0, 0.02, (n_labels, 2))
    found = maps.label_places(anchors, sizes)
    assert (found[0] == anchors[0]).all() and (found >= 0.02 - 1e-9).all() and (found <= 0.98).all()
    apart = np.abs(found[:, None] - found[None]) + 10 * np.eye(n_labels)[:, :, None]
    assert (apart >= sizes[0] - 1e-9).any(axis=2).all()


def test_principal_axes_are_those_of_the_variance() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (200, 6)) * [1, 5, 1, 3, 1, 1]
    place, share = maps.principal_axes(rows)
    np.testing.assert_allclose(np.abs(np.corrcoef(place[:, 0], rows[:, 1])[0, 1]), 1, atol=0.01)
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    np.testing.assert_allclose(share, values[:2] / values.sum())
    np.testing.assert_allclose(place.var(axis=0, ddof=1), values[:2])
    still, none = maps.principal_axes(np.ones((5, 1)))
    assert not still.any() and not none.any()


def test_a_profile_shows_terms_of_both_directions_and_arrows_where_the_axis_ends() -> None:
    rows = pd.DataFrame(
        {
            "cluster": 0,
            "term": [f"term {i}" for i in range(14)],
            "direction": [1] * 10 + [-1] * 4,
            "odds_ratio": [np.inf, 200.0, *np.linspace(3, 9, 8), 0.0, 0.1, 0.2, 0.3],
            "ci_low": [4.0, 20.0, *np.full(8, 1.5), 0.0, 0.001, 0.1, 0.2],
            "ci_high": [np.inf, 900.0, *np.full(8, 20.0), 0.5, 0.8, 0.9, 0.9],
            "p_holm": [1e-4, 2e-4, *np.linspace(0.001, 0.01, 8), 1e-3, 2e-3, 0.04, 0.06],
        }
    )
    terms = profiles.significant_terms(rows, 0, 0.05)
    assert terms["direction"].tolist() == [1] * 10 + [-1] * 3  # the last is not significant
    assert terms["term"].tolist()[:2] == ["term 0", "term 1"]
    shown = profiles.shown_terms(terms)
    assert shown["direction"].tolist() == [1] * 5 + [-1] * 3
    assert len(profiles.shown_terms(terms[terms["direction"] > 0])) == profiles.MAX_TERMS
    flat = np.full(4, 0.25)
    words = np.array(["haralick", "haralick", "micro_sift", "macro_sift"])
    profile = profiles.GroupProfile(0, 3, flat, flat, flat, flat, words, terms)
    figure = profiles.profile_figure(profile)
    [axes] = [a for a in figure.axes if a.get_title("left").startswith("terms")]
    markers = [(line.get_marker(), float(line.get_ydata()[0])) for line in axes.lines if len(line.get_ydata()) == 1]
    assert {y for m, y in markers if m == ">"} == {0.0, 1.0} and {y for m, y in markers if m == "<"} == {5.0, 6.0}
    assert {y for m, y in markers if m == "s"} == {2.0, 3.0, 4.0, 6.0, 7.0}
    assert unreadable(figure) == []


def test_groups_side_by_side_have_one_scale_and_the_same_terms() -> None:
    rng = np.random.default_rng(2)
    words = np.repeat(["haralick", "micro_sift", "macro_sift"], [20, 10, 10])
    mean = np.full(40, 1 / 40)
    several = [
        profiles.GroupProfile(k, 1234, rng.dirichlet(np.ones(20)), np.full(20, 0.05), rng.dirichlet(np.ones(40)), mean,
                              words, pd.DataFrame())
        for k in (0, 7, 58)
    ]  # fmt: skip
    tests = pd.DataFrame(
        [
            {"cluster": k, "term_id": f"t{t}", "term": f"{LONG[0]} {t}", "C": 100 - t, "odds_ratio": 2.0**k / 8,
             "p_value": (t + 1) / 100, "p_holm": 0.01 if k else 0.5}
            for k in (0, 7, 58)
            for t in range(15)
        ]
    )  # fmt: skip
    cards = side_by_side.cards_of(several, tests)
    assert all(card.terms["term"].tolist() == cards[0].terms["term"].tolist() for card in cards)
    assert len(cards[0].terms) == side_by_side.N_TERMS
    figure = side_by_side.side_by_side_figure(cards, side_by_side.Scales.of(several), 0.05)
    assert unreadable(figure) == []
    by_kind = [figure.axes[i::3] for i in range(3)]
    assert all(len({a.get_xlim() + a.get_ylim() for a in panels}) == 1 for panels in by_kind)
    filled = [{p.get_facecolor()[3] for p in panel.patches} for panel in by_kind[2]]
    assert filled == [{0.0}, {1.0}, {1.0}]
    alone = side_by_side.side_by_side_figure(cards[1:2], side_by_side.Scales.of(several), 0.05)
    assert unreadable(alone) == [] and alone.axes[0].get_ylim() == figure.axes[0].get_ylim()
