"""Every figure of a study: which there are, what they are called, and their files.

Each figure is a pure function on frames and arrays in a module of its own; here they are given what they draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd

from popclust.presentation.acquisition_figure import acquisition_figure
from popclust.presentation.association_figure import MAX_TERMS, association_figure, frequent_terms
from popclust.presentation.captions import Caption, Drawn, n_of
from popclust.presentation.criterion_figures import DESCRIPTOR_TITLES, criterion_figure, descriptor_figure
from popclust.presentation.funnel import Funnel, cohort_funnel, funnel_figure
from popclust.presentation.maps import (
    MIN_MAP_VOLUMES,
    embed,
    example_cells,
    framed_by_group,
    map_figure,
    map_sample,
    place_beside,
    principal_axes,
    principal_figure,
)
from popclust.presentation.pictures import read_all_pictured, sheet_volumes, typical_volumes
from popclust.presentation.profiles import N_EXAMPLES, GroupProfile, profile_figure, significant_terms, word_shares
from popclust.presentation.quality_figures import contact_sheet_figure, quality_figure, worst_first
from popclust.presentation.side_by_side import Scales, cards_of, side_by_side_figure
from popclust.presentation.slices import SLICE_WORDS
from popclust.presentation.style import to_png, to_svg
from popclust.presentation.topic_figures import draw_words
from popclust.presentation.view import StudyView, read_store, read_view, volume_descriptors
from popclust.study import Study

_N_WORST, _N_RANDOM = 16, 8
_N_CELLS = 6


def write_figures(study: Study) -> list[str]:
    """Draw every figure that the study has the tables for, into figures/<name>.png and .svg.

    Also writes figures/captions.json and, where volumes are grouped, figures/map.csv with the places on the map, and
    figures/words.csv and topics.csv with where every visual word and topic lives.
    Figures of an earlier run are removed first. Equal tables give equal bytes.

    Returns
    -------
    list of str
        Names of the figures, in the order of the page.
    """
    study.remove("figures")
    captions = []
    for drawn in draw_figures(read_view(study)):
        name = drawn.caption.name
        study.write_bytes(to_png(drawn.figure), "figures", f"{name}.png")
        study.write_bytes(to_svg(drawn.figure), "figures", f"{name}.svg")
        captions.append(drawn.caption)
    study.write_json([asdict(c) for c in captions], "figures", "captions.json")
    return [c.name for c in captions]


def draw_figures(view: StudyView) -> Iterator[Drawn]:
    """Figures one after the other, in the order of the page."""
    yield _funnel(view)
    if len(view.quality):
        yield from _quality(view)
    if view.reported is not None and len(view.criterion):
        yield from _criterion(view)
    if view.reported is None or view.groups.empty:
        return
    associations = view.reported_associations()
    if len(associations):
        yield _associations(view, associations)
    yield _acquisition(view)
    yield from _map(view)
    yield from _profiles(view, associations)
    yield from draw_words(view)


def funnel_of(view: StudyView) -> Funnel:
    """The cohort from series seen to volumes with a report."""
    grouped = set(view.groups["volume_id"])
    n_with_report = len(grouped & set(view.reports["volume_id"]))
    return cohort_funnel(view.cohort, view.quality, view.quarantine, len(grouped), n_with_report)


def _funnel(view: StudyView) -> Drawn:
    funnel = funnel_of(view)
    steps = ", ".join(f"{n:,} {name}" for name, n in funnel.steps)
    caption = "Volumes left after each step. A series that breaks several rules stands under each of them."
    return Drawn(funnel_figure(funnel), Caption("cohort", "Cohort", caption, f"Bars: {steps}."))


def _quality(view: StudyView) -> Iterator[Drawn]:
    settings = view.study.settings
    n_accepted = int(view.quality["accepted"].sum())
    counted = f"{n_accepted:,} of {len(view.quality):,} volumes accepted"
    what = "each registration"
    if settings.normalize.transforms == "given":
        what = "the transforms that were given (nothing was registered)"
    caption = f"Measures of {what}; dashed: the limit of acceptance."
    figure = quality_figure(view.quality, settings.normalize)
    yield Drawn(figure, Caption("registration", "Registration", caption, f"Four histograms; {counted}."))
    if not settings.summarize.show_examples:
        return
    ordered = worst_first(view.quality)
    pictures = read_all_pictured(view.study, sheet_volumes(ordered, _N_WORST, _N_RANDOM))
    if pictures:
        caption = (
            "Lungs carried over from the atlas, outlined on each volume: "
            f"the {min(_N_WORST, len(ordered))} worst first (those not accepted, then by the probability that the "
            f"registration failed), then a random sample. Coronal and axial slice, {SLICE_WORDS}."
        )
        alt = f"Coronal and axial slices of {len(pictures)} volumes with the lungs outlined."
        figure = contact_sheet_figure(list(pictures.values()), view.quality)
        yield Drawn(figure, Caption("overlays", "Lungs where lungs are", caption, alt))


def _criterion(view: StudyView) -> Iterator[Drawn]:
    reported = view.reported
    if reported is None:
        return
    rows = view.criterion[reported.rows(view.criterion)]
    at = f"K = {reported.n_clusters}, seed {reported.seed}: {int(rows['Q'].iloc[0])} significant associations"
    own = view.criterion[view.criterion["descriptor"] == reported.descriptor]
    if own["n_clusters"].nunique() > 1:
        caption = "Significant associations by number of groups: seeds grey, their mean blue, the reported seed red."
        alt = f"Lines of Q over K for {DESCRIPTOR_TITLES[reported.descriptor]}; reported: {at}."
        yield Drawn(criterion_figure(view.criterion, reported), Caption("criterion", "Number of groups", caption, alt))
    if view.criterion["descriptor"].nunique() > 1:
        best = view.criterion.groupby(["descriptor", "n_clusters"])["Q"].mean().groupby("descriptor").max()
        peaks = ", ".join(f"{DESCRIPTOR_TITLES[str(d)]} {q:.1f}" for d, q in best.items())
        caption = (
            "Mean significant associations over the seeds, by what the groups were formed on. "
            "Histograms of six zones need neither registration nor words: what they reach is no merit of either."
        )
        figure = descriptor_figure(view.criterion, reported)
        yield Drawn(figure, Caption("descriptors", "Descriptors compared", caption, f"Largest mean Q: {peaks}."))


def _associations(view: StudyView, associations: pd.DataFrame) -> Drawn:
    significant = associations[associations["p_holm"] <= view.alpha]
    n_more = int((significant["direction"] > 0).sum())
    n_terms = associations["term_id"].nunique()
    n_shown = len(frequent_terms(associations))
    cut = f" The {MAX_TERMS} most frequent of {n_terms:,} terms." if n_shown < n_terms else ""
    caption = (
        "Terms by decreasing frequency (count) against groups. Red: mentioned more often than elsewhere, "
        f"blue: less often; larger: further from OR = 1.{cut}"
    )
    alt = (
        f"Matrix of {n_shown} terms and {view.n_groups} groups: {n_more} associations positive, "
        f"{len(significant) - n_more} negative."
    )
    figure = association_figure(associations, view.alpha)
    return Drawn(figure, Caption("associations", "Groups and report terms", caption, alt))


def _acquisition(view: StudyView) -> Drawn:
    caption = (
        "Kernels, scanners, slice thicknesses, measured noise and sharpness in each group: a group of one kernel is a "
        f"scanner in disguise.{_harmonised(view)}"
    )
    alt = f"Heat maps of acquisition against {view.n_groups} groups."
    return Drawn(acquisition_figure(view.groups, view.cohort), Caption("acquisition", "Acquisition", caption, alt))


def _harmonised(view: StudyView) -> str:
    """What was left out of texture because it follows the scanner."""
    shares, n = view.nuisance_share, view.n_removed
    if not shares:
        return ""
    moved = f"degraded copies of some volumes moved texture by up to {shares[0]:.0%} of the variance of a direction"
    left = f"{shares[n]:.1%}" if n < len(shares) else "nothing"
    return (
        f" Before words were learnt, {moved}; {n} of {len(shares)} directions were left out, after which it is {left}."
    )


def _map(view: StudyView) -> Iterator[Drawn]:
    if len(view.groups) < MIN_MAP_VOLUMES or view.reported is None:
        return
    frame = map_of_population(view)
    place = frame[["x", "y"]].to_numpy()
    view.study.write_bytes(frame.to_csv(index=False, lineterminator="\n").encode(), "figures", "map.csv")
    tiles = None
    if view.study.settings.summarize.show_examples:
        cells = example_cells(place, _N_CELLS)
        pictures = read_all_pictured(view.study, [frame["volume_id"].iloc[i] for i in cells])
        shown = {where: frame.iloc[i] for i, where in cells.items() if frame["volume_id"].iloc[i] in pictures}
        tiles = {
            where: framed_by_group(pictures[row["volume_id"]].axial, int(row["cluster"]))
            for where, row in shown.items()
        }
    n_sampled = len(map_sample(len(frame), view.study.settings.summarize.seed))
    sampled = (
        f" t-SNE is of a random {n_sampled:,} of {len(frame):,} volumes; each other lies where those most like it do."
        if n_sampled < len(frame)
        else ""
    )
    what = DESCRIPTOR_TITLES[view.reported.descriptor]
    caption = (
        f"t-SNE of the volume descriptors ({what}): near volumes look alike; far distances mean nothing. "
        f"Numbers: groups, larger for larger ones.{sampled}{f' Slices: axial, {SLICE_WORDS}.' if tiles else ''}"
    )
    alt = f"Scatter of {len(frame):,} volumes in {view.n_groups} groups" + (", with slices." if tiles else ".")
    figure = map_figure(place, frame["cluster"].to_numpy(), tiles, _N_CELLS)
    yield Drawn(figure, Caption("map", "Map of the population", caption, alt))
    yield _principal(view, frame, view.reported.descriptor, what)


def _principal(view: StudyView, frame: pd.DataFrame, descriptor: str, what: str) -> Drawn:
    place, share = principal_axes(volume_descriptors(view.study, descriptor, frame["volume_id"]))
    caption = f"The same volumes along the two axes of most variance ({what}): distances mean something here."
    alt = f"Scatter of {len(frame):,} volumes; the axes hold {share[0]:.0%} and {share[1]:.0%} of the variance."
    return Drawn(
        principal_figure(place, share, frame["cluster"].to_numpy()),
        Caption("map_pca", "Map by principal axes", caption, alt),
    )


def map_of_population(view: StudyView) -> pd.DataFrame:
    """Places of the volumes on the map: volume_id, cluster, x, y in the unit square.

    Raises
    ------
    ValueError
        Too few volumes, or none grouped.
    """
    if view.reported is None:
        raise ValueError("view: no grouping is reported, so there is no map")
    seed = view.study.settings.summarize.seed
    shown = view.groups.reset_index(drop=True)
    descriptors = volume_descriptors(view.study, view.reported.descriptor, shown["volume_id"])
    sampled = map_sample(len(shown), seed)
    is_placed = np.isin(np.arange(len(shown)), sampled)
    place = place_beside(descriptors, is_placed, embed(descriptors[sampled], seed))
    return shown[["volume_id", "cluster"]].assign(x=place[:, 0].round(6), y=place[:, 1].round(6))


def _profiles(view: StudyView, associations: pd.DataFrame) -> Iterator[Drawn]:
    words, topics = read_store(view.study, "word_counts"), read_store(view.study, "topics")
    if words is None or topics is None:
        return
    ids = view.groups["volume_id"].astype(object).to_numpy()
    vocabulary = words["vocabulary"].to_numpy()
    word_share = word_shares(words["counts"].sel(volume=ids).to_numpy(), vocabulary)
    topic_share = topics["topic_of_volume"].sel(volume=ids).to_numpy()
    typical = typical_volumes(view.groups, N_EXAMPLES)
    profiles = []
    for k, volume_ids in typical.items():
        own = view.groups["cluster"].to_numpy() == k
        terms = significant_terms(associations, k, view.alpha)
        shown = view.study.settings.summarize.show_examples
        pictures = read_all_pictured(view.study, volume_ids) if shown else {}
        profile = GroupProfile(
            cluster=k,
            n_volumes=int(np.count_nonzero(own)),
            topic_share=topic_share[own].mean(axis=0),
            topic_share_all=topic_share.mean(axis=0),
            word_share=word_share[own].mean(axis=0),
            word_share_all=word_share.mean(axis=0),
            vocabulary_of_word=vocabulary,
            is_unstable=bool(view.groups.loc[own, "unstable"].any()),
            terms=terms,
            examples=tuple(pictures.values()),
        )
        profiles.append(profile)
        yield Drawn(profile_figure(profile), _profile_caption(profile))
    scales = Scales.of(profiles)
    for card in cards_of(profiles, associations):
        yield Drawn(side_by_side_figure([card], scales, view.alpha), _card_caption(card.profile))


def _card_caption(profile: GroupProfile) -> Caption:
    slices = f" Slices: coronal and axial, {SLICE_WORDS}." if profile.examples else ""
    return Caption(
        name=f"card_{profile.cluster:02d}",
        title=f"Group {profile.cluster}",
        caption=f"The same scales and terms for every group.{slices}",
        alt=f"Words, topics, terms and slices of group {profile.cluster}, {n_of(profile.n_volumes, 'volume')}.",
    )


def _profile_caption(profile: GroupProfile) -> Caption:
    top = int(np.argmax(profile.topic_share - profile.topic_share_all))
    more, less = (
        ", ".join(str(t) for t in profile.terms.loc[profile.terms["direction"] == way, "term"].head(5)) or "none"
        for way in (1, -1)
    )
    shaken = "; unstable: it hardly comes back when all is learnt again" if profile.is_unstable else ""
    about = f"{n_of(profile.n_volumes, 'volume')}{shaken}."
    slices = f" Slices: {SLICE_WORDS}." if profile.examples else ""
    return Caption(
        name=f"group_{profile.cluster:02d}",
        title=f"Group {profile.cluster}",
        caption=f"{about} Terms mentioned more often: {more}. Less often: {less}.{slices}",
        alt=(
            f"Profile of group {profile.cluster}: topic {top} stands out with a mean share of "
            f"{profile.topic_share[top]:.2f}; terms mentioned more often: {more}; less often: {less}."
        ),
    )
