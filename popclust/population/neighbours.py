"""Which volumes are like a volume."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from popclust.errors import InputError
from popclust.population.clustering import matrix_of
from popclust.settings import EncodeSettings


def neighbours(
    words: xr.Dataset,
    topics: xr.Dataset,
    volume_id: str,
    n: int = 5,
    descriptor: str = "concatenated",
    masses: EncodeSettings | None = None,
) -> pd.DataFrame:
    """The volumes whose descriptors lie nearest to one volume's.

    Parameters
    ----------
    words, topics : Dataset
        ``study.read_dataset("word_counts")`` and ``study.read_dataset("topics")``.
    volume_id : str
        The volume asked about.
    n : int
        How many are wanted.
    descriptor : str
        'concatenated' (texture and shape words) finds the same person again, whatever the scanner (own other scan
        nearest for .97 of people scanned twice); 'lda' finds the same disease.
    masses : EncodeSettings, optional
        Masses that the counts are scaled to; the study's ``settings.encode``.

    Returns
    -------
    DataFrame
        Columns volume_id and distance (Hellinger's, up to a factor), the nearest first, equals by name.

    Raises
    ------
    InputError
        No such volume.
    """
    ids = words["volume"].to_numpy().astype(object)
    if volume_id not in ids:
        raise InputError(f"neighbours: no volume {volume_id!r} among the {len(ids)} that were accepted")
    matrix = matrix_of(descriptor, words, topics, masses or EncodeSettings())
    distance = np.linalg.norm(matrix - matrix[ids == volume_id], axis=1)
    others = pd.DataFrame({"volume_id": ids, "distance": distance})[ids != volume_id]
    return others.sort_values(["distance", "volume_id"]).head(n).reset_index(drop=True)
