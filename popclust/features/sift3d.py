"""3D-SIFT after Toews & Wells: keypoints of a volume in physical space, with rank-ordered descriptors.

The method follows Toews & Wells, "Efficient and robust model-to-image alignment using 3D scale-invariant
features", Medical Image Analysis 17(3), 2013; what differs is listed in docs/sift3d.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from popclust.features import sift_descriptor
from popclust.features.scale_space import ASSUMED_BLUR, N_PER_OCTAVE, SIGMA_0, Octave, blur, find_extrema, octaves
from popclust.imaging.volume import Volume, resample, sample
from popclust.settings import SiftSettings

N_VALUES = 64
"""Values of a descriptor: 2 x 2 x 2 cells by 8 octants of direction."""
CLIP_HU = (-1024.0, 1500.0)
"""Values outside are padding or metal."""
BORDER_SIGMAS = 3.0
"""A keypoint lies at least this many sigmas inside the volume."""
MERGE_SIGMAS = 1.0
"""Two extrema of one sign that are nearer than this, and within one level, are the same blob: the stronger stays."""


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one volume, the strongest first; a location has one row per orientation frame."""

    position_mm: NDArray[np.float32]
    """(n, 3) position zyx in patient space."""
    scale_mm: NDArray[np.float32]
    """(n,) sigma of the Gaussian at which the keypoint is an extremum."""
    diameter_mm: NDArray[np.float32]
    """(n,) `SiftSettings.diameter_sigmas` times the scale."""
    contrast: NDArray[np.int8]
    """(n,) 1 where brighter than the surroundings, -1 where darker."""
    frame: NDArray[np.float32]
    """(n, 3, 3) rows are the axes (zyx vectors in patient space) along which the descriptor was taken."""
    descriptor: NDArray[np.uint8]
    """(n, 64) ranks 0 to 63."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.scale_mm)

    def take(self, which: ArrayLike) -> Keypoints:
        """The rows at an index array or where a boolean array is true."""
        rows = np.asarray(which)
        return Keypoints(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def micro(self, settings: SiftSettings) -> Keypoints:
        """Those with a diameter up to `settings.micro_macro_mm`."""
        return self.take(self.diameter_mm <= settings.micro_macro_mm)

    def macro(self, settings: SiftSettings) -> Keypoints:
        """Those with a larger diameter."""
        return self.take(self.diameter_mm > settings.micro_macro_mm)


@dataclass(frozen=True)
class Located:
    """Keypoint locations of one octave, in voxels of that octave."""

    octave_step: int
    levels: NDArray[np.float32]
    """(level, z, y, x) smoothed volume, kept for the descriptors."""
    position: NDArray[np.float64]
    """(n, 3) fractional index zyx."""
    level: NDArray[np.int64]
    """(n,) index of the level that is nearest in scale."""
    sigma: NDArray[np.float64]
    """(n,) scale."""
    value_hu: NDArray[np.float64]
    """(n,) difference of Gaussians."""


def detect_keypoints(volume: Volume, settings: SiftSettings) -> Keypoints:
    """Keypoints of a whole volume with descriptors that turn with it: for matching and registration.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU, any spacing; resampled to `settings.spacing_mm`.
    settings : SiftSettings
        Resolution and thresholds.

    Returns
    -------
    Keypoints
        One row per location and orientation frame, at most `settings.max_locations` locations.
    """
    grid = _isotropic(volume, settings)
    located = locate(grid.hu, settings)
    return _described(grid, located, settings, None)


def sample_sift(
    volume: Volume, lung: Volume, settings: SiftSettings, rotation_to_atlas: ArrayLike | None = None
) -> Keypoints:
    """Descriptors of the lung in the atlas's orientation: for the visual words.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU, any spacing; resampled to `settings.spacing_mm`.
    lung : Volume
        (z, y, x) bool, on any grid of the same patient space: positions outside are left out.
    settings : SiftSettings
        `sampling` says where: at keypoints or on a dense grid of positions and scales.
    rotation_to_atlas : array_like, optional
        (3, 3) rotation that takes a zyx vector in the volume's space to the atlas's; identity if not given.

    Returns
    -------
    Keypoints
        One row per position and scale, `frame` = the axes of the atlas.

    Raises
    ------
    ValueError
        `rotation_to_atlas` is not a rotation.
    """
    upright = _checked_rotation(rotation_to_atlas)
    grid = _isotropic(volume, settings)
    parts = locate(grid.hu, settings) if settings.sampling == "keypoints" else _dense(grid, lung, settings)
    return _described(grid, [_within(part, grid, lung) for part in parts], settings, upright)


def locate(values_hu: NDArray[np.float32], settings: SiftSettings) -> list[Located]:
    """Keypoint locations in isotropic samples (z, y, x), octave by octave, at most `max_locations` in all."""
    parts = [_locate_in(octave, settings) for octave in octaves(values_hu)]
    strength = np.concatenate([np.abs(p.value_hu) for p in parts]) if parts else np.empty(0)
    if len(strength) > settings.max_locations:
        floor = np.sort(strength)[-settings.max_locations]
        parts = [_taken(p, np.abs(p.value_hu) >= floor) for p in parts]
    return parts


def _locate_in(octave: Octave, settings: SiftSettings) -> Located:
    found = find_extrema(octave, settings.min_contrast_hu)
    sigma = octave.sigmas[0] * 2.0 ** (found.level / N_PER_OCTAVE)
    level = np.clip(np.round(found.level), 0, len(octave.levels) - 1).astype(np.int64)
    part = Located(octave.step, octave.levels, found.position, level, sigma, found.value_hu)
    part = _taken(part, _inside_border(part))
    part = _taken(
        part, _isotropies(part.levels, part.position, part.level, part.sigma) >= 27.0 / settings.max_edge_ratio
    )
    return _taken(part, _strongest_of_each_blob(part))


def _dense(grid: Volume, lung: Volume, settings: SiftSettings) -> list[Located]:
    """Positions every `dense_step_mm` in the lung, at every one of `dense_diameters_mm`."""
    index = grid.mm_to_index(_lattice(lung, settings.dense_step_mm))
    parts = []
    for diameter_mm in settings.dense_diameters_mm:
        sigma = diameter_mm / settings.diameter_sigmas / settings.spacing_mm
        # As in the pyramid: at twice SIGMA_0 every second voxel carries all there is.
        step = max(1, 2 ** int(np.floor(np.log2(sigma / SIGMA_0))))
        smooth = blur(grid.hu, float(np.sqrt(max(sigma**2 - ASSUMED_BLUR**2, 0.01))))
        level = np.ascontiguousarray(smooth[::step, ::step, ::step])[None]
        n = len(index)
        part = Located(step, level, index / step, np.zeros(n, np.int64), np.full(n, sigma / step), np.zeros(n))
        part = _taken(part, _inside_border(part))
        parts.append(replace(part, value_hu=_laplacian(level[0], part.position)))
    return parts


def _lattice(lung: Volume, step_mm: float) -> NDArray[np.float64]:
    """(n, 3) zyx mm: the multiples of `step_mm` in the box around the lung."""
    occupied = [np.flatnonzero(lung.hu.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(occupied[0]):
        return np.empty((0, 3))
    low, high = (lung.index_to_mm([[o[end] for o in occupied]])[0] for end in (0, -1))
    axes = [np.arange(np.ceil(a / step_mm), np.floor(b / step_mm) + 1) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) * step_mm


def _laplacian(level: NDArray[np.float32], position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second differences at the nearest voxel: the sign of a difference of Gaussians."""
    z, y, x = np.clip(np.round(position), 1, np.asarray(level.shape) - 2).astype(np.int64).T
    around = level[z - 1, y, x] + level[z + 1, y, x] + level[z, y - 1, x] + level[z, y + 1, x]
    return (around + level[z, y, x - 1] + level[z, y, x + 1] - 6.0 * level[z, y, x]).astype(np.float64)


