"""The figures: what they draw against slow references, and that equal tables give equal bytes."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import json
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_study import MadeStudy, make_study
from matplotlib.colors import to_hex

from popclust.imaging.selection import REASONS
from popclust.normalization.quality import reject_reasons
from popclust.presentation import funnel, maps, pictures, profiles, style
from popclust.presentation.acquisition_figure import share_by_group
from popclust.presentation.association_figure import association_figure, clipped_log2, frequent_terms
from popclust.presentation.captions import read_captions
from popclust.presentation.criterion_figures import criterion_figure, descriptor_figure
from popclust.presentation.figures import write_figures
from popclust.presentation.quality_figures import quality_figure, worst_first
from popclust.presentation.view import read_view
from popclust.reported import Grouping
from popclust.settings import NormalizeSettings

MODULES = (
    *("acquisition_figure", "first_screen", "maps", "profiles", "slices", "style", "summary_content"),
    *("word_pictures", "word_places"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"popclust.presentation.{name}"))
    assert result.attempted > 0 and result.failed == 0


# -- files ---------------------------------------------------------------------------------------------------------


def test_every_figure_is_written_twice_with_equal_bytes(made: MadeStudy) -> None:
    folder = Path(made.study.path("figures"))
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        names = write_figures(made.study)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
    view = read_view(made.study)
    profiles_ = [f"{kind}_{k:02d}" for kind in ("group", "card") for k in range(view.n_groups)]
    shared = [
        "cohort",
        "registration",
        "overlays",
        "criterion",
        "descriptors",
        "associations",
        "acquisition",
        "map",
        "map_pca",
    ]
    assert names == [*shared, *profiles_]
    assert set(first) == {f"{n}.{e}" for n in names for e in ("png", "svg")} | {"captions.json", "map.csv"}
    assert all(b.startswith(b"\x89PNG") for n, b in first.items() if n.endswith(".png"))


def test_captions_speak_of_every_figure(made: MadeStudy) -> None:
    captions = read_captions(made.study)
    drawn = {p.stem for p in Path(made.study.path("figures")).glob("*.png")}
    assert {c.name for c in captions} == drawn
    assert all(c.alt and c.caption.endswith(".") and c.title for c in captions)
    assert json.loads(made.study.read_bytes("figures", "captions.json"))[0]["name"] == "cohort"


def test_without_examples_no_voxel_is_drawn(tmp_path: Path) -> None:
    made = make_study(tmp_path / "s", 24, overrides={"summarize": {"show_examples": False}})
    names = write_figures(made.study)
    assert "overlays" not in names and "map" in names
    has_raster = {n for n in names if b"<image" in made.study.read_bytes("figures", f"{n}.svg")}
    assert has_raster <= {"acquisition"}  # a heat map is a raster too


def test_figures_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    made = make_study(tmp_path / "s", 16, with_reports=False, with_volumes=False)
    made.study.write_bytes(b"old", "figures", "group_29.png")
    names = write_figures(made.study)
    assert not made.study.exists("figures", "group_29.png")
    assert not {"associations", "criterion", "descriptors", "overlays"} & set(names)
    assert "group_00" in names


# -- criterion -----------------------------------------------------------------------------------------------------


def criterion_frame(with_null: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = [
        {"unit": "patient", "descriptor": d, "n_clusters": k, "seed": s, "Q": int(rng.integers(0, 20))}
        for d in ("lda", "sift")
        for k in range(2, 9)
        for s in range(5)
    ]
    frame = pd.DataFrame(rows)
    null = frame["n_clusters"].astype(float)
    for column, values in {
        "Q_null_mean": null / 8,
        "Q_null_p95": null / 4,
        "p_value": 0.1,
        "p_value_selected": 0.2,
    }.items():
        frame[column] = values if with_null else np.nan
    return frame


def test_criterion_draws_seeds_mean_and_the_reported_one() -> None:
    frame, reported = criterion_frame(), Grouping("lda", 5, 2)
    axes = criterion_figure(frame, reported).axes[0]
    own = frame[frame["descriptor"] == "lda"]
    lines = {tuple(np.asarray(line.get_ydata(), float)): to_hex(line.get_color()) for line in axes.lines}
    for seed in range(5):
        assert tuple(own[own["seed"] == seed].sort_values("n_clusters")["Q"].astype(float)) in lines
    mean = tuple(float(np.mean(own.loc[own["n_clusters"] == k, "Q"])) for k in range(2, 9))
    assert lines[mean] == style.BLUE
    q = float(own.loc[(own["n_clusters"] == 5) & (own["seed"] == 2), "Q"].iloc[0])
    assert lines[(q,)] == style.RED
    assert len(axes.collections) == 1  # the null's band
    assert not criterion_figure(criterion_frame(with_null=False), reported).axes[0].collections


def test_descriptors_are_compared_by_their_means() -> None:
    frame = criterion_frame()
    axes = descriptor_figure(frame, Grouping("lda", 5, 2)).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert set(drawn) == {"LDA topics", "3D-SIFT shape"}
    sift = frame[frame["descriptor"] == "sift"]
    assert drawn["3D-SIFT shape"] == [sift.loc[sift["n_clusters"] == k, "Q"].mean() for k in range(2, 9)]


# -- associations --------------------------------------------------------------------------------------------------


def test_significant_cells_are_filled_in_the_colour_of_their_direction(made: MadeStudy) -> None:
    view = read_view(made.study)
    tests = view.reported_associations()
    axes = association_figure(tests, 0.05).axes[0]
    filled, faint = axes.collections
    order = tests.drop_duplicates("term_id").sort_values(["C", "term"], ascending=[False, True])["term_id"].tolist()
    wanted = {
        (int(r.cluster), order.index(r.term_id), style.RED if r.direction > 0 else style.BLUE)
        for r in tests[tests["p_holm"] <= 0.05].itertuples()
    }
    places = np.asarray(filled.get_offsets()).astype(int)
    found = {(int(x), int(y), to_hex(c)) for (x, y), c in zip(places, filled.get_facecolors(), strict=True)}
    assert found == wanted and wanted
    assert len(faint.get_offsets()) == len(tests) - len(wanted)


def test_only_the_most_frequent_terms_are_drawn(made: MadeStudy) -> None:
    tests = read_view(made.study).reported_associations()
    assert len(frequent_terms(tests, 3)) == 3
    assert len(association_figure(tests, 0.05, 3).axes[0].get_yticks()) == 3
    counts = frequent_terms(tests)["C"].tolist()
    assert counts == sorted(counts, reverse=True)


@given(st.lists(st.floats(0, np.inf), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_clipped_log_odds_are_bounded_and_antisymmetric(values: list[float]) -> None:
    odds = np.array(values)
    log = clipped_log2(odds)
    assert np.all(np.abs(log) <= 5)
    with np.errstate(divide="ignore", over="ignore"):
        np.testing.assert_allclose(clipped_log2(1 / odds), -log, atol=1e-9)
    assert clipped_log2(np.array([np.nan])).tolist() == [0.0]


# -- cohort --------------------------------------------------------------------------------------------------------


def test_funnel_counts_every_step(made: MadeStudy) -> None:
    view = read_view(made.study)
    out = funnel.cohort_funnel(view.cohort, view.quality, view.quarantine, 38, 35)
    assert dict(out.steps) == {
        "series seen": 46,
        "included": 40,
        "registered and accepted": 38,
        "grouped": 38,
        "with a report": 35,
    }
    for step, frame, kept in (
        ("selection", view.cohort, "included"),
        ("registration quality", view.quality, "accepted"),
    ):
        codes = [code for _, row in frame.iterrows() if not row[kept] for code in row["reasons"]]
        assert sum(loss.n_volumes for loss in out.losses if loss.step == step) == len(codes)
    [kept_out] = [loss for loss in out.losses if loss.step == "quarantine in normalize"]
    assert (kept_out.n_volumes, kept_out.sentence) == (2, "the lungs found no overlap with any template")


def test_every_code_has_a_sentence() -> None:
    assert all(funnel.selection_sentence(code).endswith(".") for code in REASONS)
    codes = re.findall(r'"([a-z_]+)":', inspect.getsource(reject_reasons))
    assert "low_ncc" in codes
    assert {*codes, "feet_first", "face_down", "mirrored"} <= set(funnel.QUALITY_REASONS)
    assert funnel.selection_sentence("another_new_code") == "Another new code."


def test_an_excluded_series_without_a_reason_is_counted_too(made: MadeStudy) -> None:
    view = read_view(made.study)
    cohort = view.cohort.copy()
    at = cohort.index[~cohort["included"]][0]
    cohort.at[at, "reasons"] = []
    losses = funnel.cohort_funnel(cohort, view.quality, view.quarantine, 0, 0).losses
    assert [loss.n_volumes for loss in losses if loss.sentence == "Unstated."] == [1]


def test_the_worst_registrations_come_first(made: MadeStudy) -> None:
    quality = read_view(made.study).quality
    ordered = worst_first(quality)
    assert ordered["accepted"].tolist() == sorted(quality["accepted"])
    shown = pictures.sheet_volumes(ordered, 4, 3)
    assert shown[:4] == ordered["volume_id"].tolist()[:4]
    assert len(set(shown)) == 7
    fewer = ordered[~ordered["volume_id"].isin(shown[6:])]
    assert pictures.sheet_volumes(fewer, 4, 2) == shown[:6]  # who else is there does not matter
    panels = quality_figure(quality, NormalizeSettings()).axes
    assert sum(p.get_height() for p in panels[0].patches) == len(quality)


# -- acquisition ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcdefgh")), min_size=1, max_size=40),
    st.integers(2, 10),
)
@settings(deadline=None, max_examples=50)
def test_shares_of_a_group_sum_to_one(rows: list[tuple[int, str]], max_values: int) -> None:
    cluster, value = (pd.Series(list(part)) for part in zip(*rows, strict=True))
    share = share_by_group(cluster, value, max_values)
    np.testing.assert_allclose(share.sum(), 1.0)
    assert len(share) <= max_values
    for name in share.index.drop("other", errors="ignore"):
        for k in share.columns:
            own = [v for c, v in rows if c == k]
            assert share.loc[name, k] == pytest.approx(own.count(name) / len(own))


# -- map -----------------------------------------------------------------------------------------------------------


def test_the_map_keeps_groups_together_and_is_repeatable() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 20)
    descriptors = np.eye(3)[group] + rng.normal(0, 0.05, (60, 3))
    place = maps.embed(descriptors, 0)
    assert place.min() >= 0 and place.max() <= 1
    distance = np.linalg.norm(place[:, None] - place[None], axis=2) + 10 * np.eye(60)
    assert np.mean(group[distance.argmin(axis=1)] == group) == 1.0
    np.testing.assert_array_equal(maps.embed(descriptors, 0), place)


def test_a_map_of_equal_or_few_volumes() -> None:
    assert np.isfinite(maps.embed(np.ones((8, 3)), 0)).all()
    with pytest.raises(ValueError, match="needs 5 volumes, got 4"):
        maps.embed(np.ones((4, 3)), 0)


@given(hnp.arrays(float, st.tuples(st.integers(1, 60), st.just(2)), elements=st.floats(0, 1)), st.integers(1, 7))
@settings(deadline=None, max_examples=50)
def test_every_occupied_cell_has_one_example(place: np.ndarray, n_cells: int) -> None:
    found = maps.example_cells(place, n_cells)
    cells = {tuple(np.minimum((p * n_cells).astype(int), n_cells - 1)[::-1].tolist()) for p in place}
    assert set(found.values()) == cells
    for index, (row, column) in found.items():
        assert tuple(np.minimum((place[index] * n_cells).astype(int), n_cells - 1)) == (column, row)


def test_large_populations_are_sampled() -> None:
    chosen = maps.map_sample(100, 1, 20)
    assert len(set(chosen.tolist())) == 20 and (np.diff(chosen) > 0).all()
    assert maps.map_sample(20, 1, 20).tolist() == list(range(20))


def test_volumes_beyond_the_sample_lie_among_their_like() -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 3, 400)
    descriptors = np.eye(3)[group] + rng.normal(0, 0.05, (400, 3))
    sampled = maps.map_sample(400, 0, 100)
    is_placed = np.isin(np.arange(400), sampled)
    middle = np.array([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])
    given_places = middle[group[sampled]] + rng.normal(0, 0.02, (100, 2))
    place = maps.place_beside(descriptors, is_placed, given_places)
    np.testing.assert_array_equal(place[sampled], given_places)
    nearest = np.linalg.norm(place[:, None] - middle[None], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, group)
    other = int(np.flatnonzero(~is_placed)[0])
    order = np.argsort(np.linalg.norm(descriptors[sampled] - descriptors[other], axis=1))[: maps.N_PLACED_BY]
    np.testing.assert_allclose(place[other], np.median(given_places[order], axis=0))


def test_groups_look_different() -> None:
    looks = [(style.group_colour(k), style.group_marker(k)) for k in range(64)]
    assert len(set(looks)) == 64


# -- profiles ------------------------------------------------------------------------------------------------------


def test_word_shares_are_taken_within_a_vocabulary() -> None:
    counts = np.array([[1, 3, 0, 0, 5], [0, 0, 2, 2, 0]], np.uint32)
    words = np.array(["haralick", "haralick", "micro_sift", "micro_sift", "macro_sift"])
    expected = [[0.25, 0.75, 0, 0, 1], [0, 0, 0.5, 0.5, 0]]
    assert profiles.word_shares(counts, words).tolist() == expected


def test_over_represented_terms_are_significant_and_more_frequent(made: MadeStudy) -> None:
    tests = read_view(made.study).reported_associations()
    for k in tests["cluster"].unique():
        own = profiles.over_represented(tests, int(k), 0.05)
        brute = [
            r.term for r in tests.itertuples() if r.cluster == k and r.direction > 0 and r.p_holm <= 0.05
        ]  # fmt: skip
        assert sorted(own["term"]) == sorted(brute)
        assert own["p_holm"].is_monotonic_increasing


def test_typical_volumes_are_the_nearest(made: MadeStudy) -> None:
    groups = read_view(made.study).groups
    for k, ids in pictures.typical_volumes(groups, 2).items():
        own = groups[groups["cluster"] == k]
        nearest = own.loc[own["distance"] <= np.sort(own["distance"])[1], "volume_id"]
        assert set(ids) == set(nearest)


def test_a_profile_without_terms_and_examples_says_so() -> None:
    profile = profiles.GroupProfile(
        cluster=0,
        n_volumes=3,
        topic_share=np.full(4, 0.25),
        topic_share_all=np.full(4, 0.25),
        word_share=np.full(3, 1.0),
        word_share_all=np.full(3, 1.0),
        vocabulary_of_word=np.array(["haralick", "micro_sift", "macro_sift"]),
        terms=pd.DataFrame({"term": [], "direction": [], "odds_ratio": [], "ci_low": [], "ci_high": [], "p_holm": []}),
    )
    figure = profiles.profile_figure(profile)
    assert [t.get_text() for axes in figure.axes for t in axes.texts if "significance" in t.get_text()]
    infinite = pd.DataFrame(
        {
            "term": ["x"],
            "direction": [1],
            "odds_ratio": [np.inf],
            "ci_low": [2.0],
            "ci_high": [np.inf],
            "p_holm": [1e-9],
        }
    )
    assert style.to_png(profiles.profile_figure(dataclasses.replace(profile, terms=infinite))).startswith(b"\x89PNG")
