"""Which template brings a volume to the atlas best: affine steps to all, non-linear ones to the most promising."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.errors import VolumeError
from popclust.imaging.volume import sample
from popclust.normalization.atlas import Atlas, Template
from popclust.normalization.correspondence import ncc, ncc_or_zero, thinned
from popclust.normalization.preparation import Prepared, corners_mm
from popclust.normalization.registration import NEAR_LUNGS_MM, register_affine, register_nonlinear
from popclust.normalization.start import Start, find_starts
from popclust.normalization.transform import AffineMap, ChainMap, DisplacementField, PointMap, inverse_field
from popclust.settings import NormalizeSettings

TIE_NCC = 0.001
"""Templates closer in NCC are equally good: two other seeds would differ by half of it (standard deviation)."""
N_FITTED = 2000
"""Lung positions to which an affine map is fitted."""


@dataclass(frozen=True)
class Candidate:
    """A template, and where the volume lies in it after the affine step."""

    template: Template
    start: Start
    """Where its registration began."""
    to_template: AffineMap
    """Positions in the volume -> positions in the template."""

    def to_volume(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions in the atlas -> positions in the volume: p_i = t_ie(t_eA(p_A))."""
        return self.to_template.inverse()(self.template.from_atlas(points_mm))

    def to_atlas(self, volume: Prepared) -> AffineMap:
        """The affine map that is nearest to the way into the atlas, over the volume's lungs."""
        points = thinned(volume.lungs.index_to_mm(np.argwhere(volume.lungs.voxels)), N_FITTED)
        return AffineMap.fitted(points, self.template.to_atlas(self.to_template(points)))


@dataclass(frozen=True)
class BothWays:
    """A composed transform in both directions, as it is stored."""

    to_volume: DisplacementField
    """Positions in the atlas -> positions in the volume."""
    to_atlas: DisplacementField
    """Positions in the volume -> positions in the atlas."""


def compare(to_volume: Mapping[str, PointMap], volume: Prepared, atlas: Atlas, min_coverage: float) -> dict[str, float]:
    """NCC(A, T_eA(T_ie(I))) by template over the atlas voxels that every candidate covers.

    The voxels are those in and around the atlas's lungs. A candidate that covers less than `min_coverage` of them
    is left out beforehand (NCC -1), or the smallest overlap would decide for all.
    """
    points = _compared_mm(atlas)
    moved = {name: point_map(points) for name, point_map in to_volume.items()}
    shown = {name: volume.shows(p) for name, p in moved.items()}
    enough = [name for name, s in shown.items() if s.mean() >= min_coverage] or list(shown)
    shared = np.logical_and.reduce([shown[name] for name in enough])
    atlas_hu = sample(atlas.reference.image, points)[shared]
    values = {name: sample(volume.image, moved[name][shared], outside=0.0) for name in enough}
    return {name: ncc(atlas_hu, values[name]) if name in values and shared.any() else -1.0 for name in moved}


def reach(atlas: Atlas) -> dict[str, float]:
    """NCC(A, T_eA(e)) by template over the same voxels: what a volume just like that template would reach through it.

    The atlas itself is held to be as good as the best other; without one, perfect.
    """
    points = _compared_mm(atlas)
    atlas_hu, found = sample(atlas.reference.image, points), {}
    for template in atlas.templates[1:]:
        moved = template.from_atlas(points)
        shown = template.prepared.shows(moved)
        found[template.template_id] = ncc_or_zero(atlas_hu[shown], sample(template.prepared.image, moved[shown]))
    return {atlas.templates[0].template_id: max(found.values(), default=1.0)} | found


def in_order(affine_ncc: Mapping[str, float], reached: Mapping[str, float]) -> list[str]:
    """Templates by promise: how well the affine step fits, and how well the rest of the way is known."""
    return sorted(affine_ncc, key=lambda name: (-affine_ncc[name] - reached[name], name))


def affine_candidates(volume: Prepared, atlas: Atlas, settings: NormalizeSettings) -> dict[str, Candidate]:
    """One candidate per template that the affine step could reach, by the template's name.

    Raises
    ------
    VolumeError
        None could be reached.
    """
    found, failures = {}, []
    for template in atlas.templates:
        try:
            starts = find_starts(volume, template.prepared)
            affine = register_affine(volume, template.prepared, [s.to_template for s in starts], settings)
            found[template.template_id] = Candidate(template, starts[0], affine)
        except VolumeError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return found


def search_templates(
    candidates: Sequence[Candidate], volume: Prepared, atlas: Atlas, settings: NormalizeSettings, usual: float
) -> tuple[dict[str, BothWays], dict[str, float]]:
    """The transforms through the candidates that get a non-linear step, and their NCC, both by template.

    Those are all of them, or in a pruned search the first `n_best`. Where the best of these fits badly, the order
    foretells little, and the others follow.

    Parameters
    ----------
    candidates : sequence of Candidate
        The most promising first.
    usual : float
        The NCC that templates reach: a share `sure_ncc` of it is no bad fit.

    Raises
    ------
    VolumeError
        elastix could register none.
    """
    n_first = settings.n_best if settings.search == "pruned" else len(candidates)
    ways: dict[str, BothWays] = {}
    final_ncc: dict[str, float] = {}
    for part in (candidates[:n_first], candidates[n_first:]):
        if part and max(final_ncc.values(), default=-1.0) < settings.sure_ncc * usual:
            ways |= final_ways(part, volume, atlas, settings)
            final_ncc = compare({n: w.to_volume for n, w in ways.items()}, volume, atlas, settings.min_coverage)
    if not ways:
        raise VolumeError("registration_failed", "elastix could not register this volume to any template")
    return ways, final_ncc


def _compared_mm(atlas: Atlas) -> NDArray[np.float64]:
    """(n, 3) positions in and around the atlas's lungs."""
    region = atlas.reference.near_lungs(NEAR_LUNGS_MM)
    return thinned(region.index_to_mm(np.argwhere(region.voxels)))


def choose(final_ncc: Mapping[str, float]) -> str:
    """The first template, in the order of their promise, than which none is better by more than `TIE_NCC`."""
    best = max(final_ncc.values())
    return next(name for name, value in final_ncc.items() if value >= best - TIE_NCC)


def final_ways(
    candidates: Sequence[Candidate], volume: Prepared, atlas: Atlas, settings: NormalizeSettings
) -> dict[str, BothWays]:
    """The candidates after the non-linear step, without those that elastix could not register."""
    found = {}
    for c in candidates:
        try:
            chain = register_nonlinear(volume, c.template.prepared, c.to_template, settings)
        except VolumeError:  # the others may do; `search_templates` says so if none does
            continue
        found[c.template.template_id] = both_ways(
            ChainMap((chain, c.template.to_atlas)), volume, atlas.reference, settings.field_spacing_mm
        )
    return found


def both_ways(to_atlas: PointMap, volume: Prepared, reference: Prepared, spacing_mm: float) -> BothWays:
    """A map volume -> reference sampled over the volume, and its inverse sampled over the reference."""
    there = DisplacementField.over_box(to_atlas, corners_mm(volume.image), spacing_mm)
    return BothWays(inverse_field(there, corners_mm(reference.image), spacing_mm), there)
