"""Where descriptors are taken: at keypoints, or on a dense grid. Positions and scales are in voxels of the volume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from popclust.features.extrema import find_extrema, strongest_of_each_blob
from popclust.features.scale_space import ASSUMED_BLUR, N_PER_OCTAVE, SIGMA_0, Octave, blur, octaves
from popclust.features.sift_descriptor import isotropies
from popclust.imaging.volume import Volume
from popclust.settings import SiftSettings

MIN_SIGMA = 1.75
"""Smallest keypoint, in voxels: below it noise decides."""
MIN_SIGMA_ANISOTROPIC = 1.5
"""The same for plates and edges: the contrast that they need stands out from noise."""
ROOM_SIGMAS = 4.6
"""Distance that a site keeps from the volume's border: the ball of its descriptor and a margin for the gradient, for
what continues the volume outside is invented."""
MERGE_SIGMAS = 0.8
"""Two extrema of one sign nearer than this are one blob, if a level apart at most: the stronger stays."""
HOPELESS_EDGE_RATIO = 3000.0
"""Beyond this a plate or edge is no place at all."""
UNSETTLED_CONTRAST = 1.3
"""An extremum that did not settle must be isotropic, and have this many times the least contrast."""


@dataclass(frozen=True)
class Layer:
    """One smoothed copy of the volume."""

    step: int
    """Voxels of the volume per voxel of the layer."""
    values_hu: NDArray[np.float32]
    """(z, y, x)"""


@dataclass(frozen=True)
class Sites:
    """Places in a volume, each with its scale and the layer that carries this scale."""

    position: NDArray[np.float64]
    """(n, 3) fractional index zyx."""
    sigma: NDArray[np.float64]
    """(n,) scale."""
    value_hu: NDArray[np.float64]
    """(n,) difference of Gaussians or a multiple of it: negative for what is brighter than its surroundings."""
    edge_ratio: NDArray[np.float64]
    """(n,) trace^3 / det of the structure tensor: 27 where gradients go every way alike, large on plates and edges."""
    layer: NDArray[np.int64]
    """(n,) index into `layers`."""
    layers: tuple[Layer, ...]

    def take(self, rows: NDArray) -> Sites:
        """The sites at an index array or where a boolean array is true."""
        names = ("position", "sigma", "value_hu", "edge_ratio", "layer")
        chosen = {name: getattr(self, name)[rows] for name in names}
        return replace(self, **chosen)

    def in_layer(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Rows of a layer, and their positions and scales in its own voxels."""
        rows, step = np.flatnonzero(self.layer == index), self.layers[index].step
        return rows, self.position[rows] / step, self.sigma[rows] / step


def keypoint_sites(values_hu: NDArray[np.float32], settings: SiftSettings) -> Sites:
    """Keypoints in isotropic samples (z, y, x), `settings.max_locations` at most.

    First come the isotropic ones, the strongest first, as Toews & Wells choose them. Plates and edges fill what room is
    left: the strongest of them, their contrast weighed by the square root of how far they are from isotropic.
    """
    sites = _joined([_extrema_of(octave, settings) for octave in octaves(values_hu)])
    is_plate = sites.edge_ratio > settings.max_edge_ratio
    sites = sites.take(np.lexsort((*sites.position.T[::-1], -_strength_hu(sites, settings), is_plate)))
    level_ratio = 2.0 ** (1.0 / N_PER_OCTAVE)
    kept = strongest_of_each_blob(sites.position, sites.sigma, sites.value_hu, MERGE_SIGMAS, level_ratio)
    return sites.take(kept[: settings.max_locations])


def dense_sites(grid: Volume, lung: Volume, settings: SiftSettings) -> Sites:
    """Every position of a lattice over the box around the lung, at each of `settings.dense_diameters_mm`."""
    position = grid.mm_to_index(_lattice(lung, settings.dense_step_mm))
    sigmas = [d / settings.diameter_sigmas / settings.spacing_mm for d in settings.dense_diameters_mm]
    parts = [_inside(_dense_at(grid.voxels, position, sigma)) for sigma in sigmas]
    return _joined(parts)


