"""How well, how fast and how safely volumes are registered; see docs/registration.md.

python benchmarks/registration.py --fixed F --moving M [--fixed-mask X --moving-mask Y] [--json]
python benchmarks/registration.py --fixed F (--warps N | --fragments N --moving M | --failures N [--moving M]) [--json]

Of a pair, `*_mm` is how far from its like a branching of the airways lies that both people show (`airway_points.py`).
Seconds are CPU seconds of one thread. One core: set OMP_NUM_THREADS and ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS to 1;
`--jobs 2` shares the cases of the last three between two processes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from airway_points import Landmarks, off_mm, shared_points
from registration_cases import good_variant, planted_failures, random_fragment, random_warp, warped, wrong_map
from scipy.ndimage import distance_transform_edt

from popclust.errors import VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization import elastix
from popclust.normalization.atlas import Atlas, AtlasInput, build_atlas
from popclust.normalization.correspondence import ncc
from popclust.normalization.normalized import Normalized, normalize_volume
from popclust.normalization.preparation import RANGE_HU, Prepared, on_grid, prepare
from popclust.normalization.quality import dice, measure
from popclust.normalization.registration import register_pair
from popclust.normalization.start import find_starts
from popclust.normalization.template_choice import BothWays, both_ways
from popclust.normalization.transform import ChainMap, PointMap, grid_points, jacobian_determinants
from popclust.settings import AtlasSettings, NormalizeSettings

START_MM, FINAL_MM = 15.0, 4.0
"""A fragment is localised within the first, and right at the end within the second."""
OUT = ("z_out", "y_out", "x_out")
"""Where greedy says each voxel of the fixed grid lies in the moving volume."""
SHORT = ("kind", "number", "start_mm", "place_mm", "final_mm", "failure_probability", "reasons")
"""What --verbose says of a case."""


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
    fixed, moving = read_volume_file(args.fixed), read_volume_file(args.moving)
    settings = normalize_settings(args.set)
    started = time.process_time()
    template, volume = (prepare(v, args.spacing) for v in (fixed, moving))
    ways = both_ways(register_pair(volume, template, settings), volume, template, settings.field_spacing_mm)
    seconds = time.process_time() - started
    grid = resample(fixed, args.spacing)
    masks = [_mask(p, q) for p, q in ((args.fixed_mask, template), (args.moving_mask, volume))]
    both = shared_points(fixed, moving)
    ours = _judged(ways, grid, moving, masks) | off_mm(both, ways.to_volume)
    peer = {} if args.no_greedy else _greedy(args, grid, moving, masks, both)
    ratio = round(seconds / float(str(peer["greedy_seconds"])), 3) if peer else None
    return {**ours, "seconds": round(seconds, 2), **peer, "ratio": ratio}


def warps(args: argparse.Namespace) -> dict[str, object]:
    """Known smooth deformations: target error at 500 lung points each."""
    rows = _each(args, _one_warp, range(args.warps))
    every = np.concatenate([row["errors_mm"] for row in rows])
    return {
        "n_warps": args.warps,
        "displacement_mm_mean": round(float(np.mean([row["displacement_mm"] for row in rows])), 3),
        "error_mm_mean": round(float(every.mean()), 3),
        "error_mm_p95": round(float(np.percentile(every, 95)), 3),
        "worst_warp_mm_mean": round(max(float(row["errors_mm"].mean()) for row in rows), 3),
        "inverse_consistency_mm_mean": round(float(np.mean([row["inverse_mm"] for row in rows])), 4),
    }


def fragments(args: argparse.Namespace) -> dict[str, object]:
    """Fragments of one person on another, against the whole person's registration.

    Localised and placed are about where a fragment lies (the mean of its lung points, after the start and at the
    end); final errors are the points' own, and the strict `wrongly_accepted` counts by these.
    """
    rows = _each(args, _one_fragment, range(args.fragments))
    accepted = np.array([r["accepted"] for r in rows])
    start, place, final = (np.array([r[name] for r in rows]) for name in ("start_mm", "place_mm", "final_mm"))
    return {
        "n_fragments": args.fragments,
        "localised_share": float(np.mean(start <= START_MM)),
        "placed_share": float(np.mean(place <= FINAL_MM)),
        "within_4_mm_share": float(np.mean(final <= FINAL_MM)),
        "final_error_mm_median": round(float(np.median(final)), 3),
        "final_error_mm_p95": round(float(np.percentile(final, 95)), 3),
        "final_place_mm_p95": round(float(np.percentile(place, 95)), 3),
        "accepted_share": float(np.mean(accepted)),
        "wrongly_accepted": int(np.sum(accepted & (final > FINAL_MM))),
        "wrongly_placed_accepted": int(np.sum(accepted & (place > FINAL_MM))),
    }


def failures(args: argparse.Namespace) -> dict[str, object]:
    """Planted failures that must be rejected, good variants that must not."""
    kinds = planted_failures()
    planted = [(kind, number) for kind in kinds for number in range(args.failures)]
    good = [("good", number) for number in range(args.good or 10 * args.failures)]
    verdicts = _each(args, _one_verdict, [*planted, *good])
    missed = Counter(kind for (kind, _), reasons in zip(planted, verdicts, strict=False) if not reasons)
    return {
        "n_kinds": len(kinds),
        "n_planted": len(planted),
        "n_good": len(good),
        "caught_share": round(1 - missed.total() / len(planted), 4),
        "wrongly_rejected_share": round(float(np.mean([bool(r) for r in verdicts[len(planted) :]])), 4),
        "missed": dict(missed),
    }


def _one_warp(args: argparse.Namespace, number: int) -> dict[str, Any]:
    fixed, template, settings = *_whole(args.fixed, args.spacing), normalize_settings(args.set)
    rng = np.random.default_rng([args.seed, number])
    grid = resample(fixed, args.spacing)
    warp = random_warp(grid, rng, args.mean_mm)
    volume = prepare(warped(grid, warp, rng), args.spacing)
    lungs = np.argwhere(template.lungs.voxels)
    points = template.lungs.index_to_mm(lungs[rng.choice(len(lungs), 500, replace=False)])
    ways = both_ways(register_pair(volume, template, settings), volume, template, settings.field_spacing_mm)
    truth, found = warp.backward(points), ways.to_volume(points)
    return {
        "errors_mm": np.linalg.norm(found - truth, axis=1),
        "displacement_mm": float(np.linalg.norm(points - truth, axis=1).mean()),
        "inverse_mm": float(np.linalg.norm(ways.to_atlas(found) - points, axis=1).mean()),
    }


def _one_fragment(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Errors of one fragment at the lung points that it shows, against the whole person's registration.

    `start_mm` and `place_mm` are of the fragment's place: the mean of those points; `final_mm` is the mean of the
    points' own errors.
    """
    settings, (whole, prepared) = normalize_settings(args.set), _whole(args.moving, args.spacing)
    atlas = _atlas(args.fixed, args.spacing, settings)
    reference = _registered(args.moving, args.fixed, args.spacing, settings)
    part = random_fragment(whole, on_grid(prepared.lungs, whole), np.random.default_rng([args.seed, number]))
    try:
        volume = prepare(part.volume, atlas.spacing_mm)
        start = find_starts(volume, atlas.reference)[0]
        normalized = normalize_volume(part.volume, atlas, settings)
    except VolumeError as error:
        lost = dict.fromkeys(("start_mm", "place_mm", "final_mm"), np.inf)
        return lost | {"accepted": False, "reasons": [error.code]}
    lungs = prepared.lungs.index_to_mm(np.argwhere(prepared.lungs.voxels)[::50])
    points = part.to_whole.inverse()(lungs)
    shown = volume.shows(points)
    truth = reference(lungs[shown])
    started, ended = (point_map(points[shown]) - truth for point_map in (start.to_template, normalized.to_atlas))
    errors = {
        "start_mm": round(float(np.linalg.norm(started.mean(axis=0))), 2),
        "place_mm": round(float(np.linalg.norm(ended.mean(axis=0))), 2),
        "final_mm": round(float(np.linalg.norm(ended, axis=1).mean()), 2),
    }
    row = errors | dict(normalized.quality)
    _record(args, {"kind": "fragment", "number": number, **row})
    return row


