"""How well 3D-SIFT keypoints return: repeatability, matching, speed, agreement with another extractor, curves.

    python benchmarks/sift3d.py --volume V --json                    V against a turned, shifted, noisy copy of itself
    python benchmarks/sift3d.py --volume V --reference KEY --json    how many locations of another extractor are found
    python benchmarks/sift3d.py --volume V --lungs MASK --json       micro and macro descriptors in the lung
    python benchmarks/sift3d.py --volume V --curves FIGURE.png [--kernels SHARP SOFT]
                                                                     curves over rotation, noise, scale, smoothing and
                                                                     two kernels of one acquisition
    python benchmarks/sift3d.py --volume V --same W --json           W: another reconstruction of the same acquisition
    python benchmarks/sift3d.py --volume V --lungs MASK --person W --person-lungs MASK --json
                                                                     rigid fit between people against registration

A location is repeated if one of the copy's lies within 1.5 voxels of where the transform takes it, at a scale ratio
below 1.26. `repeatability` counts all whose centre the transform leaves inside, also those too near the copy's border
to be found there. `repeatability_common` counts those in the part that both volumes show: the border rule (what is
described lies inside) holds on both sides. A mutual nearest pair of descriptors is right if its positions agree within
2 voxels; every mutual pair counts in `mutual`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from popclust.features.sift3d import Keypoints, detect_keypoints, sample_sift
from popclust.features.sift_sites import ROOM_SIGMAS
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import AIR_HU, Volume, resample
from popclust.normalization.keypoint_alignment import chance_inliers, fit_rigid, match_keypoints
from popclust.settings import SiftSettings

SETTINGS = SiftSettings()
LOCATED_VOXELS, SCALE_RATIO, RIGHT_VOXELS = 1.5, 1.26, 2.0
REFERENCE_RATIO = 1.3


@dataclass(frozen=True)
class Disturbance:
    """What happens to the copy."""

    angles_rad: tuple[float, float, float] = (0.10, 0.15, 0.20)
    """Rotations about x, then y, then z, around the volume's centre."""
    shift_mm: tuple[float, float, float] = (5.0, -7.0, 4.0)
    """zyx"""
    noise_hu: float = 20.0
    scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Copy:
    """A disturbed copy and the map into it: ``copy = linear @ (p - centre) + centre + shift``, zyx mm."""

    volume: Volume
    linear: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    shift_mm: NDArray[np.float64]

    def __call__(self, points_mm: NDArray) -> NDArray[np.float64]:
        """Where positions (n, 3) of the original lie in the copy."""
        return (np.asarray(points_mm, np.float64) - self.centre_mm) @ self.linear.T + self.centre_mm + self.shift_mm


@dataclass(frozen=True)
class Returned:
    """What the benchmark counts for one pair of volumes."""

    locations: int
    repeatability: float
    repeatability_common: float
    mutual: int
    mutual_right: int
    mutual_right_share: float


def disturbed(volume: Volume, disturbance: Disturbance) -> Copy:
    """The volume turned, scaled and shifted by linear interpolation on the same grid, then made noisy."""
    spacing = np.asarray(volume.spacing_mm)
    linear = disturbance.scale * Rotation.from_euler("xyz", disturbance.angles_rad).as_matrix()[::-1, ::-1]
    centre = volume.index_to_mm([(np.asarray(volume.shape) - 1) / 2])[0]
    shift = np.asarray(disturbance.shift_mm)
    back = np.linalg.inv(linear)
    matrix = back * spacing[None, :] / spacing[:, None]
    origin = np.asarray(volume.origin_mm)
    offset = (back @ (origin - centre - shift) + centre - origin) / spacing
    values = ndimage.affine_transform(
        volume.voxels.astype(np.float32), matrix, offset, order=1, mode="constant", cval=float(AIR_HU)
    )
    noise = np.random.default_rng(disturbance.seed).normal(0.0, 1.0, values.shape).astype(np.float32)
    return Copy(volume.with_values(values + np.float32(disturbance.noise_hu) * noise), linear, centre, shift)


