"""One volume on the atlas: the multi-template choice, both directions of the transform, and its quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from popclust.errors import VolumeError
from popclust.imaging.volume import Volume, sample
from popclust.normalization.atlas import Atlas, Template
from popclust.normalization.orientation import find_orientation
from popclust.normalization.preparation import Prepared, corners_mm, prepare
from popclust.normalization.quality import (
    UNCHECKED,
    Evidence,
    failure_probability,
    measure,
    ncc,
    reject_reasons,
    rotation_of,
    thinned,
)
from popclust.normalization.registration import NEAR_LUNGS_MM, register_affine, register_nonlinear
from popclust.normalization.start import Start, extent_in, find_starts
from popclust.normalization.stored_maps import load_field, load_volume, save_field, save_volume
from popclust.normalization.transform import AffineMap, ChainMap, DisplacementField, PointMap, inverse_field
from popclust.settings import NormalizeSettings

TIE_NCC = 0.001
"""Templates closer in NCC are equally good: two other seeds would differ by half of it (standard deviation)."""


@dataclass(frozen=True)
class Normalized:
    """How one volume lies in the atlas."""

    template_id: str
    """The chosen template."""
    ncc_of_templates: Mapping[str, float]
    """Correlation with the atlas by template: final, or after the affine step where that was the last."""
    to_volume: DisplacementField
    """Positions in the atlas -> positions in the volume: for masks and images."""
    to_atlas: DisplacementField
    """Positions in the volume -> positions in the atlas: for features."""
    lung: Volume
    """bool; the atlas's lungs carried over to the volume's space, isotropic at the atlas's resolution."""
    rotation_to_atlas: NDArray[np.float64]
    """(3, 3) rotation that takes a zyx vector in the volume's space to the atlas's."""
    quality: Mapping[str, Any]
    """The row of quality.parquet without its volume_id, and more measures; ready for JSON."""

    def save(self, group: zarr.Group) -> None:
        """Write into an empty zarr group; equal content gives equal bytes."""
        save_field(group, "to_volume", self.to_volume)
        save_field(group, "to_atlas", self.to_atlas)
        save_volume(group, "lung", self.lung)
        group.create_array("rotation_to_atlas", data=self.rotation_to_atlas)
        group.attrs.update(
            {
                "template_id": self.template_id,
                "ncc_of_templates": dict(self.ncc_of_templates),
                "quality": dict(self.quality),
            }
        )

    @classmethod
    def load(cls, group: zarr.Group) -> Normalized:
        """Read what `save` wrote."""
        attrs: dict[str, Any] = dict(group.attrs)
        return cls(
            attrs["template_id"],
            attrs["ncc_of_templates"],
            load_field(group, "to_volume"),
            load_field(group, "to_atlas"),
            load_volume(group, "lung"),
            np.asarray(group["rotation_to_atlas"][...]),  # type: ignore[index]
            attrs["quality"],
        )


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


@dataclass(frozen=True)
class BothWays:
    """A composed transform in both directions, as it is stored."""

    to_volume: DisplacementField
    """Positions in the atlas -> positions in the volume."""
    to_atlas: DisplacementField
    """Positions in the volume -> positions in the atlas."""


def normalize_volume(
    volume: Volume, atlas: Atlas, settings: NormalizeSettings, lungs: Volume | None = None
) -> Normalized:
    """Register a volume to the atlas through the template that fits best.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    atlas : Atlas
        The reference and its templates.
    settings : NormalizeSettings
        How, and the limits of acceptance. Equal input and settings give equal bits.
    lungs : Volume, optional
        bool mask from elsewhere; without it the lungs are segmented by intensity.

    Returns
    -------
    Normalized
        Its ``quality`` says whether the volume is accepted, and if not, why.

    Raises
    ------
    VolumeError
        The volume cannot be registered at all: too small, flat, no lung, or every registration failed.
    """
    prepared = prepare(volume, atlas.spacing_mm, lungs)
    candidates = affine_candidates(prepared, atlas, settings)
    affine_ncc = compare({n: c.to_volume for n, c in candidates.items()}, prepared, atlas, settings.min_coverage)
    order = sorted(affine_ncc, key=lambda name: (-affine_ncc[name], name))
    ways, final_ncc = search_templates([candidates[name] for name in order], prepared, atlas, settings)
    chosen = choose(final_ncc)
    way_round = find_orientation(atlas.reference, prepared, settings) if settings.check_orientation else UNCHECKED
    start = candidates[chosen].start
    evidence = Evidence(way_round, _spread_mm(candidates, atlas), start.method, start.n_inliers, start.n_matches)
    return _assembled(ways[chosen], chosen, affine_ncc | final_ncc, prepared, atlas, settings, evidence)


def normalized_from_given(
    volume: Volume,
    atlas: Atlas,
    to_volume: DisplacementField,
    to_atlas: DisplacementField,
    settings: NormalizeSettings,
) -> Normalized:
    """The same record for transforms known beforehand: nothing is registered.

    Raises
    ------
    VolumeError
        The volume is too small, flat, or shows no lung.
    """
    prepared = prepare(volume, atlas.spacing_mm)
    return _assembled(BothWays(to_volume, to_atlas), "given", {}, prepared, atlas, settings, Evidence(UNCHECKED))