def _one_verdict(args: argparse.Namespace, case: tuple[str, int]) -> list[str]:
    """Codes of why a planted failure or a good variant is rejected; none: it is accepted."""
    kind, number = case
    settings, (whole, prepared) = normalize_settings(args.set), _whole(args.moving or args.fixed, args.spacing)
    volume = resample(whole, args.spacing)
    rng = np.random.default_rng([args.seed, number, *kind.encode()])
    try:
        if kind == "good":
            made = good_variant(volume, on_grid(prepared.lungs, volume), rng)
        else:  # every failure is planted in another variant of the person, or ten would be one
            person = warped(volume, random_warp(volume, rng, rng.uniform(2, 10)), rng, rng.uniform(0, 60))
            made = planted_failures()[kind](person, on_grid(prepare(person, args.spacing).lungs, person), rng)
        atlas = _atlas(args.fixed, args.spacing, settings)
        found = normalize_volume(made, atlas, settings)
    except VolumeError as error:
        return [error.code]
    _record(args, {"kind": kind, "number": number, **found.quality})
    if kind == "good" and args.table:
        for measures in _under_wrong_maps(atlas.reference, prepare(made, args.spacing), found, rng):
            _record(args, {"kind": "wrong", "number": number, **measures})
    return list(found.quality["reasons"])


