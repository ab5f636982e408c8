"""One volume on the atlas: the multi-template choice, both directions of the transform, and its quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from popclust.imaging.volume import Volume, sample
from popclust.normalization.atlas import Atlas
from popclust.normalization.cage import lungs_within_wall, with_disease
from popclust.normalization.consolidation import with_consolidation
from popclust.normalization.correspondence import likeness_of_parts, thinned
from popclust.normalization.effusion import between_lungs, with_fluid
from popclust.normalization.orientation import find_orientation
from popclust.normalization.preparation import Prepared, prepare
from popclust.normalization.quality import (
    UNCHECKED,
    Evidence,
    failure_probability,
    filled_of,
    measure,
    reject_reasons,
    rotation_of,
    telling,
)
from popclust.normalization.sides import left_of, sides_of, trusted_sides
from popclust.normalization.start import extent_in
from popclust.normalization.stored_maps import load_field, load_volume, save_gridded
from popclust.normalization.template_choice import (
    BothWays,
    Candidate,
    affine_candidates,
    choose,
    compare,
    in_order,
    reach,
    search_templates,
)
from popclust.normalization.transform import AffineMap, DisplacementField, PointMap
from popclust.settings import NormalizeSettings


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
    """bool; the atlas's lungs carried over to the volume's space, joined with what of them is not aerated: of the sides
    that are trusted."""
    rotation_to_atlas: NDArray[np.float64]
    """(3, 3) rotation that takes a zyx vector in the volume's space to the atlas's."""
    quality: Mapping[str, Any]
    """The row of quality.parquet without its volume_id, and more measures; ready for JSON."""

    def save(self, group: zarr.Group) -> None:
        """Write into an empty zarr group; equal content gives equal bytes."""
        gridded: dict[str, Volume | DisplacementField] = {
            "to_volume": self.to_volume,
            "to_atlas": self.to_atlas,
            "lung": self.lung,
        }
        attrs = {
            "template_id": self.template_id,
            "ncc_of_templates": dict(self.ncc_of_templates),
            "quality": dict(self.quality),
        }
        save_gridded(group, "normalized", gridded, attrs, {"rotation_to_atlas": self.rotation_to_atlas})

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
    reached = reach(atlas)
    promising = [candidates[name] for name in in_order(affine_ncc, reached)]
    ways, final_ncc = search_templates(promising, prepared, atlas, settings, float(np.median(list(reached.values()))))
    chosen = choose(final_ncc)
    way_round = find_orientation(atlas.reference, prepared, settings) if settings.check_orientation else UNCHECKED
    start = candidates[chosen].start
    evidence = Evidence(way_round, _spread_mm(candidates, atlas), start.method, start.n_inliers, start.n_matches)
    within_wall = lungs_within_wall(prepared, atlas.reference, candidates[chosen].to_atlas(prepared), settings)
    return _assembled(ways[chosen], chosen, affine_ncc | final_ncc, prepared, atlas, settings, evidence, within_wall)


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


def _spread_mm(candidates: Mapping[str, Candidate], atlas: Atlas) -> float:
    """Disagreement of the templates: median distance of their affine candidates from their mean, in the lungs."""
    lungs = atlas.reference.lungs
    points = thinned(lungs.index_to_mm(np.argwhere(lungs.voxels)), 1000)
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
    within_wall: Volume | None = None,
) -> Normalized:
    """Carry the lungs over, join what of them is not aerated, measure, decide."""
    reference, on = atlas.reference, volume.lungs
    nodes = ways.to_volume.nodes_mm()
    back = AffineMap.fitted(ways.to_volume(nodes), nodes)
    lung = carried_over(reference.lungs, ways.to_atlas, on)
    whole = lung if within_wall is None else _with_airless(lung, within_wall, ways, volume, reference)
    alike = likeness_of_parts(reference, volume, ways.to_volume, filled_of(volume, whole))
    measures = measure(reference, volume, ways.to_volume, lung, alike["both"])
    probability = failure_probability(measures)
    reasons = reject_reasons(measures, evidence, probability, settings)
    is_left = left_of(reference, ways.to_atlas, on)
    sides = sides_of(reference, volume, ways.to_volume, is_left, lung, alike)
    trusted = trusted_sides(reasons, sides, settings)
    if len(trusted) == 1:
        whole = whole.with_values(whole.voxels & (is_left.voxels == (trusted == ["left"])))
    extent = extent_in(back, volume)
    quality = {
        "template_id": template_id,
        **_rounded(dataclasses.asdict(measures)),
        **_row_of_evidence(evidence),
        "inverse_error_mm": round(_inverse_error_mm(ways, reference.lungs, volume), 6),
        "extent_low_mm": [round(v, 3) for v in extent.low_mm],
        "extent_high_mm": [round(v, 3) for v in extent.high_mm],
        "failure_probability": round(probability, 6),
        "failure_probability_right": round(sides["right"].failure_probability, 6),
        "failure_probability_left": round(sides["left"].failure_probability, 6),
        "telling": telling(measures),
        "accepted": bool(trusted),
        "trusted": trusted,
        "reasons": reasons,
    }
    ncc = _rounded(ncc_of_templates)
    return Normalized(template_id, ncc, ways.to_volume, ways.to_atlas, whole, rotation_of(back.matrix), quality)


def _with_airless(lung: Volume, within_wall: Volume, ways: BothWays, volume: Prepared, reference: Prepared) -> Volume:
    """The lungs with what disease, consolidation or fluid fills of them."""
    between = carried_over(between_lungs(reference), ways.to_atlas, volume.lungs)
    whole = with_consolidation(with_disease(lung, within_wall, volume), within_wall, volume, between)
    return with_fluid(whole, volume, between)


def _inverse_error_mm(ways: BothWays, lungs: Volume, volume: Prepared) -> float:
    """Mean distance of the atlas's lung points in the field of view from themselves, there and back; 0 without any."""
    points = thinned(lungs.index_to_mm(np.argwhere(lungs.voxels)), 5000)
    there = ways.to_volume(points)
    error = np.linalg.norm(ways.to_atlas(there) - points, axis=1)[volume.shows(there)]
    return float(error.mean()) if len(error) else 0.0


def _row_of_evidence(evidence: Evidence) -> dict[str, Any]:
    """What the search for a start and a way round found, by the names of quality.parquet."""
    return {
        "orientation": evidence.orientation.best,
        "orientation_advantage": round(evidence.orientation.advantage, 6),
        "orientation_of_body": evidence.orientation.body_agrees,
        "template_spread_mm": round(evidence.template_spread_mm, 6),
        "start": evidence.start_method,
        "n_inliers": evidence.n_inliers,
        "n_matches": evidence.n_matches,
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def carried_over(mask: Volume, to_mask: PointMap, grid: Volume) -> Volume:
    """A mask pulled onto another grid through a map from that grid's space to the mask's."""
    points = grid.index_to_mm(np.indices(grid.shape).reshape(3, -1).T)
    return grid.with_values((sample(mask, to_mask(points), outside=0.0) > 0.5).reshape(grid.shape))