def _extrema_of(octave: Octave, settings: SiftSettings) -> Sites:
    """Extrema of one octave that pass the tests of border, size, contrast and edges."""
    found = find_extrema(octave, settings.min_contrast_hu)
    level = np.clip(np.round(found.level), 0, len(octave.levels) - 1).astype(np.int64)
    layers = tuple(Layer(octave.step, values) for values in octave.levels)
    sigma = octave.sigmas[0] * 2.0 ** (found.level / N_PER_OCTAVE) * octave.step
    unmeasured = np.full(len(sigma), np.inf)
    sites = Sites(found.position * octave.step, sigma, found.value_hu, unmeasured, level, layers)
    good = (sigma >= MIN_SIGMA_ANISOTROPIC) & _has_room(sites)
    good &= found.settled | (np.abs(found.value_hu) >= UNSETTLED_CONTRAST * settings.min_contrast_hu)
    sites, settled = sites.take(good), found.settled[good]
    isotropy = isotropies(octave.levels, sites.position / octave.step, sites.layer, sites.sigma / octave.step)
    sites = replace(sites, edge_ratio=27.0 / np.maximum(isotropy, 1e-9))
    is_isotropic = (sites.edge_ratio <= settings.max_edge_ratio) & (sites.sigma >= MIN_SIGMA)
    is_plate = (sites.edge_ratio > settings.max_edge_ratio) & (sites.edge_ratio <= HOPELESS_EDGE_RATIO) & settled
    return sites.take((is_isotropic | is_plate) & (_strength_hu(sites, settings) >= settings.min_contrast_hu))


def _strength_hu(sites: Sites, settings: SiftSettings) -> NDArray[np.float64]:
    """(n,) contrast, less for plates and edges the more they are so."""
    return np.abs(sites.value_hu) / np.sqrt(np.maximum(sites.edge_ratio / settings.max_edge_ratio, 1.0))


def _joined(parts: list[Sites]) -> Sites:
    """The sites of several pyramids as one."""
    layers: list[Layer] = []
    shifted = []
    for part in parts:
        shifted.append(part.layer + len(layers))
        layers += part.layers
    return Sites(
        position=np.concatenate([np.empty((0, 3)), *(p.position for p in parts)]),
        sigma=np.concatenate([np.empty(0), *(p.sigma for p in parts)]),
        value_hu=np.concatenate([np.empty(0), *(p.value_hu for p in parts)]),
        edge_ratio=np.concatenate([np.empty(0), *(p.edge_ratio for p in parts)]),
        layer=np.concatenate([np.empty(0, np.int64), *shifted]),
        layers=tuple(layers),
    )


def _has_room(sites: Sites) -> NDArray[np.bool_]:
    """What a descriptor describes lies inside the volume."""
    last = [s * layer.step for layer in sites.layers[:1] for s in np.asarray(layer.values_hu.shape) - 1]
    room = np.minimum(sites.position, np.asarray(last) - sites.position).min(axis=1, initial=np.inf)
    return room >= ROOM_SIGMAS * sites.sigma


def _inside(sites: Sites) -> Sites:
    return sites.take(_has_room(sites))


def _dense_at(values_hu: NDArray[np.float32], position: NDArray[np.float64], sigma: float) -> Sites:
    # As in the pyramid: at twice SIGMA_0 every second voxel carries all there is.
    step = max(1, 2 ** int(np.floor(np.log2(sigma / SIGMA_0))))
    smooth = blur(values_hu, float(np.sqrt(max(sigma**2 - ASSUMED_BLUR**2, 0.01))))
    layer = Layer(step, np.ascontiguousarray(smooth[::step, ::step, ::step]))
    n = len(position)
    value = _laplacian(layer.values_hu, position / step)
    return Sites(position, np.full(n, sigma), value, np.full(n, np.nan), np.zeros(n, np.int64), (layer,))


def _lattice(lung: Volume, step_mm: float) -> NDArray[np.float64]:
    """(n, 3) zyx mm: the multiples of `step_mm` in the box around the lung."""
    occupied = [np.flatnonzero(lung.voxels.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(occupied[0]):
        return np.empty((0, 3))
    low, high = (lung.index_to_mm([[o[end] for o in occupied]])[0] for end in (0, -1))
    axes = [np.arange(np.ceil(a / step_mm), np.floor(b / step_mm) + 1) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) * step_mm


def _laplacian(values: NDArray[np.float32], position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second differences at the nearest voxel: they have the sign of a difference of Gaussians."""
    z, y, x = np.clip(np.round(position), 1, np.asarray(values.shape) - 2).astype(np.int64).T
    around = values[z - 1, y, x] + values[z + 1, y, x] + values[z, y - 1, x] + values[z, y + 1, x]
    return (around + values[z, y, x - 1] + values[z, y, x + 1] - 6.0 * values[z, y, x]).astype(np.float64)