def compare(to_volume: Mapping[str, PointMap], volume: Prepared, atlas: Atlas, min_coverage: float) -> dict[str, float]:
    """NCC(A, T_eA(T_ie(I))) by template over the atlas voxels that every candidate covers.

    The voxels are those in and around the atlas's lungs. A candidate that covers less than `min_coverage` of them
    is left out beforehand (NCC -1), or the smallest overlap would decide for all.
    """
    region = atlas.reference.near_lungs(NEAR_LUNGS_MM)
    points = thinned(region.index_to_mm(np.argwhere(region.hu)))
    moved = {name: point_map(points) for name, point_map in to_volume.items()}
    shown = {name: volume.shows(p) for name, p in moved.items()}
    enough = [name for name, s in shown.items() if s.mean() >= min_coverage] or list(shown)
    shared = np.logical_and.reduce([shown[name] for name in enough])
    atlas_hu = sample(atlas.reference.image, points)[shared]
    values = {name: sample(volume.image, moved[name][shared], outside=0.0) for name in enough}
    return {name: ncc(atlas_hu, values[name]) if name in values and shared.any() else -1.0 for name in moved}


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
    candidates: Sequence[Candidate], volume: Prepared, atlas: Atlas, settings: NormalizeSettings
) -> tuple[dict[str, BothWays], dict[str, float]]:
    """The transforms through the candidates that get a non-linear step, and their NCC, both by template.

    Those are all of them, or in a pruned search the first `n_best`. Where the best of these fits badly, the affine
    order foretells little, and the others follow.

    Parameters
    ----------
    candidates : sequence of Candidate
        The one that correlates best after the affine step first.

    Raises
    ------
    VolumeError
        elastix could register none.
    """
    n_first = settings.n_best if settings.search == "pruned" else len(candidates)
    ways: dict[str, BothWays] = {}
    final_ncc: dict[str, float] = {}
    for part in (candidates[:n_first], candidates[n_first:]):
        if max(final_ncc.values(), default=-1.0) < settings.sure_ncc:
            ways |= final_ways(part, volume, atlas, settings)
            final_ncc = compare({n: w.to_volume for n, w in ways.items()}, volume, atlas, settings.min_coverage)
    if not ways:
        raise VolumeError("registration_failed", "elastix could not register this volume: too little overlap")
    return ways, final_ncc


def choose(final_ncc: Mapping[str, float]) -> str:
    """The first template, in the order of the affine step, than which none is better by more than `TIE_NCC`."""
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


def _spread_mm(candidates: Mapping[str, Candidate], atlas: Atlas) -> float:
    """Disagreement of the templates: median distance of their affine candidates from their mean, in the lungs."""
    lungs = atlas.reference.lungs
    points = thinned(lungs.index_to_mm(np.argwhere(lungs.hu)), 1000)
    moved = np.stack([c.to_volume(points) for c in candidates.values()])
    return float(np.median(np.linalg.norm(moved - moved.mean(axis=0), axis=-1)))


def _assembled(
    ways: BothWays,
    template_id: str,
    ncc_of_templates: Mapping[str, float],
    volume: Prepared,
    atlas: Atlas,
    settings: NormalizeSettings,
    evidence: Evidence,
) -> Normalized:
    """Carry the lungs over, measure, decide."""
    nodes = ways.to_volume.nodes_mm()
    back = AffineMap.fitted(ways.to_volume(nodes), nodes)
    lung = carried_over(atlas.reference.lungs, ways.to_atlas, volume.lungs)
    measures = measure(atlas.reference, volume, ways.to_volume, lung)
    probability = failure_probability(measures, evidence)
    reasons = reject_reasons(measures, evidence, probability, settings)
    extent = extent_in(back, volume)
    lungs = atlas.reference.lungs
    points = thinned(lungs.index_to_mm(np.argwhere(lungs.hu)), 5000)
    there = ways.to_volume(points)
    there_and_back = np.linalg.norm(ways.to_atlas(there) - points, axis=1)[volume.shows(there)]
    quality = {
        "template_id": template_id,
        **{name: round(value, 6) for name, value in dataclasses.asdict(measures).items()},
        "orientation": evidence.orientation.best,
        "orientation_advantage": round(evidence.orientation.advantage, 6),
        "template_spread_mm": round(evidence.template_spread_mm, 6),
        "inverse_error_mm": round(float(there_and_back.mean()), 6) if len(there_and_back) else 0.0,
        "start": evidence.start_method,
        "n_inliers": evidence.n_inliers,
        "n_matches": evidence.n_matches,
        "extent_low_mm": [round(v, 3) for v in extent.low_mm],
        "extent_high_mm": [round(v, 3) for v in extent.high_mm],
        "failure_probability": round(probability, 6),
        "accepted": not reasons,
        "reasons": reasons,
    }
    rounded = {name: round(value, 6) for name, value in ncc_of_templates.items()}
    return Normalized(template_id, rounded, ways.to_volume, ways.to_atlas, lung, rotation_of(back.matrix), quality)


def carried_over(mask: Volume, to_mask: PointMap, grid: Volume) -> Volume:
    """A mask pulled onto another grid through a map from that grid's space to the mask's."""
    points = grid.index_to_mm(np.indices(grid.shape).reshape(3, -1).T)
    return grid.with_values((sample(mask, to_mask(points), outside=0.0) > 0.5).reshape(grid.shape))
