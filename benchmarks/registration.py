"""How well, how fast and how safely volumes are registered; see docs/registration.md.

python benchmarks/registration.py --fixed F --moving M [--fixed-mask X --moving-mask Y] [--json]
python benchmarks/registration.py --fixed F (--warps N | --fragments N --moving M | --failures N [--moving M]) [--json]

Seconds are CPU seconds of one thread. One core: set OMP_NUM_THREADS and ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS to 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from registration_cases import Fragment, good_variant, planted_failures, random_fragment, random_warp, warped
from scipy.ndimage import distance_transform_edt

from popclust.errors import VolumeError
from popclust.imaging.files import read_file_header, read_file_voxels
from popclust.imaging.geometry import align
from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization import elastix
from popclust.normalization.atlas import Atlas, AtlasInput, build_atlas
from popclust.normalization.normalized import BothWays, both_ways, normalize_volume
from popclust.normalization.preparation import RANGE_HU, Prepared, on_grid, prepare
from popclust.normalization.quality import dice, ncc
from popclust.normalization.registration import register_pair
from popclust.normalization.start import find_starts
from popclust.normalization.transform import PointMap, grid_points, jacobian_determinants
from popclust.settings import AtlasSettings, NormalizeSettings

START_MM, FINAL_MM = 15.0, 4.0
"""A fragment is localised within the first, and right at the end within the second."""


def main() -> None:
    """Parse, measure, print."""
    args = _arguments()
    elastix.warm_up()  # its slow first use is paid once per process
    figures = _measure(args)
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value}")


def pair(args: argparse.Namespace) -> dict[str, object]:
    """One pair, elastix against greedy, judged with the masks given."""
    fixed, moving = _read(args.fixed), _read(args.moving)
    settings = _settings(args)
    started = time.process_time()
    template, volume = (prepare(v, args.spacing) for v in (fixed, moving))
    ways = both_ways(register_pair(volume, template, settings), volume, template, settings.field_spacing_mm)
    seconds = time.process_time() - started
    grid = resample(fixed, args.spacing)
    masks = [_mask(p, q) for p, q in ((args.fixed_mask, template), (args.moving_mask, volume))]
    ours = _judged(ways, grid, moving, masks)
    peer = {} if args.no_greedy else _greedy(args, grid, moving, masks)
    ratio = round(seconds / float(str(peer["greedy_seconds"])), 3) if peer else None
    return {**ours, "seconds": round(seconds, 2), **peer, "ratio": ratio}


def warps(args: argparse.Namespace) -> dict[str, object]:
    """Known smooth deformations: target error at 500 lung points each."""
    fixed, settings = resample(_read(args.fixed), args.spacing), _settings(args)
    template = prepare(fixed, args.spacing)
    lungs = np.argwhere(template.lungs.hu)
    errors, before, back = [], [], []
    for number in range(args.warps):
        rng = np.random.default_rng([args.seed, number])
        warp = random_warp(fixed, rng, args.mean_mm)
        volume = prepare(warped(fixed, warp, rng), args.spacing)
        points = template.lungs.index_to_mm(lungs[rng.choice(len(lungs), 500, replace=False)])
        ways = both_ways(register_pair(volume, template, settings), volume, template, settings.field_spacing_mm)
        errors.append(np.linalg.norm(ways.to_volume(points) - warp.backward(points), axis=1))
        before.append(np.linalg.norm(points - warp.backward(points), axis=1))
        back.append(np.linalg.norm(ways.to_atlas(ways.to_volume(points)) - points, axis=1))
        _say(args, f"warp {number}: {errors[-1].mean():.2f} mm")
    every = np.concatenate(errors)
    return {
        "n_warps": args.warps,
        "displacement_mm_mean": round(float(np.concatenate(before).mean()), 3),
        "error_mm_mean": round(float(every.mean()), 3),
        "error_mm_p95": round(float(np.percentile(every, 95)), 3),
        "worst_warp_mm_mean": round(float(max(e.mean() for e in errors)), 3),
        "inverse_consistency_mm_mean": round(float(np.concatenate(back).mean()), 4),
    }


def fragments(args: argparse.Namespace) -> dict[str, object]:
    """Fragments of one person on another, against the whole person's registration."""
    fixed, whole, settings = _read(args.fixed), _read(args.moving), _settings(args)
    template, volume = (prepare(v, args.spacing) for v in (fixed, whole))
    reference = register_pair(volume, template, settings)
    atlas = build_atlas(AtlasInput("fixed", fixed), (), AtlasSettings(spacing_mm=args.spacing), settings).atlas
    lungs = on_grid(volume.lungs, whole)
    rows = []
    for number in range(args.fragments):
        part = random_fragment(whole, lungs, np.random.default_rng([args.seed, number]))
        rows.append(_one_fragment(part, reference, volume.lungs, atlas, settings))
        _say(args, f"fragment {number}: {rows[-1]}")
    right = [r["final_mm"] <= FINAL_MM for r in rows]
    accepted = [r["accepted"] for r in rows]
    final = [r["final_mm"] for r in rows]
    return {
        "n_fragments": args.fragments,
        "localised_share": float(np.mean([r["start_mm"] <= START_MM for r in rows])),
        "within_4_mm_share": float(np.mean(right)),
        "final_error_mm_median": round(float(np.median(final)), 3),
        "final_error_mm_p95": round(float(np.percentile(final, 95)), 3),
        "final_place_mm_p95": round(float(np.percentile([r["place_mm"] for r in rows], 95)), 3),
        "accepted_share": float(np.mean(accepted)),
        "wrongly_accepted": int(sum(a and not ok for a, ok in zip(accepted, right, strict=True))),
    }


