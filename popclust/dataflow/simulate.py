"""Write a simulated population, one task per volume."""

from __future__ import annotations

from pathlib import Path

from distributed import Client
from rich.console import Console
from rich.progress import track

from popclust.dataflow.window import Task, run_window
from popclust.errors import InputError
from popclust.simulation.population import FileFormat, plan_population
from popclust.simulation.writing import write_atlas, write_tables, write_volume


def simulate(
    client: Client | None,
    out: str,
    n_volumes: int,
    seed: int,
    file_format: FileFormat = "dicom",
    *,
    n_templates: int = 3,
    console: Console | None = None,
) -> Path:
    """Write DICOM (or NIfTI) series, reports.csv, truth.parquet, atlas/ and transforms/ into a folder.

    Parameters
    ----------
    client : distributed.Client or None
        Where volumes are drawn; None draws them one after the other.
    out : str
        Folder; it must be new or empty.
    n_volumes : int
        Eligible series.
    seed : int
        Everything follows from it.
    file_format : {"dicom", "nifti"}
        Format of the series.
    n_templates : int
        Templates beside the atlas.
    console : rich.console.Console
        Where the bar is drawn.

    Raises
    ------
    InputError
        The folder holds something already.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{out}: this folder is not empty; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    plans = plan_population(n_volumes, seed)
    write_atlas(folder, n_templates, seed)
    # by their place: a series that is exported twice is in the plans twice
    tasks = (Task(f"{i:06}", (p, folder.absolute(), file_format)) for i, p in enumerate(plans))
    outcomes = run_window(client, "simulate", write_volume, tasks)
    console = console or Console(quiet=True)
    records = []
    for outcome in track(outcomes, "simulate people", total=len(plans), console=console):
        if outcome.error:
            raise RuntimeError(f"simulate {outcome.key}: {outcome.message}")
        records.append(outcome.value)
    write_tables(records, folder)
    return folder