def returned(first: Keypoints, second: Keypoints, to_second: Copy, scale: float = 1.0) -> Returned:
    """Count what of the first volume is found again in the second."""
    grid = to_second.volume
    voxel_mm = SETTINGS.spacing_mm
    a, b = locations(first), locations(second)
    expected = to_second(a[:, :3])
    index = grid.mm_to_index(expected)
    # Along each axis the distance from the nearer border, in mm; negative outside.
    room = (np.minimum(index, np.asarray(grid.shape) - 1 - index) * grid.spacing_mm).min(axis=1)
    inside, common = room >= 0, room >= ROOM_SIGMAS * scale * a[:, 3]
    repeated = near(np.column_stack([expected, scale * a[:, 3]]), b, LOCATED_VOXELS * voxel_mm, SCALE_RATIO)
    matches = match_keypoints(first, second)
    error = np.linalg.norm(to_second(first.position_mm[matches.fixed]) - second.position_mm[matches.moving], axis=1)
    right = int((error <= RIGHT_VOXELS * voxel_mm).sum())
    return Returned(
        locations=len(a),
        repeatability=round(float(repeated[inside].mean()), 4) if inside.any() else 0.0,
        repeatability_common=round(float(repeated[common].mean()), 4) if common.any() else 0.0,
        mutual=len(matches),
        mutual_right=right,
        mutual_right_share=round(right / max(1, len(matches)), 4),
    )


def locations(keypoints: Keypoints) -> NDArray[np.float64]:
    """(n, 4) distinct positions zyx mm with their scales mm."""
    return np.unique(np.column_stack([keypoints.position_mm, keypoints.scale_mm]).astype(np.float64), axis=0)


def near(wanted: NDArray, found: NDArray, distance_mm: float, ratio: float) -> NDArray[np.bool_]:
    """For each wanted (position, scale), whether one found is that near at a scale ratio below `ratio`."""
    neighbours = cKDTree(found[:, :3]).query_ball_point(wanted[:, :3], distance_mm)
    return np.array(
        [
            any(max(found[j, 3] / w[3], w[3] / found[j, 3]) < ratio for j in rows)
            for w, rows in zip(wanted, neighbours, strict=True)
        ],
        dtype=bool,
    )


def measured(volume: Volume, disturbance: Disturbance) -> Returned:
    """Detect in a volume and its disturbed copy, and compare."""
    copy = disturbed(volume, disturbance)
    return returned(
        detect_keypoints(volume, SETTINGS), detect_keypoints(copy.volume, SETTINGS), copy, disturbance.scale
    )


def timed(volume: Volume, repeats: int = 5) -> dict[str, float]:
    """Best of several times of the extractor and of scipy's Gaussian, taken in turns on the same samples."""
    detect_keypoints(volume, SETTINGS)
    detector, gaussian = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        ndimage.gaussian_filter(volume.voxels, 1.6)
        between = time.perf_counter()
        detect_keypoints(volume, SETTINGS)
        gaussian.append(between - start)
        detector.append(time.perf_counter() - between)
    seconds, reference = min(detector), min(gaussian)
    return {
        "seconds": round(seconds, 3),
        "gaussian_seconds": round(reference, 4),
        "gaussian_ratio": round(seconds / reference, 2),
    }


def reference_found(volume: Volume, key: Path, centre_offset: float) -> dict[str, float]:
    """Share of another extractor's locations that have one of ours within 1.5 voxels at a ratio below 1.3.

    `key` holds x y z scale in voxels per row, the scale being 2 sigma. `centre_offset` is where that extractor has
    the centre of voxel 0: 0.5 for Toews' one, whose positions lie half a voxel beyond ours along every axis.
    """
    lines = [line.split() for line in key.read_text().splitlines()]
    rows = np.array([[float(v) for v in line[:4]] for line in lines if len(line) == 81], dtype=np.float64)
    theirs = np.unique(rows, axis=0)
    position_mm = volume.index_to_mm(theirs[:, 2::-1] - centre_offset)
    wanted = np.column_stack([position_mm, theirs[:, 3] / 2 * volume.spacing_mm[0]])
    hit = near(wanted, locations(detect_keypoints(volume, SETTINGS)), 1.5 * volume.spacing_mm[0], REFERENCE_RATIO)
    return {"reference_locations": len(wanted), "reference_found": round(float(hit.mean()), 4)}


