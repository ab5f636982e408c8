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
from popclust.normalization.start import find_start, is_cut
from popclust.normalization.stored_maps import load_field, load_volume, save_field, save_volume
from popclust.normalization.transform import AffineMap, DisplacementField, PointMap, inverted
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
    """One way to the atlas: through a template."""

    template: Template
    template_to_volume: PointMap
    """t_ie: positions in the template -> positions in the volume."""

    def __call__(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions in the atlas -> positions in the volume: p_i = t_ie(t_eA(p_A))."""
        return self.template_to_volume(self.template.from_atlas(points_mm))


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
    affine = _affine_candidates(prepared, atlas, settings)
    affine_ncc = compare(affine, prepared, atlas, settings.min_coverage)
    order = sorted(affine_ncc, key=lambda name: (-affine_ncc[name], name))
    n_final = settings.n_best if settings.search == "pruned" else len(order)
    final = _final_candidates([c for c in affine if c.template.template_id in order[:n_final]], prepared, settings)
    final_ncc = compare(final, prepared, atlas, settings.min_coverage)
    chosen = max(final, key=lambda c: final_ncc[c.template.template_id])
    way_round = find_orientation(atlas.reference, prepared, settings) if settings.check_orientation else UNCHECKED
    evidence = Evidence(way_round, _spread_mm(affine, atlas))
    return _assembled(chosen, chosen.template.template_id, affine_ncc | final_ncc, prepared, atlas, settings, evidence)


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
    return _assembled(to_volume, "given", {}, prepared, atlas, settings, Evidence(UNCHECKED, 0.0), to_atlas)


def compare(candidates: Sequence[Candidate], volume: Prepared, atlas: Atlas, min_coverage: float) -> dict[str, float]:
    """NCC(A, T_eA(T_ie(I))) by template over the atlas voxels that every candidate covers.

    The voxels are those in and around the atlas's lungs. A candidate that covers less than `min_coverage` of them
    is left out beforehand (NCC -1), or the smallest overlap would decide for all.
    """
    region = atlas.reference.near_lungs(NEAR_LUNGS_MM)
    points = thinned(region.index_to_mm(np.argwhere(region.hu)))
    moved = {c.template.template_id: c(points) for c in candidates}
    shown = {name: volume.shows(p) for name, p in moved.items()}
    enough = [name for name, s in shown.items() if s.mean() >= min_coverage] or list(shown)
    shared = np.logical_and.reduce([shown[name] for name in enough])
    atlas_hu = sample(atlas.reference.image, points)[shared]
    values = {name: sample(volume.image, moved[name][shared], outside=0.0) for name in enough}
    return {name: ncc(atlas_hu, values[name]) if name in values and shared.any() else -1.0 for name in moved}


def _affine_candidates(volume: Prepared, atlas: Atlas, settings: NormalizeSettings) -> list[Candidate]:
    """One candidate per template that the affine step could reach.

    Raises
    ------
    VolumeError
        None could be reached.
    """
    found, failures = [], []
    with_keypoints = is_cut(volume)
    for template in atlas.templates:
        fixed = template.prepared
        try:
            start = find_start(fixed, volume, with_keypoints=with_keypoints)
            found.append(Candidate(template, register_affine(fixed, volume, start.to_moving, settings)))
        except VolumeError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return found


def _final_candidates(
    candidates: Sequence[Candidate], volume: Prepared, settings: NormalizeSettings
) -> list[Candidate]:
    """The same candidates after the non-linear step, without those that it could not register."""
    found, failures = [], []
    for c in candidates:
        start = c.template_to_volume
        assert isinstance(start, AffineMap)  # made so by _affine_candidates
        try:
            found.append(Candidate(c.template, register_nonlinear(c.template.prepared, volume, start, settings)))
        except VolumeError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return found


def _spread_mm(candidates: Sequence[Candidate], atlas: Atlas) -> float:
    """Disagreement of the templates: median distance of their affine candidates from their mean, in the lungs."""
    lungs = atlas.reference.lungs
    points = thinned(lungs.index_to_mm(np.argwhere(lungs.hu)), 1000)
    moved = np.stack([c(points) for c in candidates])
    return float(np.median(np.linalg.norm(moved - moved.mean(axis=0), axis=-1)))


def _assembled(
    point_map: PointMap,
    template_id: str,
    ncc_of_templates: Mapping[str, float],
    volume: Prepared,
    atlas: Atlas,
    settings: NormalizeSettings,
    evidence: Evidence,
    to_atlas: DisplacementField | None = None,
) -> Normalized:
    """Store both directions, carry the lungs over, measure, decide."""
    low, high = corners_mm(atlas.reference.image)
    to_volume = DisplacementField.over_box(point_map, low, high, settings.field_spacing_mm)
    nodes = to_volume.nodes_mm()
    back = AffineMap.fitted(to_volume(nodes), nodes)
    if to_atlas is None:
        low, high = corners_mm(volume.image)
        to_atlas = DisplacementField.over_box(
            lambda points: inverted(to_volume, points, back), low, high, settings.field_spacing_mm
        )
    lung = carried_over(atlas.reference.lungs, to_atlas, volume.lungs)
    measures = measure(atlas.reference, volume, to_volume, lung)
    probability = failure_probability(measures, evidence)
    reasons = reject_reasons(measures, evidence, probability, settings)
    quality = {
        "template_id": template_id,
        **{name: round(value, 6) for name, value in dataclasses.asdict(measures).items()},
        "orientation": evidence.orientation.best,
        "orientation_advantage": round(evidence.orientation.advantage, 6),
        "template_spread_mm": round(evidence.template_spread_mm, 6),
        "failure_probability": round(probability, 6),
        "accepted": not reasons,
        "reasons": reasons,
    }
    rounded = {name: round(value, 6) for name, value in ncc_of_templates.items()}
    return Normalized(template_id, rounded, to_volume, to_atlas, lung, rotation_of(back.matrix), quality)


def carried_over(mask: Volume, to_mask: PointMap, grid: Volume) -> Volume:
    """A mask pulled onto another grid through a map from that grid's space to the mask's."""
    points = grid.index_to_mm(np.indices(grid.shape).reshape(3, -1).T)
    return grid.with_values((sample(mask, to_mask(points), outside=0.0) > 0.5).reshape(grid.shape))
