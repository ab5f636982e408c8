"""How long the explorer makes a person wait: first view and click, in Chromium, from its own server.

    python benchmarks/explorer.py --volumes 100000 --json
    python benchmarks/explorer.py --ct chest.nii.gz --json       slices of a real CT

The study is made up: as many volumes, 20 groups, 69 terms, and as many groupings and tests as a run's defaults leave
(29 numbers of groups, 5 seeds, 5 descriptors). `first_view_s` counts from the address to a painted map with its legend,
`click_s` from the mouse to all three slices of the volume and what is known of it, the median of several volumes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from chromium import Page, browser
from explorer_served import IMAGES, LEGEND, served, shown_text, tab_place
from made_study import make_study

from popclust.imaging.files import read_volume_file
from popclust.imaging.ome_zarr import write_ome_zarr
from popclust.imaging.volume import Volume, resample
from popclust.normalization.normalized import Normalized
from popclust.normalization.transform import DisplacementField
from popclust.population.groupings import Groupings, read_groupings
from popclust.study import Study

N_GROUPS, N_CLICKS = 20, 7
NUMBERS, SEEDS = range(2, 31), range(5)


def make(folder: Path, n_volumes: int) -> Study:
    """A finished study of the wanted size."""
    study: Study = make_study(
        folder, n_volumes, with_volumes=False, terms={f"RID{i}": f"finding {i}" for i in range(69)}, n_groups=N_GROUPS,
        numbers_of_clusters=range(N_GROUPS, N_GROUPS + 1),
        overrides={"cluster": {"seeds": [0]}, "associate": {"n_permutations": 0}},
    ).study  # fmt: skip
    tests, few = study.read_table("associations"), read_groupings(study)
    names = few.grid["descriptor"].unique()
    grid = pd.DataFrame([(d, k, s) for d in names for k in NUMBERS for s in SEEDS], columns=list(few.grid))
    row = pd.Index(few.grid["descriptor"]).get_indexer(pd.Index(grid["descriptor"]))
    cluster = (few.cluster[row] % grid["n_clusters"].to_numpy()[:, None]).astype(np.int16)
    many = Groupings(grid, few.volume_id, cluster, few.distance[row], few.stability[row])
    study.write_dataset("groupings", many.to_dataset())
    frames = [
        tests[(tests["descriptor"] == d) & (tests["cluster"] < k)].assign(n_clusters=k, seed=s)
        for d, k, s in grid.itertuples(index=False)
    ]
    study.write_table("associations", pd.concat(frames, ignore_index=True))
    groups = study.read_table("clusters")
    rng = np.random.default_rng(0)
    middle = rng.uniform(0.1, 0.9, (N_GROUPS, 2))[groups["cluster"]]
    place = np.clip(middle + rng.normal(0, 0.04, (len(groups), 2)), 0, 1).round(6)
    frame = groups[["volume_id", "cluster"]].assign(x=place[:, 0], y=place[:, 1])
    study.write_bytes(frame.to_csv(index=False, lineterminator="\n").encode(), "figures", "map.csv")
    return study


def write_volumes(study: Study, volume_ids: list[str], ct: Path | None) -> tuple[int, int, int]:
    """The same voxels for every volume, at a hospital's size; their shape."""
    volume, lungs = chest(ct)
    still = DisplacementField(np.zeros((3, 1, 1, 1), np.float32), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    for volume_id in volume_ids:
        write_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"), volume)
        normalized = Normalized("atlas", {}, still, still, lungs, np.eye(3), {})
        normalized.save(study.open_group("normalized", f"{volume_id}.zarr", mode="w"))
    return volume.shape


def chest(ct: Path | None) -> tuple[Volume, Volume]:
    """A CT of 1 mm slices and 0.7 mm pixels: the given one, or noise."""
    rng = np.random.default_rng(0)
    if ct is None:
        fine = Volume(rng.normal(-700, 60, (320, 512, 512)).astype(np.int16), (1.0, 0.7, 0.7))
    else:
        found = resample(read_volume_file(str(ct)), (1.0, 0.7, 0.7))
        fine = found.with_values(found.voxels.astype(np.int16))
    coarse = resample(fine, (3.0, 3.0, 3.0))
    return fine, coarse.with_values((coarse.voxels < -500) & (coarse.voxels > -1000))


def painted(tab: Page) -> float:
    """Seconds since the address was asked for, once the browser has drawn what it has."""
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return float(tab.evaluate("performance.now()")) / 1000


def first_view(tab: Page, url: str) -> float:
    tab.goto(url)
    tab.wait_for(f"window.Bokeh && Bokeh.index.roots && Bokeh.index.roots.length > 0 && {LEGEND}.length > 0", 120)
    return painted(tab)


def click(tab: Page, place: tuple[float, float], volume_id: str) -> float:
    """Seconds from a click to the volume's slices and card."""
    x, y = tab_place(tab, place)
    begin = painted(tab)
    tab.click(x, y)
    slices = f"{IMAGES}.filter(i => i.alt.includes('{volume_id}') && i.naturalWidth > 0).length === 3"
    tab.wait_for(slices, 60)
    while f"{volume_id}" not in shown_text(tab):
        time.sleep(0.02)
    return painted(tab) - begin


def lonely(study: Study, n: int) -> pd.DataFrame:
    """Volumes of the map that a click can mean no other by: the most remote ones."""
    from scipy.spatial import cKDTree

    frame = pd.read_csv(study.path("figures", "map.csv"), dtype={"volume_id": str})
    off = cKDTree(frame[["x", "y"]]).query(frame[["x", "y"]], 2)[0][:, 1]
    inside = frame[["x", "y"]].gt(0.02).all(axis=1) & frame[["x", "y"]].lt(0.98).all(axis=1)
    return frame.assign(off=np.where(inside, off, 0)).nlargest(n, "off")


def measure(study: Study, ct: Path | None) -> dict[str, Any]:
    targets = lonely(study, N_CLICKS)
    shape = write_volumes(study, targets["volume_id"].tolist(), ct)
    with browser(1500, 1300) as tab, served(study) as (url, process):
        first = [first_view(tab, url) for _ in range(3)]
        clicks = [click(tab, (row.x, row.y), row.volume_id) for row in targets.itertuples()]
        memory = process.memory_info().rss / 2**20
        errors = tab.errors
    return {
        "n_volumes": len(study.read_table("clusters")),
        "voxels": list(shape),
        "first_view_s": statistics.median(first),
        "first_view_worst_s": max(first),
        "click_s": statistics.median(clicks),
        "click_worst_s": max(clicks),
        "server_mb": memory,
        "n_console_messages": len(errors),
        "load": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--volumes", type=int, default=100_000, help="volumes of the population")
    parser.add_argument("--ct", type=Path, help="a CT whose slices are shown; noise without it")
    parser.add_argument("--study", type=Path, help="where the study is kept, and found by the next call")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.study or Path(name) / "study"
        if (folder / "figures" / "map.csv").exists():
            study = Study.open(str(folder))
        else:
            study = make(folder, arguments.volumes)
        figures = measure(study, arguments.ct)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:24s} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
