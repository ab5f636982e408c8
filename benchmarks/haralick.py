"""Speed, memory, scaling and exactness of dense Haralick texture, beside ITK and mahotas in the same run.

    python benchmarks/haralick.py --volume CT [--lung MASK] --step 1 [--json]     time per sample, and peers'
    python benchmarks/haralick.py --volume CT --oracle CSV [--json]               error against given features
    python benchmarks/haralick.py --volume CT --step 1 --memory --scaling [--json]

The volume is taken voxel by voxel as it is: window 9^3, 16 levels over [-1000, 400) HU, distance 1, 13 directions.
Without --lung the lung is segmented here. Times are CPU seconds of one thread, compilation left out; every round runs
all contestants in turn, ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# ruff: noqa: E402 - threads are counted when these libraries are imported
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

from popclust.features.glcm import glcm_features
from popclust.features.glcm_features import IBSI_25
from popclust.features.haralick import grey_levels, mask_on, sample_haralick
from popclust.features.sampling import grid_points
from popclust.imaging.files import read_file_voxels, read_volume_file
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume
from popclust.settings import HaralickSettings

WINDOW, N_LEVELS = 9, 16
PYRADIOMICS = {
    "Autocorrelation": "autocorrelation",
    "ClusterProminence": "cluster_prominence",
    "ClusterShade": "cluster_shade",
    "ClusterTendency": "cluster_tendency",
    "Contrast": "contrast",
    "Correlation": "correlation",
    "DifferenceAverage": "difference_average",
    "DifferenceEntropy": "difference_entropy",
    "DifferenceVariance": "difference_variance",
    "Id": "inverse_difference",
    "Idm": "inverse_difference_moment",
    "Idmn": "normalised_inverse_difference_moment",
    "Idn": "normalised_inverse_difference",
    "Imc1": "information_correlation_1",
    "Imc2": "information_correlation_2",
    "InverseVariance": "inverse_variance",
    "JointAverage": "joint_average",
    "JointEnergy": "angular_second_moment",
    "JointEntropy": "joint_entropy",
    "MaximumProbability": "joint_maximum",
    "SumEntropy": "sum_entropy",
    "SumSquares": "joint_variance",
}


def levels_of(hu: np.ndarray) -> np.ndarray:
    return grey_levels(hu, np.ones(hu.shape, dtype=bool), HaralickSettings(n_levels=N_LEVELS))


def cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ours(levels: np.ndarray, points: np.ndarray) -> Callable[[], Any]:
    return lambda: glcm_features(levels, points, window=WINDOW, n_levels=N_LEVELS)


def itk_boxes(hu: np.ndarray, points: np.ndarray, edge: int = 14) -> tuple[Callable[[], Any], int]:
    """ITK's filter on three boxes of windows around lung voxels: its work, and how many windows that is."""
    try:
        import itk

        kind = itk.CoocurrenceTextureFeaturesImageFilter
    except (ImportError, AttributeError):
        sys.exit("ITK's texture features are missing: pip install itk-texturefeatures")
    image_type = itk.Image[itk.F, 3]
    margin = WINDOW // 2 + edge
    inner = points[((points >= margin) & (points < np.array(hu.shape) - margin)).all(axis=1)]
    if len(inner) < 3:
        sys.exit("the volume is too small for ITK's boxes: give a larger one, or --peers none")
    jobs = []
    for centre in inner[[len(inner) // 4, len(inner) // 2, 3 * len(inner) // 4]]:
        low = centre - edge // 2
        box = tuple(slice(int(c) - WINDOW // 2, int(c) + edge + WINDOW // 2) for c in low)
        jobs.append(itk.image_from_array(np.ascontiguousarray(hu[box], dtype=np.float32)))

    def work() -> None:
        for image in jobs:
            filter_ = kind[image_type, itk.Image[itk.Vector[itk.F, 8], 3]].New(image)
            filter_.SetNumberOfBinsPerAxis(N_LEVELS)
            filter_.SetHistogramMinimum(-1000)
            filter_.SetHistogramMaximum(400)
            filter_.SetNeighborhoodRadius([WINDOW // 2] * 3)
            filter_.SetNumberOfWorkUnits(1)
            filter_.UpdateOutputInformation()
            output = filter_.GetOutput()
            output.SetRequestedRegion(itk.ImageRegion[3]([WINDOW // 2] * 3, [edge] * 3))
            output.Update()
            if tuple(output.GetBufferedRegion().GetSize()) != (edge,) * 3:
                raise RuntimeError("ITK computed another region than asked for")

    return work, len(jobs) * edge**3


def mahotas_windows(levels: np.ndarray, points: np.ndarray, n: int = 60) -> tuple[Callable[[], Any], int]:
    """Mahotas on n windows spread over the lung."""
    try:
        import mahotas
    except ImportError:
        sys.exit("mahotas is missing: pip install mahotas")
    r = WINDOW // 2
    inner = points[((points >= r) & (points < np.array(levels.shape) - r)).all(axis=1)]
    chosen = inner[np.linspace(0, len(inner) - 1, n).astype(int)]
    windows = [np.ascontiguousarray(levels[tuple(slice(c - r, c + r + 1) for c in p)]) for p in chosen]
    varied = [w for w in windows if w.min() < w.max()]  # it refuses windows of one level
    return lambda: [mahotas.features.haralick(w, return_mean=True) for w in varied], len(varied)


def speed(volume: Volume, mask: np.ndarray, step: int, rounds: int, peers: bool) -> dict[str, Any]:
    levels, points = levels_of(volume.voxels), grid_points(mask, step)
    start = time.perf_counter()
    glcm_features(levels, points[:10], window=WINDOW, n_levels=N_LEVELS)
    out: dict[str, Any] = {"step": step, "n_samples": len(points), "first_call_s": time.perf_counter() - start}
    contestants: dict[str, tuple[Callable[[], Any], int]] = {"ours": (ours(levels, points), len(points))}
    if peers:
        contestants["itk"] = itk_boxes(volume.voxels, points)
        contestants["mahotas"] = mahotas_windows(levels, points)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for work, _ in contestants.values():
        work()
    for _ in range(rounds):
        for name, (work, n) in contestants.items():
            seconds[name].append(cpu_seconds(work) / n)
    out["us_per_sample"] = statistics.median(seconds["ours"]) * 1e6
    out["us_per_sample_best"] = min(seconds["ours"]) * 1e6
    for name in list(contestants)[1:]:
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds["ours"], strict=True)]
        out[f"{name}_us_per_sample"] = statistics.median(seconds[name]) * 1e6
        out[f"{name}_ratio"] = statistics.median(ratios)
        out[f"faster_than_{name}"] = f"{sum(r > 1 for r in ratios)} of {rounds}"
    return out


def oracle(path: str, csv_path: str) -> dict[str, Any]:
    """Largest relative error of each feature that the table has, its indices being those of the file."""
    with Path(csv_path).open() as lines:
        rows = list(csv.DictReader(lines))
    points = np.array([[int(r[axis]) for axis in "zyx"] for r in rows])
    found = glcm_features(
        levels_of(read_file_voxels(path)), points, window=WINDOW, n_levels=N_LEVELS, features="ibsi25"
    )
    errors = {}
    for column in rows[0]:
        feature = PYRADIOMICS.get(column, column)
        if feature in IBSI_25:
            wanted = np.array([float(r[column]) for r in rows])
            difference = np.abs(found[:, IBSI_25.index(feature)] - wanted)
            errors[column] = float(np.max(difference / np.maximum(np.abs(wanted), np.finfo(float).tiny)))
    return {"n_points": len(rows), "n_features": len(errors), "max_relative_error": max(errors.values()), **errors}


def memory(volume: Volume, lung: Volume, step: int) -> dict[str, Any]:
    """Peak resident memory of the whole stage, resampling and lung included, beyond what stood before it."""
    chosen = replace(HaralickSettings(), step_mm=step * HaralickSettings().spacing_mm)
    small = volume.with_values(np.zeros_like(volume.voxels))
    corner = np.zeros(volume.shape, dtype=bool)
    corner[tuple(slice(n // 2, n // 2 + 8) for n in volume.shape)] = True
    sample_haralick(small, volume.with_values(corner), chosen)  # compiled and imported before the count begins
    del small, corner
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        peak_from = _status_mb("VmHWM")
    except OSError:
        peak_from = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    samples = sample_haralick(volume, lung, chosen)
    after = _status_mb("VmHWM") if Path("/proc/self/status").exists() else 0.0
    return {
        "memory_n_samples": len(samples.features),
        "volume_mb": volume.voxels.nbytes / 2**20,
        "peak_beyond_volume_mb": after - peak_from,
    }


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _control(n: int) -> int:
    state = 1
    for _ in range(n):
        state = (state * 1103515245 + 12345) % 2147483648
    return state


def _laps(kind: str, levels: np.ndarray, points: np.ndarray, barrier: Any, results: Any, seconds: float) -> None:
    work = ours(levels, points) if kind == "ours" else (lambda: _control(400_000))
    work()
    barrier.wait()
    start_wall, start_cpu, laps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start_wall < seconds:
        work()
        laps += 1
    results.put((laps / (time.perf_counter() - start_wall), laps / (time.process_time() - start_cpu)))


def scaling(volume: Volume, mask: np.ndarray, step: int, rounds: int, seconds: float = 3.0) -> dict[str, Any]:
    """Work done by two processes over that of one, ours and a loop of pure arithmetic, in turns."""
    levels, points = levels_of(volume.voxels), grid_points(mask, step)
    points = points[: max(1, len(points) // 4)]
    context = multiprocessing.get_context("fork")
    wall: dict[tuple[str, int], list[float]] = {}
    cpu: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for kind in ("ours", "control"):
            for n in (1, 2):
                barrier, results = context.Barrier(n), context.Queue()
                arguments = (kind, levels, points, barrier, results, seconds)
                children = [context.Process(target=_laps, args=arguments) for _ in range(n)]
                for child in children:
                    child.start()
                rates = [results.get() for _ in children]
                for child in children:
                    child.join()
                wall.setdefault((kind, n), []).append(sum(r[0] for r in rates))
                cpu.setdefault((kind, n), []).append(sum(r[1] for r in rates))
    out: dict[str, Any] = {}
    for name, rate in (("wall", wall), ("cpu", cpu)):
        scale = {k: statistics.median(rate[k, 2]) / statistics.median(rate[k, 1]) for k in ("ours", "control")}
        out |= {f"scaling_{name}_{k}": v for k, v in scale.items()}
        out[f"scaling_{name}_ratio"] = scale["ours"] / scale["control"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volume", required=True, help="NIfTI, MetaImage or NRRD, in HU")
    parser.add_argument("--lung", help="mask file on any grid in the same space; default: segmented here")
    parser.add_argument("--step", type=int, default=1, help="voxels between samples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", choices=("all", "none"), default="all")
    parser.add_argument("--oracle", help="CSV with z, y, x and features: report errors instead of times")
    parser.add_argument("--memory", action="store_true", help="peak memory of the whole stage")
    parser.add_argument("--scaling", action="store_true", help="two processes against one")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.oracle:
        out = oracle(arguments.volume, arguments.oracle)
    else:
        volume = read_volume_file(arguments.volume)
        if arguments.lung:
            mask = read_volume_file(arguments.lung)
            lung = mask.with_values(mask.voxels > 0)
        else:
            lung = segment_lungs(volume)
        on_grid = mask_on(volume, lung)
        out = {}
        if arguments.memory:
            out |= memory(volume, lung, arguments.step)
        if arguments.scaling:
            out |= scaling(volume, on_grid, arguments.step, arguments.rounds)
        if not (arguments.memory or arguments.scaling):
            out |= speed(volume, on_grid, arguments.step, arguments.rounds, arguments.peers == "all")
    if arguments.json:
        print(json.dumps(out))
    else:
        for name, value in out.items():
            print(f"{name:40s} {value:.4g}" if isinstance(value, float) else f"{name:40s} {value}")


if __name__ == "__main__":
    main()
