"""How fast the simulation is, how like real lungs its texture is, and how far its groups can be told apart.

python benchmarks/simulation.py --data ../shared/data [--volumes 66] [--seed 0] [--spacing 2 3] [--json]

`likeness`: for each Haralick feature, the percentile of the real lungs' values (lidc0001 and lidc0002) at which the
median of simulated normal lungs lies: to be between 5 and 95. `groups`: adjusted Rand index of k-means against the
planted groups, with the true maps: on words of texture and place, on their LDA topics, and on HU histograms.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popclust.features.haralick import sample_haralick
from popclust.imaging.volume import Volume
from popclust.settings import HaralickSettings
from popclust.simulation.branching import lung_trees
from popclust.simulation.person import Person
from popclust.simulation.population import VolumePlan, plan_population
from popclust.simulation.rendering import render
from popclust.simulation.writing import write_volume


def drawn(plan: VolumePlan, *, pure: bool) -> tuple[Volume, Volume]:
    diseases = plan.diseases[:1] if pure else plan.diseases
    out = render(plan.body, plan.lungs, diseases, plan.exposure)
    grid = plan.exposure.grid
    hu = Volume(np.maximum(out.hu, -1024).astype(np.float32), grid.spacing_mm, grid.origin_mm)
    return hu, hu.with_values(out.lung)


def real_features(data: Path, chosen: HaralickSettings) -> NDArray[np.float32]:
    import itk

    out = []
    for name in ("lidc0001", "lidc0002"):
        image = itk.imread(str(data / "ct" / f"{name}.nii.gz"))
        mask = itk.array_from_image(itk.imread(str(data / "masks" / f"{name}_lungs.nii.gz"))) > 0
        dx, dy, dz = image.GetSpacing()
        hu = itk.array_from_image(image).astype(np.float32)
        out.append(sample_haralick(Volume(hu, (dz, dy, dx)), Volume(mask, (dz, dy, dx)), chosen).features)
    return np.concatenate(out)


def likeness(data: Path, spacings: list[float], seed: int) -> dict[str, dict[str, float]]:
    plans = plan_population(6, seed, groups=["normal"], not_eligible=0, duplicates=0)
    lungs = [drawn(plan, pure=True) for plan in plans]
    out = {}
    for spacing in spacings:
        chosen = HaralickSettings(spacing_mm=spacing, step_mm=8.0)
        real = real_features(data, chosen)
        samples = [sample_haralick(hu, lung, chosen) for hu, lung in lungs]
        median = np.median(np.concatenate([s.features for s in samples]), axis=0)
        shares = (real < median).mean(axis=0) * 100
        out[f"{spacing:g} mm"] = dict(zip(samples[0].feature_names, shares.round(1).tolist(), strict=True))
    return out


def separability(n_volumes: int, seed: int) -> dict[str, float]:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.decomposition import LatentDirichletAllocation
    from sklearn.metrics import adjusted_rand_score

    plans = plan_population(n_volumes, seed, not_eligible=0, duplicates=0)
    chosen = HaralickSettings(spacing_mm=3.0, step_mm=9.0)
    features, places, histograms = [], [], []
    for plan in plans:
        hu, lung = drawn(plan, pure=False)
        samples = sample_haralick(hu, lung, chosen)
        features.append(samples.features)
        places.append(Person(plan.body).to_atlas(samples.positions_mm))
        histograms.append(np.histogram(hu.voxels[lung.voxels], np.linspace(-1024, 200, 50))[0] / lung.voxels.sum())
    x, place = np.concatenate(features), np.concatenate(places)
    # Texture and place get the same summed variance.
    place = (place - place.mean(axis=0)) / np.sqrt(place.var(axis=0).sum()) * np.sqrt(x.shape[1])
    rows = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), place])
    words = MiniBatchKMeans(200, random_state=0, n_init=1, batch_size=8192).fit_predict(rows)
    parts = np.split(words, np.cumsum([len(f) for f in features])[:-1])
    counts = np.stack([np.bincount(p, minlength=200) / len(p) for p in parts]) * 1000
    lda = LatentDirichletAllocation(20, doc_topic_prior=0.05, topic_word_prior=0.01, max_iter=50, random_state=0)
    groups = [plan.group for plan in plans]

    def ari(rows: NDArray) -> float:
        fits = [KMeans(6, n_init=1, random_state=s).fit_predict(rows) for s in range(5)]
        return round(float(np.mean([adjusted_rand_score(groups, f) for f in fits])), 3)

    return {"words": ari(counts), "lda": ari(lda.fit_transform(counts)), "hu_histograms": ari(np.stack(histograms))}


def speed(n_volumes: int, seed: int) -> dict[str, float]:
    started = time.process_time()
    lung_trees()
    out = {"caches_seconds": time.process_time() - started}
    plans = plan_population(n_volumes, seed, not_eligible=0, duplicates=0)
    with tempfile.TemporaryDirectory() as folder:
        write_volume(plans[0], Path(folder))
        started = time.process_time()
        for plan in plans[1:]:
            write_volume(plan, Path(folder))
        out["cpu_seconds_per_volume"] = (time.process_time() - started) / (len(plans) - 1)
    return {name: round(value, 2) for name, value in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--volumes", type=int, default=66)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spacing", type=float, nargs="+", default=[2.0, 3.0])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results: dict[str, Any] = {
        "speed": speed(9, args.seed),
        "likeness_percentile": likeness(args.data, args.spacing, args.seed),
        "groups_ari": separability(args.volumes, args.seed),
    }
    if args.json:
        print(json.dumps(results))
        return
    for topic, values in results.items():
        print(topic)
        for name, value in values.items():
            lines = value.items() if isinstance(value, dict) else [("", value)]
            for feature, number in lines:
                print(f"  {name:24s} {feature:28s} {number:8.2f}")


if __name__ == "__main__":
    main()
