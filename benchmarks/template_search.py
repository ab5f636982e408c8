"""How often the pruned search chooses another template than the full one, what it loses, and what it costs.

    popclust simulate PEOPLE --volumes 20 --format nifti --templates 16
    python benchmarks/template_search.py --population PEOPLE [--volumes 20] [--n-best 1 2 3 4] [--spacing 2] [--json]
    python benchmarks/template_search.py --atlas FILE --templates FILE ... --people FILE ... [--set NAME=VALUE ...]

Every volume is registered to every template once; what a pruned search would have chosen follows from that, and so
does how often it would have gone on to all (`went_on_share`). The loss is against the highest NCC, ties or not.
`seconds` are CPU seconds of one thread; `ratio` is the pruned search over one pair: one affine and one non-linear
registration.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from registration import normalize_settings

from popclust.dataflow.stages.atlas import read_atlas_input
from popclust.imaging.files import read_volume_file
from popclust.normalization import elastix
from popclust.normalization.atlas import Atlas, AtlasInput, CheckedTemplate, assemble_atlas, check_template
from popclust.normalization.preparation import Prepared, prepare
from popclust.normalization.template_choice import (
    BothWays,
    affine_candidates,
    choose,
    compare,
    final_ways,
    in_order,
    reach,
)
from popclust.settings import AtlasSettings, NormalizeSettings


def main() -> None:
    """Parse, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", help="folder of popclust simulate; or, of volume files, the next three")
    parser.add_argument("--atlas")
    parser.add_argument("--templates", nargs="+", default=[])
    parser.add_argument("--people", nargs="+", default=[])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of [normalize]")
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--n-best", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settings = normalize_settings(args.set)
    if args.population:
        there = Path(args.population, "atlas")
        args.atlas, args.templates = str(there / "atlas.nii.gz"), sorted(map(str, there.glob("template_??.nii.gz")))
        args.people = sorted(map(str, Path(args.population, "NIfTI").glob("*.nii.gz")))
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), initializer=elastix.warm_up) as pool,
    ):
        _build(pool, args, settings, folder)
        people = args.people[: args.volumes]
        rows = list(
            pool.map(search, people, repeat(folder), repeat(args.spacing), repeat(args.n_best), repeat(settings))
        )
    figures: dict[str, Any] = {"n_volumes": len(rows), "n_templates": rows[0]["n_templates"]}
    for m in args.n_best:
        choices = [row["pruned"][m] for row in rows]
        loss = [row["best_ncc"] - c["ncc"] for row, c in zip(rows, choices, strict=True)]
        figures[f"n_best_{m}"] = {
            "choice_equal_share": float(np.mean([c["equal"] for c in choices])),
            "no_loss_share": float(np.mean(np.array(loss) == 0)),
            "ncc_loss_max": round(max(loss), 4),
            "went_on_share": float(np.mean([c["went_on"] for c in choices])),
            "seconds": round(float(np.mean([c["seconds"] for c in choices])), 1),
            "ratio": round(
                float(np.mean([c["seconds"] / row["pair_seconds"] for row, c in zip(rows, choices, strict=True)])), 2
            ),
        }
    print(json.dumps(figures) if args.json else "\n".join(f"{k:16} {v}" for k, v in figures.items()))


def search(
    path: str, atlas_folder: str, spacing: float, n_best: list[int], settings: NormalizeSettings
) -> dict[str, Any]:
    """Both searches for one volume."""
    atlas = _atlas(atlas_folder)
    started = time.process_time()
    volume = prepare(read_volume_file(path), spacing)
    candidates = affine_candidates(volume, atlas, settings)
    affine = compare({n: c.to_volume for n, c in candidates.items()}, volume, atlas, settings.min_coverage)
    reached = reach(atlas)
    order = in_order(affine, reached)
    sure_ncc = settings.sure_ncc * float(np.median(list(reached.values())))
    affine_seconds = time.process_time() - started
    ways: dict[str, BothWays] = {}
    seconds: dict[str, float] = {}
    for name in order:
        started = time.process_time()
        ways |= final_ways([candidates[name]], volume, atlas, settings)
        seconds[name] = time.process_time() - started
    maps = {name: w.to_volume for name, w in ways.items()}
    final = compare(maps, volume, atlas, settings.min_coverage)
    best = choose(final)
    pruned = {}
    for m in n_best:
        kept = compare({n: maps[n] for n in order[:m]}, volume, atlas, settings.min_coverage)
        went_on = max(kept.values()) < sure_ncc
        choice = best if went_on else choose(kept)
        total = affine_seconds + sum(seconds[n] for n in (order if went_on else order[:m]))
        pruned[m] = {"equal": choice == best, "ncc": final[choice], "seconds": total, "went_on": went_on}
    pair_seconds = affine_seconds / len(order) + float(np.mean(list(seconds.values())))
    print(f"{Path(path).name[-20:]} {best} {[round(final[n], 4) for n in order]}", file=sys.stderr, flush=True)
    return {"n_templates": len(order), "best_ncc": max(final.values()), "pruned": pruned, "pair_seconds": pair_seconds}


def _build(pool: ProcessPoolExecutor, args: argparse.Namespace, settings: NormalizeSettings, folder: str) -> None:
    """Register all templates to the atlas and leave it in a folder."""
    offered = repeat(args.atlas), args.templates, repeat(args.spacing), repeat(settings)
    checked = list(pool.map(_checked, *offered))
    reference, prepared = _reference(args.atlas, args.spacing)
    assemble_atlas(prepared, reference.landmarks, checked).save(folder)


def _checked(reference: str, template: str, spacing: float, settings: NormalizeSettings) -> CheckedTemplate:
    atlas, prepared = _reference(reference, spacing)
    return check_template(prepared, atlas, read_atlas_input(template), AtlasSettings(spacing_mm=spacing), settings)


@lru_cache(maxsize=1)
def _reference(path: str, spacing: float) -> tuple[AtlasInput, Prepared]:
    reference = read_atlas_input(path)
    return reference, prepare(reference.volume, spacing, reference.lungs)


@lru_cache(maxsize=1)
def _atlas(folder: str) -> Atlas:
    return Atlas.load(folder)


if __name__ == "__main__":
    main()
