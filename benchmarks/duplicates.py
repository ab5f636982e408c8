"""What the search for one person twice finds, lets through and costs.

    python benchmarks/duplicates.py --ct CHEST.nii.gz [...] [--people 40] [--json]      real CTs bent into people
    python benchmarks/duplicates.py --volumes 2000 10000 [--json]                       the tasks of a run, timed

People are bent from the CTs (12 mm) and scanned twice, on two days: turned by up to 6 degrees, moved by up to 15 mm,
breathing, with other noise. `found`: share of people whom a comparison of all pairs finds; `lost`: share of these that
share fewer keys than the search asks for; `fewest_shared` of those found; `let_through`: share of pairs of people bent
from different CTs that are looked at for nothing; `keys_ms` per volume. `--whitening FILE` keeps what evens out the
descriptors of these people; the package's is of seed 0, of eight CTs.

With `--volumes`, made-up keypoints go through the tasks: `cpu_ms` per volume, and the largest task's memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from registration_cases import kernel_noise, random_warp
from scipy.spatial.transform import Rotation

from popclust.dataflow import meeting
from popclust.features.sift3d import Keypoints
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization.preparation import corners_mm
from popclust.normalization.transform import AffineMap, grid_points
from popclust.population import duplicates
from popclust.population.duplicate_keys import MIN_SHARED, pairs_that_share
from popclust.study import Study

BEND_MM, TURN_RAD, SHIFT_MM, BREATH_MM = 12.0, 0.1, 15.0, 4.0
SOFTNESS = 0.3
"""Share of the mean variance that is added to every direction's: rare directions are noise as well."""
Person = tuple[Keypoints, Keypoints]


def people_of(files: list[str], n_people: int, seed: int) -> list[tuple[str, Person]]:
    """Name of the CT and the keypoints of two visits, of people bent from some CTs in turn."""
    scans = [resample(read_volume_file(f), duplicates.IDENTIFYING.spacing_mm) for f in files]
    out = []
    for i in range(n_people):
        rng = np.random.default_rng([seed, i])
        scan = scans[i % len(scans)]
        bend = random_warp(scan, rng, BEND_MM).forward
        first, second = (_visit(scan, bend, rng, is_second) for is_second in (False, True))
        out.append((files[i % len(files)], (first, second)))
    return out


def _visit(scan: Volume, bend: object, rng: np.random.Generator, is_second: bool) -> Keypoints:
    points = grid_points(scan.shape, scan.spacing_mm, scan.origin_mm)
    if is_second:
        breath = random_warp(scan, rng, BREATH_MM).forward
        turn = Rotation.from_euler("xyz", rng.uniform(-TURN_RAD, TURN_RAD, 3)).as_matrix()
        centre = corners_mm(scan).mean(axis=0)
        points = AffineMap(turn, centre - turn @ centre + rng.uniform(-SHIFT_MM, SHIFT_MM, 3))(breath(points))
    voxels = sample(scan, bend(points)).reshape(scan.shape)  # type: ignore[operator]
    return duplicates.identifying_keypoints(
        scan.with_values((voxels + kernel_noise(scan.shape, rng, rng.uniform(8, 42))).astype(np.float32))
    )


def whitening(people: list[tuple[str, Person]]) -> NDArray[np.float32]:
    """(1 + 64, 64) mean descriptor, and the matrix that evens out its directions."""
    rows = np.concatenate([k.descriptor[: duplicates.N_STRONGEST] for _, both in people for k in both]).astype(float)
    variance, directions = np.linalg.eigh(np.cov(rows.T))
    variance = variance.clip(min=0)
    softened = variance + SOFTNESS * variance.mean()
    even = directions / np.sqrt(softened * (variance / softened).mean())
    return np.vstack([rows.mean(axis=0), even]).astype(np.float32)


def recall(people: list[tuple[str, Person]]) -> dict[str, float]:
    """What the keys find of what a comparison of all pairs finds, and what they let through."""
    scans = [k for _, both in people for k in both]
    started = time.process_time()
    keys = [duplicates.identifying_keys(k) for k in scans]
    keys_ms = 1000 * (time.process_time() - started) / len(scans)
    number = np.arange(len(scans), dtype=np.uint32)
    volume = np.repeat(number, [len(k) for k in keys])
    met = {(a, b): n for a, b, n in pairs_that_share(np.concatenate(keys), volume, number).tolist()}
    names = {f"{i}": k for i, k in enumerate(scans)}
    again = [(2 * i, 2 * i + 1) for i in range(len(people))]
    found = [p for p in again if duplicates.look_closely([(f"{p[0]}", f"{p[1]}")], names.__getitem__)]
    strangers = [p for p in combinations(range(len(scans)), 2) if people[p[0] // 2][0] != people[p[1] // 2][0]]
    return {
        "people": len(people),
        "found": len(found) / len(again),
        "lost": float(np.mean([met.get(p, 0) < MIN_SHARED for p in found])),
        "fewest_shared": min(met.get(p, 0) for p in found),
        "keys_met": float(np.mean([met.get(p, 0) for p in strangers])),
        "let_through": float(np.mean([met.get(p, 0) >= MIN_SHARED for p in strangers])),
        "keys_ms": round(keys_ms, 2),
    }


def cost(n_volumes: int) -> dict[str, float]:
    """The tasks of a run over made-up keypoints, one after the other in this process."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study.create(f"{folder}/study")
        rng = np.random.default_rng(0)
        names = [f"v{i:07}" for i in range(n_volumes)]
        for name in names:
            _made_up(rng).save(study.open_group("volumes", f"{name}.keypoints.zarr", mode="w"))
        started = time.process_time()
        search = meeting.prepare(study, {name: name for name in names})
        for start in search.starts:
            meeting.write_keys(study, search, start)
        written = time.process_time()
        for share in range(search.n_shares):
            meeting.meet(study, search, share)
        n_found = sum(len(meeting.look(study, search, share)) for share in range(search.n_shares))
        ended = time.process_time()
    return {
        "volumes": n_volumes,
        "keys_cpu_ms": round(1000 * (written - started) / n_volumes, 2),
        "meeting_cpu_ms": round(1000 * (ended - written) / n_volumes, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "found": n_found,
    }


def _made_up(rng: np.random.Generator, n: int = duplicates.N_STRONGEST) -> Keypoints:
    scale = rng.uniform(4, 12, n).astype(np.float32)
    return Keypoints(
        position_mm=rng.uniform(-150, 150, (n, 3)).astype(np.float32),
        scale_mm=scale,
        diameter_mm=4 * scale,
        contrast=rng.choice([-1, 1], n).astype(np.int8),
        frame=Rotation.random(n, rng=rng).as_matrix().astype(np.float32),
        descriptor=rng.permuted(np.tile(np.arange(64, dtype=np.uint8), (n, 1)), axis=1),
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", nargs="+", default=[])
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--whitening", help="write what evens out the descriptors to this file")
    parser.add_argument("--volumes", type=int, nargs="+", default=[])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, object] = {}
    if args.ct:
        people = people_of(args.ct, args.people, args.seed)
        if args.whitening:
            np.save(Path(args.whitening), whitening(people))
        figures["recall"] = recall(people)
    if args.volumes:
        figures["cost"] = [cost(n) for n in args.volumes]
    print(json.dumps(figures) if args.json else "\n".join(f"{name:12} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
