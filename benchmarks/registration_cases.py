"""Made cases with a known answer for benchmarks/registration.py: smooth warps, fragments, planted failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import AIR_HU, Vector, Volume, sample
from popclust.normalization.preparation import Prepared, corners_mm
from popclust.normalization.transform import AffineMap, DisplacementField, grid_points

Generator = np.random.Generator


@dataclass(frozen=True)
class Warp:
    """A diffeomorphism and its inverse."""

    forward: DisplacementField
    backward: DisplacementField


def random_warp(volume: Volume, rng: Generator, mean_mm: float, sigma_mm: float = 30.0) -> Warp:
    """Integrate a Gaussian velocity field by scaling and squaring; `mean_mm` is the mean displacement."""
    spacing = 6.0
    low, high = corners_mm(volume)
    shape = tuple((np.ceil((high - low) / spacing) + 1).astype(int))
    noise = rng.normal(size=(3, *shape))
    velocity = np.stack([ndimage.gaussian_filter(n, sigma_mm / spacing, mode="reflect") for n in noise])
    origin: Vector = tuple(low.tolist())
    scale = mean_mm / np.linalg.norm(velocity, axis=0).mean()
    for _ in range(3):  # the integral is not quite as long as the velocity
        warp = Warp(*(_integrated(sign * scale * velocity, spacing, origin) for sign in (1, -1)))
        scale *= mean_mm / np.linalg.norm(warp.forward.displacement_mm, axis=0).mean()
    return warp


def warped(volume: Volume, warp: Warp, rng: Generator, noise_hu: float = 30.0) -> Volume:
    """The volume seen through a warp, p -> volume(forward(p)), with kernel-like (high-pass) noise."""
    points = grid_points(volume.shape, volume.spacing_mm, volume.origin_mm)
    values = sample(volume, warp.forward(points)).reshape(volume.shape)
    return volume.with_values((values + kernel_noise(volume.shape, rng, noise_hu)).astype(np.float32))


def kernel_noise(shape: tuple[int, ...], rng: Generator, sd_hu: float) -> NDArray:
    """White noise without its low in-plane frequencies, as a sharp reconstruction kernel leaves it."""
    noise = rng.normal(size=shape)
    noise = noise - ndimage.gaussian_filter(noise, (0, 2, 2))
    return np.asarray(sd_hu * noise / noise.std())


@dataclass(frozen=True)
class Fragment:
    """A part of a volume, turned and shifted."""

    volume: Volume
    to_whole: AffineMap
    """Positions in the fragment -> positions in the whole volume."""


def random_fragment(volume: Volume, lungs: Volume, rng: Generator) -> Fragment:
    """30 to 60 % of the lungs' length, rotated up to 15 degrees, shifted up to 150 mm."""
    planes = np.flatnonzero(lungs.voxels.any(axis=(1, 2))) * lungs.spacing_mm[0] + lungs.origin_mm[0]
    length = planes[-1] - planes[0]
    share = rng.uniform(0.3, 0.6)
    low = planes[0] + rng.uniform(0, 1 - share) * length
    centre = corners_mm(volume).mean(axis=0)
    centre[0] = low + share * length / 2
    axis = rng.normal(size=3)
    rotation = _rotation(axis / np.linalg.norm(axis), np.radians(rng.uniform(0, 15)))
    direction = rng.normal(size=3)
    shift = direction / np.linalg.norm(direction) * rng.uniform(0, 150)
    to_whole = AffineMap(rotation, centre - rotation @ (centre + shift))
    n_planes = max(round(share * length / volume.spacing_mm[0]), 4)
    shape = (n_planes, *volume.shape[1:])
    origin = centre + shift - (np.array(shape) - 1) / 2 * volume.spacing_mm
    points = grid_points(shape, volume.spacing_mm, tuple(origin))
    return Fragment(Volume(sample(volume, to_whole(points)).reshape(shape), volume.spacing_mm, tuple(origin)), to_whole)


def good_variant(volume: Volume, lungs: Volume, rng: Generator) -> Volume:
    """The same person: warped a little, noisy, shifted, turned, of another slice distance, or a part of it."""
    made = warped(volume, random_warp(volume, rng, rng.uniform(2, 10)), rng, rng.uniform(0, 60))
    kind = rng.integers(4)
    if kind == 0:
        return random_fragment(made, lungs, rng).volume
    if kind == 1:
        return Volume(made.voxels[::2], (2 * made.spacing_mm[0], *made.spacing_mm[1:]), made.origin_mm)
    turn = _rotation(np.eye(3)[rng.integers(3)], np.radians(rng.uniform(-8, 8)))
    centre = corners_mm(made).mean(axis=0)
    points = AffineMap(turn, centre - turn @ centre)(grid_points(made.shape, made.spacing_mm, made.origin_mm))
    return Volume(sample(made, points).reshape(made.shape), made.spacing_mm, tuple(rng.uniform(-300, 300, 3)))