def _taken(part: Located, rows: NDArray) -> Located:
    chosen = {name: getattr(part, name)[rows] for name in ("position", "level", "sigma", "value_hu")}
    return replace(part, **chosen)


def _inside_border(part: Located) -> NDArray[np.bool_]:
    room = np.minimum(part.position, np.asarray(part.levels.shape[1:]) - 1 - part.position).min(axis=1, initial=np.inf)
    return room >= BORDER_SIGMAS * part.sigma


def _strongest_of_each_blob(part: Located) -> NDArray[np.int64]:
    """Rows that no stronger row of the same sign is close to, the strongest first."""
    order = np.lexsort((*part.position.T[::-1], -np.abs(part.value_hu)))
    kept: list[int] = []
    for i in order:
        near = np.linalg.norm(part.position[kept] - part.position[i], axis=1) < MERGE_SIGMAS * part.sigma[i]
        near &= np.abs(np.log2(part.sigma[kept] / part.sigma[i])) < 1.0 / N_PER_OCTAVE
        if not np.any(near & (np.sign(part.value_hu[kept]) == np.sign(part.value_hu[i]))):
            kept.append(int(i))
    return np.asarray(kept, dtype=np.int64)


@njit(cache=True)
def _isotropies(levels, position, level, sigma):  # type: ignore[no-untyped-def]
    out = np.empty(sigma.size)
    for i in range(sigma.size):
        tensor = sift_descriptor.structure_tensor(levels[level[i]], position[i], sigma[i])
        out[i] = sift_descriptor.isotropy(tensor)
    return out