def _under_wrong_maps(
    reference: Prepared, volume: Prepared, found: Normalized, rng: np.random.Generator
) -> list[dict[str, float]]:
    """What is measured where a good map is shifted, turned or stretched: cases that failed for the calibration."""
    return [
        asdict(measure(reference, volume, ChainMap((wrong_map(reference, rng), found.to_volume)), found.lung))
        for _ in range(2)
    ]


def _each(args: argparse.Namespace, measure: Callable[..., Any], cases: Iterable[Any]) -> list[Any]:
    """Measure every case, in order; `--jobs` processes share them, each with one thread per registration."""
    if args.jobs == 1:
        return [measure(args, case) for case in cases]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), initializer=elastix.warm_up) as pool:
        return list(pool.map(measure, repeat(args), cases))


def _record(args: argparse.Namespace, row: Mapping[str, Any]) -> None:
    if args.verbose:
        print(json.dumps({k: row[k] for k in row if k in SHORT}), file=sys.stderr, flush=True)
    if args.table:
        person = Path(args.moving or args.fixed).name.split(".")[0]
        with Path(args.table).open("a") as file:
            file.write(json.dumps({"person": person, **row}) + "\n")


@lru_cache(maxsize=2)
def _whole(path: str, spacing: float) -> tuple[Volume, Prepared]:
    """A file's volume, and what registration sees of it."""
    volume = read_volume_file(path)
    return volume, prepare(volume, spacing)


@lru_cache(maxsize=1)
def _atlas(path: str, spacing: float, settings: NormalizeSettings) -> Atlas:
    """An atlas without further templates."""
    return build_atlas(
        AtlasInput("fixed", read_volume_file(path)), (), AtlasSettings(spacing_mm=spacing), settings
    ).atlas


@lru_cache(maxsize=1)
def _registered(moving: str, fixed: str, spacing: float, settings: NormalizeSettings) -> PointMap:
    return register_pair(_whole(moving, spacing)[1], _whole(fixed, spacing)[1], settings)


def _judged(ways: BothWays, grid: Volume, moving: Volume, masks: list[Volume]) -> dict[str, object]:
    """Dice, NCC, folding and inverse consistency over the fixed lungs."""
    points = grid_points(grid.shape, grid.spacing_mm, grid.origin_mm)
    lungs = sample(masks[0], points, outside=0.0) > 0.5
    moved = ways.to_volume(points)
    carried = sample(masks[1], moved, outside=0.0) > 0.5
    back = np.linalg.norm(ways.to_atlas(moved[lungs]) - points[lungs], axis=1)
    return {
        "dice": round(dice(lungs, carried), 4),
        "ncc": round(ncc(grid.voxels.ravel()[lungs], sample(moving, moved[lungs])), 4),
        "folding_percent": round(100 * float(np.mean(jacobian_determinants(ways.to_volume, points[lungs]) <= 0)), 4),
        "inverse_consistency_mm_mean": round(float(back.mean()), 4),
    }