def lung_counts(volume: Volume, lungs: Volume) -> dict[str, dict[str, float]]:
    """Micro and macro descriptors in the lung, for both ways of sampling, with the time of each."""
    counts = {}
    for sampling in ("keypoints", "dense"):
        settings = replace(SETTINGS, sampling=sampling)
        sample_sift(volume, lungs, settings)
        start = time.perf_counter()
        found = sample_sift(volume, lungs, settings)
        seconds = round(time.perf_counter() - start, 3)
        n_micro, n_macro = len(found.micro(settings)), len(found.macro(settings))
        counts[sampling] = {"micro": n_micro, "macro": n_macro, "seconds": seconds}
    return counts


def same_acquisition(volume: Volume, other: Volume) -> dict[str, object]:
    """Two reconstructions on one grid: the map between them is the identity."""
    identity = Copy(other, np.eye(3), np.zeros(3), np.zeros(3))
    first, second = (detect_keypoints(v, SETTINGS) for v in (volume, other))
    return {"same": asdict(returned(first, second, identity))}


def between_people(fixed: Volume, fixed_lungs: Volume, moving: Volume, moving_lungs: Volume) -> dict[str, object]:
    """Distance of the keypoints' rigid fit from the final non-linear registration, in centre and angle.

    The registration's rigid part is the least-squares one over the lung's voxels.
    """
    from popclust.normalization.preparation import prepare
    from popclust.normalization.registration import register_pair
    from popclust.settings import NormalizeSettings

    final = register_pair(prepare(fixed, 2.0, fixed_lungs), prepare(moving, 2.0, moving_lungs), NormalizeSettings())
    points = fixed_lungs.index_to_mm(np.argwhere(fixed_lungs.voxels)[::50])
    target = final(points)
    u, _, vt = np.linalg.svd((target - target.mean(axis=0)).T @ (points - points.mean(axis=0)))
    rotation = (u * [1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    report: dict[str, object] = {}
    for name, upright in (("invariant", False), ("upright", True)):
        first, second = (detect_keypoints(v, SETTINGS, upright=upright) for v in (fixed, moving))
        matches = match_keypoints(first, second)
        fit = fit_rigid(first, second, matches)
        turn = Rotation.from_matrix(fit.rotation.T @ rotation).magnitude()
        report[name] = {
            "n_matches": fit.n_matches,
            "n_inliers": fit.n_inliers,
            "n_inliers_by_chance": chance_inliers(first, second, matches),
            "centre_mm": round(float(np.linalg.norm(fit(points).mean(axis=0) - target.mean(axis=0))), 1),
            "angle_degrees": round(float(np.degrees(turn)), 1),
        }
    return report


def curves(volume: Volume) -> dict[str, list[dict[str, float]]]:
    """Repeatability and matching when one thing at a time is turned up, with 20 HU of noise throughout."""
    still = Disturbance(angles_rad=(0.0, 0.0, 0.0), shift_mm=(0.0, 0.0, 0.0))
    sweeps: dict[str, list[tuple[float, Disturbance]]] = {
        "rotation (degrees)": [
            (d, replace(still, angles_rad=(0.0, 0.0, np.deg2rad(d)))) for d in (0, 5, 10, 20, 45, 90)
        ],
        "noise (HU)": [(n, replace(Disturbance(), noise_hu=float(n))) for n in (0, 10, 20, 40, 80)],
        "scale": [(s, replace(still, scale=s)) for s in (0.8, 0.9, 1.0, 1.1, 1.25)],
    }
    out: dict[str, list[dict[str, float]]] = {}
    for name, points in sweeps.items():
        out[name] = [{"value": float(x), **asdict(measured(volume, d))} for x, d in points]
    original = detect_keypoints(volume, SETTINGS)
    smoothed = []
    for sigma in (0.0, 1.0, 2.0, 3.0, 4.0):
        values = ndimage.gaussian_filter(volume.voxels, sigma / np.asarray(volume.spacing_mm))
        copy = Copy(volume.with_values(values), np.eye(3), np.zeros(3), np.zeros(3))
        smoothed.append({"value": sigma, **asdict(returned(original, detect_keypoints(copy.volume, SETTINGS), copy))})
    out["softer kernel (sigma mm)"] = smoothed
    return out


def kernel_curve(sharp: Volume, soft: Volume) -> list[dict[str, float]]:
    """The soft reconstruction against the sharp one of the same acquisition, smoothed step by step."""
    identity = Copy(soft, np.eye(3), np.zeros(3), np.zeros(3))
    second, points = detect_keypoints(soft, SETTINGS), []
    for sigma in (0.0, 0.5, 1.0, 1.5, 2.0):
        values = ndimage.gaussian_filter(
            sharp.voxels.astype(np.float32), (0, *(sigma / np.array(sharp.spacing_mm[1:])))
        )
        first = detect_keypoints(sharp.with_values(values), SETTINGS)
        points.append({"value": sigma, **asdict(returned(first, second, identity))})
    return points


def plot(report: dict[str, list[dict[str, float]]], path: Path) -> None:
    """One panel per sweep."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(report), figsize=(3.2 * len(report), 3.2), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, report.items(), strict=True):
        x = [p["value"] for p in points]
        axis.plot(x, [p["repeatability"] for p in points], "o-", label="locations repeated")
        axis.plot(x, [p["mutual_right_share"] for p in points], "s--", label="mutual matches right")
        axis.set(ylim=(0, 1.02))
        axis.set_xlabel(name, fontsize="small")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share")
    axes[0].legend(loc="lower left", fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)


def read(path: str, *, mask: bool = False) -> Volume:
    """A volume file on its own grid; a mask is True where not zero."""
    volume = read_volume_file(path)
    return volume.with_values(volume.voxels > 0) if mask else volume


def at_spacing(volume: Volume) -> Volume:
    """int16 at the resolution where keypoints are found, so that a copy is disturbed on that grid."""
    if np.allclose(volume.spacing_mm, SETTINGS.spacing_mm):
        return volume
    grid = resample(volume, SETTINGS.spacing_mm)
    return grid.with_values(np.rint(grid.voxels).astype(np.int16))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", required=True, help="CT volume (NIfTI, MetaImage, NRRD)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--reference", type=Path, help="key file of Toews' extractor for this volume")
    parser.add_argument("--reference-offset", type=float, default=0.5, help="where the key file has voxel 0's centre")
    parser.add_argument("--lungs", help="lung mask of the volume")
    parser.add_argument("--same", help="another reconstruction of the same acquisition")
    parser.add_argument("--person", help="a volume of another person")
    parser.add_argument("--person-lungs", help="lung mask of the other person")
    parser.add_argument("--curves", type=Path, help="write the figure of curves here")
    parser.add_argument("--kernels", nargs=2, metavar=("SHARP", "SOFT"), help="two reconstructions, for the curves")
    return parser.parse_args()


def reported(options: argparse.Namespace) -> dict[str, object]:
    """What the arguments ask for."""
    volume = read(options.volume)
    if options.reference:
        return dict(reference_found(volume, options.reference, options.reference_offset))
    if options.same:
        return same_acquisition(volume, read(options.same))
    if options.person:
        if not (options.lungs and options.person_lungs):
            sys.exit("--person needs --lungs and --person-lungs")
        masks = read(options.lungs, mask=True), read(options.person_lungs, mask=True)
        return between_people(volume, masks[0], read(options.person), masks[1])
    if options.lungs:
        return dict(lung_counts(volume, read(options.lungs, mask=True)))
    grid = at_spacing(volume)
    if options.curves:
        report = curves(grid)
        if options.kernels:
            report["soft against sharp, smoothed (sigma mm)"] = kernel_curve(*(read(k) for k in options.kernels))
        plot(report, options.curves)
        return dict(report)
    return {**asdict(measured(grid, Disturbance(seed=options.seed))), **timed(grid)}


def main() -> None:
    options = arguments()
    report = reported(options)
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        if isinstance(value, list):
            print(name)
            print("\n".join("  " + "  ".join(f"{k} {v:g}" for k, v in row.items()) for row in value))
        else:
            print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
