"""Does a volume lie the other way round? Mirrored, feet first and face down are said where image and body agree.

Registering the mirror images tells which way fits better, but by a hair only where lungs are much alike on both sides,
and disease outweighs a hair. So a way round is believed only where the body says it too: the heart and the great
vessels for mirrored, the spine for face down, the windpipe and the apices for feet first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from popclust.errors import VolumeError
from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization.body import head_balance, spine_balance
from popclust.normalization.correspondence import ncc
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.quality import HEART_HU, Orientation
from popclust.normalization.registration import register_affine
from popclust.normalization.start import Start, explained, search_start
from popclust.normalization.transform import AffineMap
from popclust.settings import NormalizeSettings

COARSE_MM = 6.0
"""Resolution of the comparison."""
HOPELESS_NCC = 0.15
"""A start that is worse than the upright one by more than this is not followed."""
FLIPS = {"upright": (), "feet_first": (0,), "face_down": (1,), "mirrored": (2,)}
"""Axes (zyx) that are reversed."""


def find_orientation(reference: Prepared, volume: Prepared, settings: NormalizeSettings) -> Orientation:
    """Ask the body which ways round are possible; register those mirror images to the atlas, coarsely, and compare.

    Mirror images that the spine, the windpipe or the apices rule out, or that are far worse than upright at the start
    already, are spared the registration.
    """
    template, coarse = _coarse(reference), _coarse(volume)
    possible = [name for name in FLIPS if name not in _BODY_SAYS or _BODY_SAYS[name](coarse)]
    ways = {name: flipped(coarse, FLIPS[name]) for name in possible}
    starts = {name: search_start(way, template) for name, way in ways.items()}
    worth = [name for name, start in starts.items() if start.score > starts["upright"].score - HOPELESS_NCC]
    # All from the same start and at the same resolution, or the comparison would be no fair one.
    maps = {name: _affine(ways[name], template, starts[name], settings) for name in worth if len(worth) > 1}
    scores = {name: start.score for name, start in starts.items()}
    scores |= {name: float(explained(ways[name], template, [found])[0]) for name, found in maps.items()}
    other = max((name for name in scores if name != "upright"), key=lambda name: scores[name])
    advantage = scores[other] - scores["upright"]
    body_agrees = other in _BODY_SAYS or (other in maps and _heart_agrees(other, ways, template, maps))
    return Orientation(other if advantage > 0 else "upright", advantage, body_agrees)


def flipped(volume: Prepared, axes: tuple[int, ...]) -> Prepared:
    """The mirror image, on the same grid."""
    if not axes:
        return volume
    return replace(
        volume,
        image=volume.image.with_values(np.ascontiguousarray(np.flip(volume.image.voxels, axes))),
        lungs=volume.lungs.with_values(np.ascontiguousarray(np.flip(volume.lungs.voxels, axes))),
    )


_BODY_SAYS: dict[str, Callable[[Prepared], bool]] = {
    "face_down": lambda volume: spine_balance(volume.image, volume.hull) < 0,
    "feet_first": lambda volume: head_balance(volume.image, volume.lungs.voxels, volume.hull) < 0,
}
"""What the body of the volume as it is says of a way round, before anything is registered."""


def _heart_agrees(way: str, ways: dict[str, Prepared], template: Prepared, maps: dict[str, AffineMap]) -> bool:
    """Whether what lies between the lungs fits better that way round."""
    fit = {name: _heart_ncc(ways[name], template, maps[name]) for name in ("upright", way)}
    return fit[way] > fit["upright"]


def _heart_ncc(volume: Prepared, template: Prepared, to_template: AffineMap) -> float:
    """Correlation of what lies between the lungs: heart, great vessels, windpipe, domes of liver and stomach."""
    points = template.lungs.index_to_mm(np.argwhere(template.hull & ~template.lungs.voxels))
    moved = to_template.inverse()(points)
    shown = volume.shows(moved)
    seen, wanted = sample(volume.image, moved[shown], outside=0.0), sample(template.image, points[shown])
    return ncc(np.clip(seen, *HEART_HU), np.clip(wanted, *HEART_HU)) if shown.any() else 0.0


def _affine(volume: Prepared, template: Prepared, start: Start, settings: NormalizeSettings) -> AffineMap:
    try:
        return register_affine(volume, template, [start.to_template], settings)
    except VolumeError:
        return start.to_template


def _coarse(volume: Prepared) -> Prepared:
    image: Volume = resample(volume.image, max(COARSE_MM, volume.image.spacing_mm[0]))
    return Prepared(image, on_grid(volume.lungs, image), volume.field_of_view_mm)