def wrong_map(reference: Prepared, rng: Generator) -> AffineMap:
    """A shift of 15 to 45 mm, a turn of 12 to 25 degrees, or a stretch of 1.2 to 1.5 or its inverse."""
    centre = reference.lungs.index_to_mm(np.argwhere(reference.lungs.voxels)).mean(axis=0)
    kind, axis, sign = rng.integers(3), np.eye(3)[rng.integers(3)], rng.choice([-1.0, 1.0])
    if kind == 0:
        direction = rng.normal(size=3)
        return AffineMap.translation(direction / np.linalg.norm(direction) * rng.uniform(15, 45))
    if kind == 1:
        matrix = _rotation(axis, np.radians(sign * rng.uniform(12, 25)))
    else:
        matrix = np.diag(np.exp(sign * rng.uniform(0.18, 0.4) * axis))
    return AffineMap(matrix, centre - matrix @ centre)


def planted_failures() -> dict[str, Callable[[Volume, Volume, Generator], Volume]]:
    """Name -> function of (volume, lungs, generator) that makes a volume which must not be accepted."""
    return {
        "mirrored": lambda v, _m, _r: v.with_values(v.voxels[:, :, ::-1].copy()),
        "feet_first": lambda v, _m, _r: v.with_values(v.voxels[::-1].copy()),
        "face_down": lambda v, _m, _r: v.with_values(v.voxels[:, ::-1].copy()),
        "axes_swapped": lambda v, _m, _r: Volume(np.swapaxes(v.voxels, 0, 1).copy(), v.spacing_mm, v.origin_mm),
        "spacing_z_doubled": lambda v, _m, r: _respaced(v, (r.uniform(1.9, 2.4), 1, 1)),
        "spacing_z_halved": lambda v, _m, r: _respaced(v, (r.uniform(0.4, 0.52), 1, 1)),
        "spacing_tiny": lambda v, _m, r: _respaced(v, (r.uniform(0.3, 0.5),) * 3),
        "constant": lambda v, _m, r: v.with_values(np.full(v.shape, r.integers(-1000, 100), np.int16)),
        "noise": lambda v, _m, r: v.with_values(r.normal(-300, 400, v.shape).astype(np.float32)),
        "one_voxel_thick": lambda v, _m, r: Volume(v.voxels[[r.integers(v.shape[0])]], v.spacing_mm, v.origin_mm),
        "one_lung": _one_lung,
        "other_body_part": _below_the_lungs,
        "metal": _metal,
        "slices_shuffled": lambda v, _m, r: v.with_values(v.voxels[r.permutation(v.shape[0])]),
        "inverted": lambda v, _m, _r: v.with_values((-900 - np.clip(v.voxels, -1000, 400)).astype(np.int16)),
    }


def _respaced(volume: Volume, factor: tuple[float, ...]) -> Volume:
    z, y, x = (s * f for s, f in zip(volume.spacing_mm, factor, strict=True))
    return Volume(volume.voxels, (z, y, x), volume.origin_mm)


def _one_lung(volume: Volume, lungs: Volume, rng: Generator) -> Volume:
    """The field of view shows one side only."""
    middle = volume.shape[2] // 2 + int(rng.integers(-4, 5))
    if rng.random() < 0.5:
        return Volume(volume.voxels[:, :, :middle].copy(), volume.spacing_mm, volume.origin_mm)
    z, y, x = volume.origin_mm
    return Volume(volume.voxels[:, :, middle:].copy(), volume.spacing_mm, (z, y, x + middle * volume.spacing_mm[2]))


def _below_the_lungs(volume: Volume, lungs: Volume, rng: Generator) -> Volume:
    """Abdomen: the slices below the lungs' widest, mirrored on to make a length, lung air filled with tissue."""
    index = int(rng.integers(4, 12))
    slab = volume.voxels[:index].astype(np.float32)
    mask = ndimage.binary_dilation(lungs.voxels[:index], iterations=2)
    slab[mask] = 50 + rng.normal(0, 20, int(mask.sum()))
    repeats = -(-80 // index)
    return Volume(np.concatenate([slab, slab[::-1]] * repeats)[:80].copy(), volume.spacing_mm, volume.origin_mm)


def _metal(volume: Volume, lungs: Volume, rng: Generator) -> Volume:
    """Streaks that bury the chest."""
    out = volume.voxels.astype(np.float32)
    rows, columns = np.indices(volume.shape[1:])
    for _ in range(6):
        y, x = rng.uniform(0.3, 0.7, 2) * volume.shape[1:]
        angle = np.arctan2(rows - y, columns - x)
        out += 1500 * np.sin(angle * rng.integers(8, 20) + rng.uniform(0, 6))[None]
    return volume.with_values(np.clip(out, AIR_HU, 3000))


def _integrated(velocity: NDArray, spacing: float, origin: Vector) -> DisplacementField:
    n_squarings = 6
    field = DisplacementField((velocity / 2**n_squarings).astype(np.float32), (spacing,) * 3, origin)
    for _ in range(n_squarings):
        points = field.nodes_mm()
        moved = (field(field(points)) - points).T.reshape(velocity.shape).astype(np.float32)
        field = DisplacementField(moved, field.spacing_mm, field.origin_mm)
    return field


def _rotation(axis: NDArray, angle: float) -> NDArray:
    """Rodrigues' formula."""
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