def failures(args: argparse.Namespace) -> dict[str, object]:
    """Planted failures that must be rejected, good variants that must not."""
    fixed = _read(args.fixed)
    volume = resample(_read(args.moving or args.fixed), args.spacing)
    settings = _settings(args)
    atlas = build_atlas(AtlasInput("fixed", fixed), (), AtlasSettings(spacing_mm=args.spacing), settings).atlas
    lungs = on_grid(prepare(volume, args.spacing).lungs, volume)
    caught: Counter[str] = Counter()
    for name, plant in planted_failures().items():
        for number in range(args.failures):
            made = plant(volume, lungs, np.random.default_rng([args.seed, number]))
            reasons = _rejection(made, atlas, settings, args, name)
            caught[name] += bool(reasons)
            _say(args, f"{name} {number}: {reasons or 'ACCEPTED'}")
    n_good = args.good or 7 * args.failures
    rejected = []
    for number in range(n_good):
        made = good_variant(volume, lungs, np.random.default_rng([args.seed, 99, number]))
        reasons = _rejection(made, atlas, settings, args, "good")
        rejected.append(bool(reasons))
        _say(args, f"good {number}: {reasons or 'accepted'}")
    n_planted = args.failures * len(planted_failures())
    return {
        "n_kinds": len(planted_failures()),
        "n_planted": n_planted,
        "n_good": n_good,
        "caught_share": sum(caught.values()) / n_planted,
        "wrongly_rejected_share": float(np.mean(rejected)),
        "missed": {name: args.failures - n for name, n in caught.items() if n < args.failures},
    }


def _one_fragment(
    part: Fragment, reference: PointMap, whole_lungs: Volume, atlas: Atlas, settings: NormalizeSettings
) -> dict[str, float]:
    """Errors of one fragment at the lung points that it shows, against the whole person's registration.

    `start_mm` and `place_mm` are of the fragment's place: the mean of those points; `final_mm` is the mean of the
    points' own errors.
    """
    try:
        volume = prepare(part.volume, atlas.spacing_mm)
        start = find_starts(volume, atlas.reference)[0]
        normalized = normalize_volume(part.volume, atlas, settings)
    except VolumeError:
        return {"start_mm": np.inf, "place_mm": np.inf, "final_mm": np.inf, "accepted": False, "n_inliers": 0}
    whole = whole_lungs.index_to_mm(np.argwhere(whole_lungs.hu)[::50])
    points = part.to_whole.inverse()(whole)
    shown = volume.shows(points)
    truth = reference(whole[shown])
    started, ended = (point_map(points[shown]) - truth for point_map in (start.to_template, normalized.to_atlas))
    return {
        "start_mm": round(float(np.linalg.norm(started.mean(axis=0))), 2),
        "place_mm": round(float(np.linalg.norm(ended.mean(axis=0))), 2),
        "final_mm": round(float(np.linalg.norm(ended, axis=1).mean()), 2),
        "accepted": bool(normalized.quality["accepted"]),
        "n_inliers": start.n_inliers,
    }


def _rejection(volume: Volume, atlas, settings: NormalizeSettings, args: argparse.Namespace, kind: str) -> list[str]:
    try:
        quality = normalize_volume(volume, atlas, settings).quality
    except VolumeError as error:
        return [error.code]
    if args.table:
        with Path(args.table).open("a") as file:
            file.write(json.dumps({"kind": kind, **quality}) + "\n")
    return list(quality["reasons"])


def _judged(ways: BothWays, grid: Volume, moving: Volume, masks: list[Volume]) -> dict[str, object]:
    """Dice, NCC, folding and inverse consistency over the fixed lungs."""
    points = grid_points(grid.shape, grid.spacing_mm, grid.origin_mm)
    lungs = sample(masks[0], points, outside=0.0) > 0.5
    moved = ways.to_volume(points)
    carried = sample(masks[1], moved, outside=0.0) > 0.5
    back = np.linalg.norm(ways.to_atlas(moved[lungs]) - points[lungs], axis=1)
    return {
        "dice": round(dice(lungs, carried), 4),
        "ncc": round(ncc(grid.hu.ravel()[lungs], sample(moving, moved[lungs])), 4),
        "folding_percent": round(100 * float(np.mean(jacobian_determinants(ways.to_volume, points[lungs]) <= 0)), 4),
        "inverse_consistency_mm_mean": round(float(back.mean()), 4),
    }


