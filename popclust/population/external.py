"""Descriptors from elsewhere: a table of vectors per volume (radiomics, a foundation model's embedding)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from popclust.errors import InputError
from popclust.study import Study

EXTERNAL = "external"
"""Name of the descriptor."""
IDENTIFIERS = ("volume_id", "series_instance_uid")
"""Columns that say which volume a row is of; the first that is there counts."""
_ENDINGS = (".parquet", ".pq", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".zarr")


@dataclass(frozen=True)
class ExternalVectors:
    """Vectors as groups are formed on them."""

    vectors: NDArray[np.float64]
    """(volume, feature) with mean 0 and spread 1, divided by the root of their number."""
    n_constant: int
    """Features left out because all volumes have the same value."""
    n_unused: int
    """Rows of volumes that are not in the population."""


def read_table(path: str) -> pd.DataFrame:
    """Rows with an identifier and features, from Parquet, CSV, TSV or a zarr group.

    A zarr group holds `vectors` (volume, feature) and the coordinate `volume_id` or `series_instance_uid` (volume,).

    Raises
    ------
    InputError
        The file is none of these, or cannot be read.
    """
    name = PurePosixPath(path).name
    if not name.lower().endswith(_ENDINGS):
        raise InputError(f"[cluster] external: {name}: wanted a file that ends in {', '.join(_ENDINGS)}")
    try:
        if name.lower().endswith(".zarr"):
            return _from_zarr(xr.open_zarr(path, consolidated=False, chunks=None).load())
        if name.lower().endswith((".parquet", ".pq")):
            return pd.read_parquet(path)
        separator = "\t" if ".tsv" in name.lower() else ","
        return pd.read_csv(path, sep=separator, dtype=dict.fromkeys(IDENTIFIERS, str))
    except InputError:
        raise
    except Exception as error:  # every reader has exceptions of its own
        raise InputError(
            f"[cluster] external: {name}: cannot be read ({type(error).__name__}); write it again"
        ) from error


def external_vectors(study: Study) -> NDArray[np.float64]:
    """The vectors (volume, feature) that the study's groups were formed on."""
    return np.asarray(study.read_dataset("external").vectors, np.float64)


def _from_zarr(dataset: xr.Dataset) -> pd.DataFrame:
    key = next((n for n in IDENTIFIERS if n in dataset.variables), None)
    if key is None or "vectors" not in dataset.variables or dataset["vectors"].ndim != 2:
        raise InputError(
            "[cluster] external: the zarr group wants `vectors` (volume, feature) and `volume_id` or "
            f"`series_instance_uid` (volume,); it has {', '.join(sorted(map(str, dataset.variables)))}"
        )
    frame = pd.DataFrame(np.asarray(dataset["vectors"], np.float64))
    frame.columns = frame.columns.astype(str)
    return frame.assign(**{key: [str(v) for v in dataset[key].values.tolist()]})


def lined_up(table: pd.DataFrame, volume_id: Sequence[str], series_of_volume: Mapping[str, str]) -> ExternalVectors:
    """The vectors of the population's volumes, standardised.

    Parameters
    ----------
    table
        An identifier and features, which are numbers.
    volume_id
        Of the grouped volumes.
    series_of_volume
        SeriesInstanceUID by volume_id.

    Raises
    ------
    InputError
        No identifier, a volume twice or without a vector, a feature that is no number, a missing or infinite value, or
        nothing that differs between volumes.
    """
    key = next((n for n in IDENTIFIERS if n in table.columns), None)
    if key is None:
        raise InputError(
            f"[cluster] external: wants the column volume_id or series_instance_uid, has {_some(table.columns)}"
        )
    ids = table[key].astype(str)
    if ids.duplicated().any():
        raise InputError(
            f"[cluster] external: {int(ids.duplicated().sum())} rows are of a volume that has one; keep one each"
        )
    wanted = [v if key == "volume_id" else series_of_volume.get(v, "") for v in volume_id]
    features = table.drop(columns=[n for n in IDENTIFIERS if n in table.columns]).set_index(pd.Index(ids))
    if text := [str(c) for c in features.columns if not pd.api.types.is_numeric_dtype(features[c])]:
        raise InputError(f"[cluster] external: features must be numbers; leave out the columns {_some(text)}")
    own = features.reindex(wanted)
    n_without = int((~pd.Index(wanted).isin(features.index)).sum())
    if n_without:
        raise InputError(
            f"[cluster] external: {n_without} of {len(wanted)} volumes of the population have no vector (looked for "
            f"by {key}); "
            "add them, or leave the volumes out of the study"
        )
    values = own.to_numpy(np.float64)
    _refuse_gaps(values, [str(c) for c in features.columns])
    spread = values.std(axis=0)
    differs = spread > 1e-12 * np.maximum(1.0, np.abs(values).max(axis=0, initial=0.0))
    if not differs.any():
        raise InputError("[cluster] external: no feature differs between volumes, so no groups can be formed on them")
    kept = (values[:, differs] - values[:, differs].mean(axis=0)) / spread[differs]
    return ExternalVectors(kept / np.sqrt(differs.sum()), int((~differs).sum()), len(table) - len(wanted))


def _refuse_gaps(values: NDArray[np.float64], names: Sequence[str]) -> None:
    is_gap = ~np.isfinite(values)
    if is_gap.any():
        columns = [names[i] for i in np.flatnonzero(is_gap.any(axis=0)).tolist()]
        raise InputError(
            f"[cluster] external: {int(is_gap.any(axis=1).sum())} volumes have missing or infinite values, in the "
            f"features {_some(columns)}; fill them in, or leave those features out"
        )


def _some(names: Any, n: int = 5) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:n]) + (f" and {len(shown) - n} more" if len(shown) > n else "")
