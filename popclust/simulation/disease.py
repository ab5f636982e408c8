"""What each planted group changes in the lung, where it belongs.

A lesion is drawn before the vessels where they run through it (ground glass, consolidation) and after them where
it takes their place (holes, nodules, fluid). `severity` runs from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.simulation.branching import lung_trees
from popclust.simulation.canvas import Canvas, place_in_lung

Generator = np.random.Generator


@dataclass(frozen=True)
class Disease:
    """One person's disease as planned."""

    group: str
    """Name of the group, a key of `GROUPS`."""
    severity: float
    """From 0 (hardly there) to 1."""
    right_share: float
    """How much of it lies in the right lung, 0 to 1; 0.5 is symmetric."""
    seed: int
    """Seed of the places of its lesions."""
    findings: tuple[str, ...]
    """RadLex ids of what is there; optional signs are drawn only if listed."""


@dataclass(frozen=True)
class GroupTraits:
    """How a group shows itself."""

    before_vessels: Callable[[Canvas, Disease, Generator], None]
    """Draws what vessels run through."""
    after_vessels: Callable[[Canvas, Disease, Generator], None]
    """Draws what takes the vessels' place."""
    findings: tuple[tuple[str, float], ...]
    """RadLex ids with their chance in this group."""
    diaphragm_mm: float = 0.0
    """How much lower than usual the diaphragm stands at severity 1."""
    depth_scale: float = 1.0
    """Size of the chest from front to back at severity 1."""


EMPHYSEMA, BULLA = "RID4799", "RID28502"
GROUND_GLASS, SEPTAL_THICKENING, CONSOLIDATION = "RID28531", "RID28510", "RID43255"
FIBROSIS, HONEYCOMBING, RETICULATION, TRACTION = "RID3820", "RID35280", "RID38794", "RID28528"
NODULE, EFFUSION, ATELECTASIS, PNEUMONIA, METASTASIS = "RID50149", "RID34539", "RID28493", "RID5350", "RID5231"


def side_weight(x_mm: NDArray, right_share: float) -> NDArray:
    """How much of a disease the two lungs get: at most 1 in the lung that has more of it."""
    right, left = right_share / max(right_share, 1 - right_share), (1 - right_share) / max(right_share, 1 - right_share)
    return np.where(x_mm < 0, right, left)


