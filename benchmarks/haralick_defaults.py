"""Which window, grey levels, binning and step to sample texture with: the experiment behind the defaults.

    python benchmarks/haralick_defaults.py --data DATA [--plot docs/haralick_defaults.svg] [--json]

Separation: simulated people are drawn twice, with and without their disease, so it is known where the lesion lies.
A linear discriminant learns the four textures and healthy lung from all people but one and is tried on that one;
the figure is the balanced accuracy over samples. Stability: the same study of a real person in a sharp (B70f) and a
soft (B40f) kernel; the figure is Lin's concordance of each feature between the two, its median over features.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

# ruff: noqa: E402 - threads are counted when these libraries are imported
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from scipy import ndimage
from sklearn.cluster import MiniBatchKMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from popclust.features.haralick import sample_haralick
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume, resample, sample
from popclust.settings import HaralickSettings
from popclust.simulation.population import plan_population
from popclust.simulation.rendering import render

GROUPS = ("emphysema", "ground_glass", "fibrosis", "nodules")
WINDOWS_MM, LEVELS = (10.0, 14.0, 18.0, 22.0), (8, 16, 32)
BINNINGS: tuple[tuple[Literal["equal_width", "equalized"], int], ...] = (
    ("equal_width", 8),
    ("equal_width", 16),
    ("equal_width", 32),
    ("equalized", 16),
)
LESION_HU, HEALTHY_HU = 40.0, 8.0


@dataclass(frozen=True)
class Subject:
    """A volume at the sampling resolution, its lung, and the change in HU that its disease made."""

    volume: Volume
    lung: Volume
    change_hu: Volume
    group: str


def simulated(n_people: int) -> list[Subject]:
    """`n_people` of each group, each with the lesion's change from the same person drawn healthy."""
    out: list[Subject] = []
    for plan in plan_population(40 * n_people, 11, repeats=0, not_eligible=0, duplicates=0, copies=0):
        group = plan.diseases[0].group
        alone = len(plan.diseases) == 1 and plan.diseases[0].severity > 0.5
        if group not in GROUPS or not alone or sum(s.group == group for s in out) >= n_people:
            continue
        ill = render(plan.body, plan.lungs, plan.diseases, plan.exposure)
        healthy = render(plan.body, plan.lungs, (), plan.exposure)
        spacing = plan.exposure.grid.spacing_mm
        change = ndimage.gaussian_filter(np.abs(ill.hu.astype(np.float32) - healthy.hu), 4.0 / np.array(spacing))
        out.append(
            Subject(
                resample(Volume(ill.hu, spacing), 2.0),
                resample(Volume(ill.lung, spacing), 2.0),
                Volume(change, spacing),
                group,
            )
        )
    return out


def separation(subjects: list[Subject], chosen: HaralickSettings) -> float:
    """Balanced accuracy over healthy lung and the four textures, on people the discriminant has not seen."""
    features, labels, person = [], [], []
    for number, subject in enumerate(subjects):
        found = sample_haralick(subject.volume, subject.lung, chosen)
        change = sample(subject.change_hu, found.positions_mm)
        label = np.where(
            change > LESION_HU, GROUPS.index(subject.group), np.where(change < HEALTHY_HU, len(GROUPS), -1)
        )
        rng = np.random.default_rng(number)
        for k in np.unique(label[label >= 0]):
            rows = np.flatnonzero(label == k)
            rows = rng.permutation(rows)[:1000]
            features.append(found.features[rows].astype(np.float64))
            labels.append(np.full(len(rows), k))
            person.append(np.full(len(rows), number))
    x, y, who = np.concatenate(features), np.concatenate(labels), np.concatenate(person)
    guess = np.empty_like(y)
    for number in range(len(subjects)):
        own = who == number
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3, priors=np.full(len(GROUPS) + 1, 0.2))
        guess[own] = model.fit(x[~own], y[~own]).predict(x[own])
    return float(np.mean([(guess[y == k] == k).mean() for k in np.unique(y)]))


