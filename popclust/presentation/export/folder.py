"""The export of a study: which parts there are, and the folder that they are written into."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from os import cpu_count
from pathlib import Path

import numpy as np
import pandas as pd

from popclust import storage
from popclust.errors import InputError
from popclust.imaging.ome_zarr import read_ome_zarr_grid
from popclust.normalization.atlas import Atlas
from popclust.normalization.normalized import Normalized
from popclust.normalization.transform import DisplacementField
from popclust.presentation.export.crate import README, Result, ended_at, write_crate
from popclust.presentation.export.guide import guide
from popclust.presentation.export.images import write_atlas, write_nifti
from popclust.presentation.export.tables import write_tables
from popclust.presentation.run_cards import last_card
from popclust.presentation.view import StudyView, read_view
from popclust.study import Study

PARTS = {
    "tables": Result(
        "tables/", "tables", "every table as CSV, and data_dictionary.csv with the meaning of each column"
    ),
    "anndata": Result("population.h5ad", "population", "volumes by visual words, as AnnData", "application/x-hdf5"),
    "atlas": Result("atlas/", "atlas", "the atlas, its templates and their lungs, as NIfTI"),
    "masks": Result("masks/", "masks", "the lungs of every volume in its patient's space, as NIfTI"),
    "transforms": Result("transforms/", "transforms", "maps between each volume and the atlas, as ITK transforms"),
    "fields": Result("fields/", "fields", "the same maps as images of displacements"),
    "dicom": Result("dicom/", "dicom", "lungs as DICOM Segmentation, groups as Structured Report"),
}
"""Every part of an export."""
UNASKED = tuple(name for name in PARTS if name != "dicom")
"""The parts that are written where none is named."""
_BY_VOLUME = ("masks", "transforms", "fields", "dicom")
_WANTS = {"anndata": "anndata", "transforms": "SimpleITK", "fields": "SimpleITK", "dicom": "highdicom"}
_ATLAS_MARGIN_MM = 50.0
"""Around the atlas, within which an exported transform says what ours says."""
Step = Callable[[int, int], object]


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: str
    """Where."""
    parts: Sequence[str]
    """Which of :data:`PARTS`."""
    n_volumes: int
    """Volumes with masks, transforms or objects of their own."""
    n_files: int
    """Files."""
    n_bytes: int
    """Their size."""


def export(
    study: Study,
    out: str,
    parts: Collection[str] = UNASKED,
    volumes: Collection[str] = (),
    step: Step = lambda done, total: None,
) -> Export:
    """Write a study, or parts of it, into a new folder; it is there whole or not at all.

    Parameters
    ----------
    study : Study
        A study that has run; at a URL too.
    out : str
        Local folder that does not exist yet, or is empty.
    parts : collection of str
        Which of :data:`PARTS`.
    volumes : collection of str
        Whose masks, transforms and objects are wanted; all that were accepted where none is named.
    step : callable
        Told how many volumes are written, and of how many.

    Raises
    ------
    InputError
        No such part or volume, a package is missing, `out` holds something, or the study has not run.
    """
    wanted = [p for p in PARTS if p in _known(parts)]
    folder = _new_folder(out)
    card = last_card(study)
    view = read_view(study)
    chosen = _chosen(view, volumes) if set(wanted) & set(_BY_VOLUME) else []
    aside = folder.with_name(f"{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_population(view, aside, wanted)
        _write_volumes(view, aside, wanted, chosen, ended_at(card), step)
        results = [PARTS[p] for p in wanted]
        (aside / README).write_text(guide(results))
        write_crate(aside, card, [Result(README, "guide", "what lies here", "text/markdown"), *results])
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    files = [p for p in folder.rglob("*") if p.is_file()]
    return Export(str(folder), wanted, len(chosen), len(files), sum(p.stat().st_size for p in files))


def _known(parts: Collection[str]) -> list[str]:
    """The parts, where there are such and what they are written with is installed."""
    for part in parts:
        if part not in PARTS:
            raise InputError(f"export: there is no part {part!r}; there are {', '.join(PARTS)}")
        package = _WANTS.get(part)
        if package and find_spec(package) is None:
            raise InputError(
                f"export: {part} is written with {package}, which is not installed: `pip install 'popclust[export]'`, "
                "or leave that part out with --only"
            )
    return list(parts)


def _new_folder(out: str) -> Path:
    if not storage.is_local(out):
        raise InputError(f"{out}: an export is written to a local folder; copy it from there")
    folder = Path(storage.absolute(out))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: there is something here already; name a new folder")
    return folder


def _chosen(view: StudyView, volumes: Collection[str]) -> list[str]:
    accepted = view.quality.loc[view.quality["accepted"].astype(bool), "volume_id"]
    known = sorted(accepted.astype(str))
    if strange := sorted(set(volumes) - set(known)):
        raise InputError(
            f"{view.study.url}: {', '.join(strange)}: not accepted here; quality.parquet has those that are"
        )
    return [v for v in known if v in volumes] if volumes else known


def _write_population(view: StudyView, folder: Path, parts: Sequence[str]) -> None:
    if "tables" in parts:
        write_tables(view.study, folder / "tables")
    if "anndata" in parts:
        from popclust.presentation.export.annotated import annotated

        annotated(view).write_h5ad(folder / PARTS["anndata"].path, compression="gzip")
    if "atlas" in parts:
        write_atlas(Atlas.load(view.study.learnt_path("atlas")), folder / "atlas")


def _write_volumes(
    view: StudyView, folder: Path, parts: Sequence[str], volumes: Sequence[str], when: datetime, step: Step
) -> None:
    wanted = [p for p in parts if p in _BY_VOLUME]
    for part in wanted:
        (folder / part).mkdir()
    named = _named(view) if "dicom" in wanted else pd.DataFrame()

    def write(volume_id: str) -> None:
        normalized = Normalized.load(view.study.open_group("normalized", f"{volume_id}.zarr"))
        if "masks" in wanted:
            write_nifti(normalized.lung, folder / "masks" / f"{volume_id}_lungs.nii.gz")
        if {"transforms", "fields"} & set(wanted):
            _write_maps(view.study, volume_id, normalized, folder, wanted)
        if "dicom" in wanted:
            _write_objects(volume_id, named.loc[volume_id], normalized, when, folder / "dicom")

    with ThreadPoolExecutor(cpu_count()) as pool:  # compression lets others run
        for done, _ in enumerate(pool.map(write, volumes), 1):
            step(done, len(volumes))


def _write_maps(study: Study, volume_id: str, normalized: Normalized, folder: Path, parts: Sequence[str]) -> None:
    from popclust.presentation.export.transforms import covering, write_field, write_transform

    grid = read_ome_zarr_grid(study.path("volumes", f"{volume_id}.ome.zarr"))
    maps = {
        f"{volume_id}_to_atlas": covering(normalized.to_atlas, grid.corners_mm),
        f"atlas_to_{volume_id}": covering(normalized.to_volume, _with_margin(normalized.to_volume)),
    }
    for name, field in maps.items():
        if "transforms" in parts:
            write_transform(field, folder / "transforms" / f"{name}.h5")
        if "fields" in parts:
            write_field(field, folder / "fields" / f"{name}.mha")


def _with_margin(field: DisplacementField) -> np.ndarray:
    """Corners (2, 3) zyx mm of the box that a field's nodes span, and a margin."""
    origin, spacing = np.asarray(field.origin_mm), np.asarray(field.spacing_mm)
    last = origin + spacing * (np.asarray(field.displacement_mm.shape[1:]) - 1)
    return np.stack([origin - _ATLAS_MARGIN_MM, last + _ATLAS_MARGIN_MM])


def _named(view: StudyView) -> pd.DataFrame:
    """Cohort and group by volume_id."""
    groups = view.groups.set_index("volume_id")
    return view.cohort.set_index("volume_id").join(groups, how="left")


def _write_objects(volume_id: str, row: pd.Series, normalized: Normalized, when: datetime, folder: Path) -> None:
    from popclust.presentation.export.dicom import Grouped, write_objects

    text = {n: "" if pd.isna(row[n]) else str(row[n]) for n in ("patient_id", "study_id", "sex", "acquired_on")}
    group = None if pd.isna(row.get("cluster")) else row[["descriptor", "n_clusters", "seed", "cluster"]].to_dict()
    if group is not None:
        whole = {k: int(group[k]) for k in ("n_clusters", "seed", "cluster")}
        group = {**group, **whole, "distance": float(row["distance"]), "stability": float(row["stability"])}
    write_objects(Grouped(volume_id, **text, group=group), normalized.lung, when, folder)