def _ramp(value: NDArray, low: float, high: float) -> NDArray:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def _nothing(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    """A normal lung."""


def _emphysema_density(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    # The tissue between the holes is crowded, so that the mean density of the lung tells little.
    z, _, x = canvas.atlas_mm
    upper = _ramp(z, -45.0, 50.0) * side_weight(x, disease.right_share)
    patches = np.clip(0.6 + 0.5 * canvas.smooth_field(12.0, rng), 0.0, 1.0)
    canvas.blend(0.18 * disease.severity * upper * patches, -400.0)


def _emphysema_holes(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    def upper(p: NDArray, depth: NDArray) -> NDArray:
        return (0.10 + _ramp(p[:, 0], -60.0, 40.0)) * side_weight(p[:, 2], disease.right_share) * (depth > 2)

    n = int(1600 * disease.severity)
    canvas.spheres(place_in_lung(n, upper, rng), rng.uniform(3.5, 8.0, n), -1000.0, brighter=False)
    if BULLA in disease.findings:

        def below_pleura(p: NDArray, depth: NDArray) -> NDArray:
            return upper(p, depth) * (depth > 6) * (depth < 16)

        centres = place_in_lung(6, below_pleura, rng)
        radii = rng.uniform(10.0, 15.0, 6) * (0.7 + 0.5 * disease.severity)
        canvas.spheres(centres, radii + 1.5, -780.0, brighter=True)
        canvas.spheres(centres, radii, -1000.0, brighter=False)


def _ground_glass(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    z, y, x = canvas.atlas_mm
    hilum = np.sqrt((z + 5) ** 2 + (0.8 * (y - 20)) ** 2 + (0.8 * (np.abs(x) - 50)) ** 2)
    place = 1.1 - hilum / 85.0 + 0.7 * _ramp(60 - canvas.posterior_mm, 0.0, 60.0)
    patches = canvas.smooth_field(13.0, rng) * 0.8 + place + 0.7 * (disease.severity - 0.9)
    cover = _ramp(patches, 0.05, 0.55) * side_weight(x, disease.right_share)
    grain = canvas.smooth_field(5.0, rng)
    canvas.blend(cover * 0.95, -640.0 + 100.0 * disease.severity + 60.0 * grain)
    if SEPTAL_THICKENING in disease.findings:
        canvas.blend(cover * 0.6 * _network(canvas, 13.0, 0.14, rng), -300.0)


def _network(canvas: Canvas, length_mm: float, width: float, rng: Generator) -> NDArray:
    # The zero surfaces of a smooth field are thin sheets; two families of them cut the lung into cells.
    first, second = canvas.smooth_field(length_mm, rng), canvas.smooth_field(length_mm, rng)
    return np.maximum(np.exp(-((first / width) ** 2)), np.exp(-((second / width) ** 2)))


def _fibrosis_weight(z: NDArray, depth: NDArray, x: NDArray, posterior: NDArray, disease: Disease) -> NDArray:
    reach = 12.0 + 14.0 * disease.severity
    basal = 0.12 + 0.88 * _ramp(-z, -35.0, 45.0)
    behind = 0.65 + 0.35 * _ramp(90 - posterior, 0.0, 60.0)
    return _ramp(reach - depth, 0.0, 14.0) * basal * behind * side_weight(x, disease.right_share)


def _fibrosis_network(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    z, _, x = canvas.atlas_mm
    weight = _fibrosis_weight(z, canvas.depth_mm, x, canvas.posterior_mm, disease)
    weight = np.clip(weight * (1.15 + 0.35 * canvas.smooth_field(25.0, rng)), 0.0, 1.0)
    canvas.blend(0.75 * weight, -640.0)
    lines = _network(canvas, 8.0, 0.26, rng)
    canvas.blend(weight * lines * (1.0 if RETICULATION in disease.findings else 0.7), -120.0)


def _fibrosis_cysts(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    if HONEYCOMBING in disease.findings:

        def below_pleura(p: NDArray, depth: NDArray) -> NDArray:
            far_front = np.zeros(len(p))
            return _fibrosis_weight(p[:, 0], depth, p[:, 2], far_front, disease) ** 2 * (depth > 2) * (depth < 20)

        n = int(1000 * disease.severity)
        centres, radii = place_in_lung(n, below_pleura, rng), rng.uniform(2.4, 4.6, n)
        canvas.spheres(centres, radii + 1.6, -150.0, brighter=True)
        canvas.spheres(centres, radii, -985.0, brighter=False)
    if TRACTION in disease.findings:
        airways = lung_trees().airways
        basal = airways[(airways[:, 3] < -35.0) & (airways[:, 6] < 4.5)]
        canvas.tubes(basal, -150.0, brighter=True, radius_mm=3.4)
        canvas.tubes(basal, -985.0, brighter=False, radius_mm=2.0)


def _nodules(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    def basal(p: NDArray, depth: NDArray) -> NDArray:
        return (0.55 + 0.45 * _ramp(-p[:, 0], -60.0, 60.0)) * side_weight(p[:, 2], disease.right_share) * (depth > 2)

    n = int(650 * disease.severity)
    radii = np.clip(rng.lognormal(np.log(3.4), 0.28, n), 2.2, 9.0)
    canvas.spheres(place_in_lung(n, basal, rng), radii, 35.0, brighter=True)


def _fluid_level(canvas: Canvas, disease: Disease, rng: Generator) -> NDArray:
    # How far in front of the fluid's surface a voxel lies: the layer is thick at the base and thins out upwards.
    z, _, x = canvas.atlas_mm
    share = side_weight(x, disease.right_share)
    top = -25.0 + 95.0 * disease.severity * share
    thickness = (16.0 + 30.0 * disease.severity) * share * _ramp(top - z, 0.0, 95.0) ** 0.7
    return canvas.posterior_mm - 4.0 - thickness + 2.5 * canvas.smooth_field(40.0, rng)


def _compressed_lung(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    if ATELECTASIS not in disease.findings:
        return
    front = _fluid_level(canvas, disease, np.random.default_rng([disease.seed, 7]))
    basal = _ramp(-canvas.atlas_mm[0], -30.0, 30.0)
    width = (9.0 + 8.0 * disease.severity) * (1.0 + 0.35 * canvas.smooth_field(28.0, rng)) * basal
    canvas.blend(_ramp(width - front, 0.0, 4.0), 48.0)
    canvas.blend(0.35 * _ramp(2.2 * width - front, 0.0, 15.0), -450.0)


def _effusion(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    front = _fluid_level(canvas, disease, np.random.default_rng([disease.seed, 7]))
    canvas.blend(_ramp(-front, -1.5, 1.5), 8.0)


def _consolidation(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    z, y, x = canvas.atlas_mm
    lower = _ramp(50.0 - (60.0 - y) * 0.9 - z, -6.0, 6.0)
    patches = canvas.smooth_field(26.0, rng) + 2.2 * (disease.severity - 0.35)
    cover = _ramp(patches, -0.1, 0.35) * lower * side_weight(x, disease.right_share)
    canvas.blend(cover * 0.97, 35.0 + 12.0 * canvas.smooth_field(6.0, rng))
    halo = _ramp(patches, -1.0, 0.3) * lower * side_weight(x, disease.right_share)
    canvas.blend(0.4 * halo * (1 - cover), -450.0)


def _collapse(canvas: Canvas, disease: Disease, rng: Generator) -> None:
    z, y, x = canvas.atlas_mm
    spine = np.hypot(np.abs(x) - 22.0, 0.8 * (y - 62.0))
    reach = (22.0 + 30.0 * disease.severity) * _ramp(35.0 - z, 0.0, 90.0) * side_weight(x, disease.right_share)
    cover = _ramp(reach - spine + 3.0 * canvas.smooth_field(25.0, rng), 0.0, 4.0)
    canvas.blend(cover, 50.0)


GROUPS: dict[str, GroupTraits] = {
    "normal": GroupTraits(_nothing, _nothing, ()),
    "emphysema": GroupTraits(
        _emphysema_density,
        _emphysema_holes,
        ((EMPHYSEMA, 1.0), (BULLA, 0.75)),
        diaphragm_mm=22.0,
        depth_scale=1.08,
    ),
    "ground_glass": GroupTraits(_ground_glass, _nothing, ((GROUND_GLASS, 1.0), (PNEUMONIA, 0.65))),
    "fibrosis": GroupTraits(
        _fibrosis_network,
        _fibrosis_cysts,
        ((FIBROSIS, 1.0), (HONEYCOMBING, 0.75), (RETICULATION, 0.85), (TRACTION, 0.75)),
        diaphragm_mm=-16.0,
    ),
    "nodules": GroupTraits(_nothing, _nodules, ((NODULE, 1.0), (METASTASIS, 0.75))),
    "effusion": GroupTraits(_compressed_lung, _effusion, ((EFFUSION, 1.0),), diaphragm_mm=-6.0),
    "consolidation": GroupTraits(_consolidation, _nothing, ((CONSOLIDATION, 1.0), (PNEUMONIA, 0.75))),
    "atelectasis": GroupTraits(_collapse, _nothing, ((ATELECTASIS, 1.0),), diaphragm_mm=-18.0),
}
"""All groups that can be planted."""

DEFAULT_GROUPS = ("normal", "emphysema", "ground_glass", "fibrosis", "nodules", "effusion")
"""The groups that are planted unless others are asked for."""