def _isotropic(volume: Volume, settings: SiftSettings) -> Volume:
    grid = resample(volume, settings.spacing_mm)
    return grid.with_values(np.clip(grid.hu, *CLIP_HU, dtype=np.float32))


def _within(part: Located, grid: Volume, lung: Volume) -> Located:
    position_mm = grid.index_to_mm(part.position * part.octave_step)
    return _taken(part, sample(lung, position_mm, outside=0.0) > 0.5)


def _checked_rotation(rotation: ArrayLike | None) -> NDArray[np.float64]:
    matrix = np.eye(3) if rotation is None else np.asarray(rotation, dtype=np.float64)
    if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-4):
        raise ValueError(f"rotation_to_atlas: must be a (3, 3) rotation, got {matrix.tolist()}")
    return matrix


def _described(
    grid: Volume, parts: list[Located], settings: SiftSettings, upright: NDArray[np.float64] | None
) -> Keypoints:
    """Rows of all octaves, the strongest first."""
    spacing = settings.spacing_mm
    position, scale, value, frame, histogram = [], [], [], [], []
    for part in parts:
        if upright is None:
            row, axes = _all_frames(part.levels, part.position, part.level, part.sigma)
        else:
            row, axes = np.arange(len(part.sigma)), np.broadcast_to(upright, (len(part.sigma), 3, 3)).copy()
        histogram.append(_describe(part.levels, part.position[row], part.level[row], part.sigma[row], axes))
        position.append(grid.index_to_mm(part.position[row] * part.octave_step))
        scale.append(part.sigma[row] * part.octave_step * spacing)
        value.append(part.value_hu[row])
        frame.append(axes)
    values = np.concatenate([*value, np.empty(0)])
    order = np.argsort(-np.abs(values), kind="stable")
    scales = np.concatenate([*scale, np.empty(0)])[order].astype(np.float32)
    return Keypoints(
        position_mm=np.concatenate([*position, np.empty((0, 3))])[order].astype(np.float32),
        scale_mm=scales,
        diameter_mm=(settings.diameter_sigmas * scales).astype(np.float32),
        contrast=np.where(values[order] < 0, 1, -1).astype(np.int8),
        frame=np.concatenate([*frame, np.empty((0, 3, 3))])[order].astype(np.float32),
        descriptor=sift_descriptor.ranks(np.concatenate([*histogram, np.empty((0, N_VALUES))])[order]),
    )


@njit(cache=True)
def _all_frames(levels, position, level, sigma):  # type: ignore[no-untyped-def]
    """(n,) location and (n, 3, 3) axes of every frame."""
    most = sift_descriptor.MAX_PRIMARY * sift_descriptor.MAX_SECONDARY
    row = np.empty(sigma.size * most, np.int64)
    axes = np.empty((sigma.size * most, 3, 3))
    n = 0
    for i in range(sigma.size):
        found = sift_descriptor.frames(levels[level[i]], position[i], sigma[i])
        for j in range(found.shape[0]):
            row[n], axes[n] = i, found[j]
            n += 1
    return row[:n], axes[:n]


@njit(cache=True)
def _describe(levels, position, level, sigma, axes):  # type: ignore[no-untyped-def]
    out = np.empty((sigma.size, 64))
    for i in range(sigma.size):
        out[i] = sift_descriptor.describe(levels[level[i]], position[i], sigma[i], axes[i])
    return out