def _greedy(
    args: argparse.Namespace, grid: Volume, moving: Volume, masks: list[Volume], points: Landmarks
) -> dict[str, object]:
    """The peer: affine and deformable, NCC 4x4x4, 100x50x10, one thread.

    It gets what helps it too: HU clipped as ours, and a mask of the fixed lungs and 2 cm around (without these two its
    affine step ends centimetres off, and Dice at 0.81).
    """
    if importlib.util.find_spec("picsl_greedy") is None:
        sys.exit("the peer is missing: pip install picsl-greedy, or give --no-greedy")
    moving_grid = resample(moving, args.spacing)
    lungs = on_grid(masks[0], grid)
    images = {
        "fixed": grid.with_values(np.clip(grid.voxels, *RANGE_HU)),
        "moving": moving_grid.with_values(np.clip(moving_grid.voxels, *RANGE_HU)),
        "region": lungs.with_values(distance_transform_edt(~lungs.voxels, sampling=lungs.spacing_mm) <= 20.0),
        "mask": on_grid(masks[1], moving_grid),
    }
    places = grid_points(moving_grid.shape, moving_grid.spacing_mm, moving_grid.origin_mm).T
    images |= {n: moving_grid.with_values(p.reshape(moving_grid.shape)) for n, p in zip("zyx", places, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {n: str(Path(folder, f"{n}.nii.gz")) for n in (*images, "warp", "mask_out", "out", "jacobian", *OUT)}
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
            f"{reference} {' '.join(f'-rm {paths[n]} {paths[o]}' for n, o in zip('zyx', OUT, strict=True))} {found}",
            f"{reference} -rj {paths['jacobian']} {found}",
        )
        carried, out, jacobian = (
            read_volume_file(paths["mask_out"]).voxels > 0.5,
            read_volume_file(paths["out"]).voxels,
            read_volume_file(paths["jacobian"]).voxels,
        )
        moved = [read_volume_file(paths[name]) for name in OUT]
    return {
        "greedy_dice": round(dice(lungs.voxels, carried), 4),
        "greedy_ncc": round(ncc(grid.voxels[lungs.voxels], out[lungs.voxels]), 4),
        "greedy_folding_percent": round(100 * float(np.mean(jacobian[lungs.voxels] <= 0)), 4),
        **off_mm(points, lambda mm: np.stack([sample(place, mm) for place in moved], axis=1), "greedy_"),
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

    kind = np.uint8 if volume.voxels.dtype == bool else np.float32
    itk.imwrite(elastix.to_itk(volume, kind), path)


def _mask(path: str | None, prepared: Prepared) -> Volume:
    if path is None:
        return prepared.lungs
    mask = read_volume_file(path)
    return mask.with_values(mask.voxels > 0)


def normalize_settings(changes: list[str]) -> NormalizeSettings:
    """The defaults of [normalize], changed by texts NAME=VALUE."""
    chosen = dict(item.split("=", 1) for item in changes)
    kinds = {f: type(v) for f, v in vars(NormalizeSettings()).items()}
    read: dict[str, Any] = {k: (v == "true") if kinds[k] is bool else kinds[k](v) for k, v in chosen.items()}
    return NormalizeSettings(**read)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed", required=True)
    parser.add_argument("--moving")
    parser.add_argument("--fixed-mask")
    parser.add_argument("--moving-mask")
    for name in ("warps", "fragments", "failures"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--good", type=int, default=0, help="good variants; 0: 10 times the failures of one kind")
    parser.add_argument("--mean-mm", type=float, default=15.0, help="mean displacement of the warps")
    parser.add_argument("--spacing", type=float, default=2.0, help="resolution of the registration, mm")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of [normalize]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-greedy", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cases, one thread each")
    parser.add_argument("--table", help="append the quality record of every case to this file, one JSON per line")
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
