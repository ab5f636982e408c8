"""Does a volume look better the other way round? Mirrored, feet first and face down are found by trying."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from popclust.errors import VolumeError
from popclust.imaging.volume import Volume, resample
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.quality import Orientation
from popclust.normalization.registration import register_affine
from popclust.normalization.start import Start, explained, search_start
from popclust.settings import NormalizeSettings

COARSE_MM = 6.0
"""Resolution of the comparison."""
HOPELESS_NCC = 0.15
"""A start that is worse than the upright one by more than this is not followed."""
FLIPS = {"upright": (), "feet_first": (0,), "face_down": (1,), "mirrored": (2,)}
"""Axes (zyx) that are reversed."""


def find_orientation(reference: Prepared, volume: Prepared, settings: NormalizeSettings) -> Orientation:
    """Register the volume and its mirror images to the atlas, coarsely, and compare.

    Mirror images that are far worse than upright at the start already are spared the registration.
    """
    template, coarse = _coarse(reference), _coarse(volume)
    ways = {name: flipped(coarse, axes) for name, axes in FLIPS.items()}
    starts = {name: search_start(way, template) for name, way in ways.items()}
    scores = {
        name: _score(ways[name], template, start, settings)
        if start.score > starts["upright"].score - HOPELESS_NCC
        else start.score
        for name, start in starts.items()
    }
    best = max(scores, key=lambda name: scores[name])
    others = max(score for name, score in scores.items() if name != "upright")
    return Orientation(best, others - scores["upright"])


def flipped(volume: Prepared, axes: tuple[int, ...]) -> Prepared:
    """The mirror image, on the same grid."""
    if not axes:
        return volume
    return replace(
        volume,
        image=volume.image.with_values(np.ascontiguousarray(np.flip(volume.image.voxels, axes))),
        lungs=volume.lungs.with_values(np.ascontiguousarray(np.flip(volume.lungs.voxels, axes))),
    )


def _score(volume: Prepared, template: Prepared, start: Start, settings: NormalizeSettings) -> float:
    try:
        found = register_affine(volume, template, [start.to_template], settings)
    except VolumeError:
        return start.score
    return float(explained(volume, template, [found])[0])


def _coarse(volume: Prepared) -> Prepared:
    image: Volume = resample(volume.image, max(COARSE_MM, volume.image.spacing_mm[0]))
    return Prepared(image, on_grid(volume.lungs, image), volume.field_of_view_mm)