def concordance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Lin's coefficient of each column: 1 for equal values, less for a shift, another spread, or scatter."""
    covariance = ((one - one.mean(0)) * (other - other.mean(0))).mean(0)
    return np.asarray(2 * covariance / (one.var(0) + other.var(0) + (one.mean(0) - other.mean(0)) ** 2))


def two_kernels(data: Path) -> tuple[Volume, Volume, Volume]:
    sharp, soft = (resample(read_volume_file(data / f"ct/lungdx_a0002_{k}.nii.gz"), 2.0) for k in ("B70f", "B40f"))
    mask = read_volume_file(data / "masks/lungdx_a0002_B40f_lungs.nii.gz")
    return sharp, soft, mask.with_values(mask.voxels > 0)


def stability(sharp: Volume, soft: Volume, lung: Volume, chosen: HaralickSettings) -> np.ndarray:
    found = [sample_haralick(v, lung, chosen).features.astype(np.float64) for v in (sharp, soft)]
    return concordance(*found)


def steps(subject: Subject, chosen: HaralickSettings) -> list[dict[str, Any]]:
    """How far the visual words counted at a coarser step are from those counted at every voxel."""
    every = sample_haralick(subject.volume, subject.lung, replace(chosen, step_mm=2.0)).features.astype(np.float64)
    low, middle, high = np.percentile(every, (25, 50, 75), axis=0)
    scale = np.maximum(high - low, 1e-6)
    words = MiniBatchKMeans(100, random_state=0, n_init=1, batch_size=4096).fit((every - middle) / scale)
    wanted = np.bincount(words.labels_, minlength=100) / len(every)
    rows = []
    for step in (2.0, 4.0, 6.0, 8.0, 12.0):
        start = time.process_time()
        found = sample_haralick(subject.volume, subject.lung, replace(chosen, step_mm=step)).features
        seconds = time.process_time() - start
        own = np.bincount(words.predict((found.astype(np.float64) - middle) / scale), minlength=100) / len(found)
        distance = 0.5 * np.abs(own - wanted).sum()
        rows.append({"step_mm": step, "n_samples": len(found), "seconds": seconds, "words_moved": float(distance)})
    return rows


def plot(rows: list[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "popclust"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for binning, levels in BINNINGS:
        own = [r for r in rows if (r["binning"], r["n_levels"]) == (binning, levels)]
        style = {"color": f"C{LEVELS.index(levels)}", "linestyle": "-" if binning == "equal_width" else "--"}
        for axis, name in zip(axes, ("separation", "concordance"), strict=True):
            label = f"{levels} levels, {binning.replace('_', ' ')}"
            axis.plot([r["window_mm"] for r in own], [r[name] for r in own], "o", label=label, **style)
    axes[0].set(xlabel="window [mm]", ylabel="balanced accuracy", title="Planted textures told apart")
    axes[1].set(xlabel="window [mm]", ylabel="Lin's concordance (median)", title="B70f against B40f, one person")
    axes[1].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("POPCLUST_TEST_DATA", "../shared/data"))
    parser.add_argument("--people", type=int, default=3, help="of each group")
    parser.add_argument("--plot", help="SVG or PNG to write")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not (Path(arguments.data) / "ct").is_dir():
        sys.exit(f"no test data in {arguments.data}: give --data")
    subjects, kernels = simulated(arguments.people), two_kernels(Path(arguments.data))
    rows = []
    for window, (binning, levels) in itertools.product(WINDOWS_MM, BINNINGS):
        chosen = HaralickSettings(window_mm=window, n_levels=levels, binning=binning)
        agreed = stability(*kernels, chosen)
        rows.append(
            {
                "window_mm": window,
                "n_levels": levels,
                "binning": binning,
                "separation": separation(subjects, chosen),
                "concordance": float(np.median(agreed)),
                "concordance_least": float(agreed.min()),
            }
        )
    chosen_steps = steps(subjects[0], HaralickSettings())
    if arguments.plot:
        plot(rows, arguments.plot)
    if arguments.json:
        print(json.dumps({"settings": rows, "steps": chosen_steps}))
        return
    for table in (rows, chosen_steps):
        print("| " + " | ".join(table[0]) + " |\n|" + "---|" * len(table[0]))
        for row in table:
            print("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")


if __name__ == "__main__":
    main()