def _greedy(args: argparse.Namespace, grid: Volume, moving: Volume, masks: list[Volume]) -> dict[str, object]:
    """The peer: affine and deformable, NCC 4x4x4, 100x50x10, one thread.

    It gets what helps it too: HU clipped as ours, and a mask of the fixed lungs and 2 cm around (without these two its
    affine step ends centimetres off, and Dice at 0.81).
    """
    if importlib.util.find_spec("picsl_greedy") is None:
        sys.exit("the peer is missing: pip install picsl-greedy, or give --no-greedy")
    moving_grid = resample(moving, args.spacing)
    lungs = on_grid(masks[0], grid)
    images = {
        "fixed": grid.with_values(np.clip(grid.hu, *RANGE_HU)),
        "moving": moving_grid.with_values(np.clip(moving_grid.hu, *RANGE_HU)),
        "region": lungs.with_values(distance_transform_edt(~lungs.hu, sampling=lungs.spacing_mm) <= 20.0),
        "mask": on_grid(masks[1], moving_grid),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {n: str(Path(folder, f"{n}.nii.gz")) for n in (*images, "warp", "mask_out", "out", "jacobian")}
        for name, image in images.items():
            _write(image, paths[name])
        pair = f"-i {paths['fixed']} {paths['moving']} -gm {paths['region']}"
        common = f"-d 3 -threads 1 {pair} -m NCC 4x4x4 -n 100x50x10"
        seconds = _run_greedy(
            f"{common} -a -dof 12 -ia-image-centers -o {folder}/affine.mat",
            f"{common} -it {folder}/affine.mat -o {paths['warp']}",
        )
        found = f"-r {paths['warp']} {folder}/affine.mat"
        reference = f"-d 3 -threads 1 -rf {paths['fixed']}"
        _run_greedy(
            f"{reference} -rm {paths['moving']} {paths['out']} -ri LABEL 0.2vox "
            f"-rm {paths['mask']} {paths['mask_out']} {found}",
            f"{reference} -rj {paths['jacobian']} {found}",
        )
        carried, out, jacobian = _read(paths["mask_out"]).hu > 0.5, _read(paths["out"]).hu, _read(paths["jacobian"]).hu
    return {
        "greedy_dice": round(dice(lungs.hu, carried), 4),
        "greedy_ncc": round(ncc(grid.hu[lungs.hu], out[lungs.hu]), 4),
        "greedy_folding_percent": round(100 * float(np.mean(jacobian[lungs.hu] <= 0)), 4),
        "greedy_seconds": round(seconds, 2),
    }


def _run_greedy(*commands: str) -> float:
    """CPU seconds that greedy takes, in a process of its own: its ITK and ours do not share one. Its import is free."""
    code = (
        "import sys, time; from picsl_greedy import Greedy3D; greedy = Greedy3D(); start = time.process_time()\n"
        "for command in sys.argv[1:]: greedy.execute(command)\n"
        "print(time.process_time() - start, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True, check=True)
    return float(done.stderr.split()[-1])


def _write(volume: Volume, path: str) -> None:
    import itk

    kind = np.uint8 if volume.hu.dtype == bool else np.float32
    itk.imwrite(elastix.to_itk(volume, kind), path)


def _read(path: str) -> Volume:
    return align(read_file_voxels(path), read_file_header(path).grid)


def _mask(path: str | None, prepared: Prepared) -> Volume:
    if path is None:
        return prepared.lungs
    mask = _read(path)
    return mask.with_values(mask.hu > 0)


def _settings(args: argparse.Namespace) -> NormalizeSettings:
    chosen = dict(item.split("=", 1) for item in args.set)
    kinds = {f: type(v) for f, v in vars(NormalizeSettings()).items()}
    return NormalizeSettings(**{k: (v == "true") if kinds[k] is bool else kinds[k](v) for k, v in chosen.items()})


def _say(args: argparse.Namespace, line: str) -> None:
    if args.verbose:
        print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed", required=True)
    parser.add_argument("--moving")
    parser.add_argument("--fixed-mask")
    parser.add_argument("--moving-mask")
    for name in ("warps", "fragments", "failures"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--good", type=int, default=0, help="good variants; 0: 7 per planted failure")
    parser.add_argument("--mean-mm", type=float, default=15.0, help="mean displacement of the warps")
    parser.add_argument("--spacing", type=float, default=2.0, help="resolution of the registration, mm")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of [normalize]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-greedy", action="store_true")
    parser.add_argument("--table", help="append the quality records of --failures to this file, one JSON per line")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _measure(args: argparse.Namespace) -> dict[str, object]:
    for name, mode in (("warps", warps), ("fragments", fragments), ("failures", failures)):
        if getattr(args, name):
            return mode(args)
    if not args.moving:
        sys.exit("give --moving, --warps, --fragments or --failures")
    return pair(args)


if __name__ == "__main__":
    main()
