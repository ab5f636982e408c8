"""What the voxels and a kernel's name tell: HU by content, sharpness without names, a real table of headers.

    python benchmarks/content.py --json [--data ../shared/data] [--only calibration sharpness headers] [--volumes 3]

Every real CT is changed in ways that hospitals know, and reconstructed anew with simulated kernels.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from popclust.imaging.acquisition import measure_acquisition
from popclust.imaging.calibration import measure_calibration
from popclust.imaging.files import read_volume_file
from popclust.imaging.kernels import explain_kernel
from popclust.imaging.volume import Volume
from popclust.settings import IngestSettings
from popclust.simulation.canvas import Grid
from popclust.simulation.scanner import SCANNERS, Kernel, reconstruct

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from test_calibration import FAULTS

RULES = IngestSettings()
CHANGES = {**FAULTS, "stored x1.05": lambda hu: (hu + 1024) * 1.05 - 1024}
BLUR_LIMIT_MM = 0.8
"""Simulated kernels that the name calls sharp and that blur by more are smooth by any measure; they are told apart."""
SLICES = 40


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", default=["calibration", "sharpness", "headers"])
    parser.add_argument("--volumes", type=int, default=None, help="real CTs at most; default: all")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "calibration": lambda: calibration(islice(real_ct(args.data), args.volumes)),
        "sharpness": lambda: sharpness(islice(real_ct(args.data), args.volumes)),
        "headers": lambda: headers(args.data / "ct_headers/ctrate_valid_headers.csv"),
    }
    found = {name: parts[name]() for name in args.only}
    print(json.dumps(found, indent=None if args.json else 2))
    return 0


def real_ct(data: Path) -> Iterator[tuple[str, Volume]]:
    for path in sorted([*(data / "ct").glob("*.nii.gz"), *(data / "ct").glob("*.mha")]):
        yield path.name.split(".")[0], read_volume_file(path)


def calibration(volumes: Iterator[tuple[str, Volume]]) -> dict[str, Any]:
    """How many of each change are found, and what is missed."""
    found, missed, alarms, n = Counter(dict.fromkeys(CHANGES, 0)), [], [], 0
    for name, volume in volumes:
        n += 1
        if not _is_hu(volume):
            alarms.append(name)
        for change, make in CHANGES.items():
            hu = np.clip(np.rint(make(volume.voxels.astype(np.float32))), -1024, 32767)
            if _is_hu(volume.with_values(hu.astype(np.int16))):
                missed.append([name, change])
            else:
                found[change] += 1
    return {"n_volumes": n, "false_alarms": alarms, "found": dict(found), "missed": missed}


def _is_hu(volume: Volume) -> bool:
    return measure_calibration(volume).is_hu(RULES.max_hu_shift, RULES.max_hu_slope_error)


def sharpness(volumes: Iterator[tuple[str, Volume]]) -> dict[str, Any]:
    """On which side of the rule real pictures come out that are reconstructed anew by every simulated scanner."""
    right, n, wrong, measured = 0, 0, [], {}
    smooth: Counter[str] = Counter()
    for number, (name, whole) in enumerate(volumes):
        step = max(1, len(whole.voxels) // SLICES)
        volume = replace(whole, voxels=whole.voxels[::step])
        measured[name] = _sharpness(volume)
        for scanner in SCANNERS:
            noise_hu = sum(scanner.noise_hu) / 2
            for kernel, is_sharp in [*((k, True) for k in scanner.sharp), *((k, False) for k in scanner.soft)]:
                value = _sharpness(_seen_by(volume, kernel, noise_hu, scanner.noise_correlation, number))
                if value is None:
                    continue
                if is_sharp and kernel.blur_mm > BLUR_LIMIT_MM:
                    smooth["sharp" if value > 0 else "soft"] += 1
                    continue
                n += 1
                right += (value > 0) is is_sharp
                if (value > 0) is not is_sharp:
                    wrong.append([name, scanner.model, kernel.name, round(value, 3)])
    return {
        "n": n,
        "right": right,
        "share": round(right / max(1, n), 4),
        "wrong": wrong,
        "sharp_by_name_but_smooth": dict(smooth),
        "as_they_are": {k: None if v is None else round(v, 3) for k, v in measured.items()},
    }


def _seen_by(volume: Volume, kernel: Kernel, noise_hu: float, low_noise: float, seed: int) -> Volume:
    grid = Grid(volume.shape, volume.spacing_mm, (0.0, 0.0, 0.0))
    hu = reconstruct(volume.voxels.astype(np.float32), grid, kernel, noise_hu, low_noise, np.random.default_rng(seed))
    return volume.with_values(np.rint(np.clip(hu, -1024, 3071)).astype(np.int16))


def _sharpness(volume: Volume) -> float | None:
    return measure_acquisition(volume).sharpness(volume.spacing_mm[2])


def headers(path: Path) -> dict[str, Any]:
    """What the names of a real hospital's kernels say."""
    sides: Counter[str] = Counter()
    whys: Counter[str] = Counter()
    patients: set[str] = set()
    tried: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            text = row["ConvolutionKernel"]
            kernel = ast.literal_eval(text)[0] if text.startswith("[") else text
            said = explain_kernel(kernel, row["SeriesDescription"])
            patient = row["VolumeName"].split("_")[1]
            sides[said.side] += 1
            whys[f"{said.side}: {said.why}"] += 1
            patients.add(patient)
            if said.side != "soft":
                tried.add(patient)
    counts = {"n_series": sides.total(), "n_patients": len(patients), "n_patients_tried": len(tried)}
    return {**counts, "sides": dict(sides), "why": dict(whys.most_common())}


if __name__ == "__main__":
    sys.exit(main())
