"""Descriptors of other tools: what the door lets in, what it leaves out, and what it refuses in a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from popclust.dataflow.stages import cluster
from popclust.errors import InputError
from popclust.evaluation.associations import reported_grouping
from popclust.population.external import EXTERNAL, lined_up, read_table
from popclust.settings import from_dict
from popclust.study import Study

IDS = [f"v{i}" for i in range(12)]
SERIES = {v: f"1.2.{i}" for i, v in enumerate(IDS)}


def radiomics(n_features: int = 4) -> pd.DataFrame:
    x = np.random.default_rng(0).normal(5.0, 2.0, (12, n_features))
    return pd.DataFrame(x, columns=[f"original_glcm_{i}" for i in range(n_features)])


def test_vectors_are_lined_up_by_volume_or_series_and_standardised():
    table = radiomics().assign(volume_id=IDS, original_shape_Constant=1.0)
    found = lined_up(table.sample(frac=1, random_state=1), IDS[2:], SERIES)
    own = radiomics().to_numpy()[2:]
    np.testing.assert_allclose(found.vectors, (own - own.mean(axis=0)) / own.std(axis=0) / 2.0)
    assert (found.n_constant, found.n_unused) == (1, 2)
    by_series = radiomics().assign(series_instance_uid=list(SERIES.values()))
    np.testing.assert_array_equal(lined_up(by_series, IDS[2:], SERIES).vectors, found.vectors)


def test_parquet_csv_and_zarr_say_the_same(tmp_path: Path):
    table = radiomics().assign(volume_id=IDS)
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    vectors = xr.Dataset(
        {"vectors": (("volume", "feature"), radiomics().to_numpy())},
        coords={"volume_id": ("volume", np.array(IDS, dtype=object))},
    )
    vectors.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    first = lined_up(read_table(str(tmp_path / "a.parquet")), IDS, SERIES).vectors
    for name in ("a.csv", "a.tsv", "a.zarr"):
        np.testing.assert_allclose(lined_up(read_table(str(tmp_path / name)), IDS, SERIES).vectors, first)
    (tmp_path / "b.parquet").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read"):
        read_table(str(tmp_path / "b.parquet"))
    with pytest.raises(InputError, match="ends in"):
        read_table(str(tmp_path / "vectors.npy"))
    vectors.rename(vectors="embedding").to_zarr(tmp_path / "b.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(InputError, match="wants `vectors`"):
        read_table(str(tmp_path / "b.zarr"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="volume_id"), "wants the column volume_id"),
        (lambda t: t.iloc[:9], "3 of 12 volumes of the population have no vector"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "1 rows are of a volume that has one"),
        (lambda t: t.assign(original_glcm_1=np.nan), "12 volumes have missing or infinite values"),
        (lambda t: t.assign(original_glcm_2=[np.inf, *range(11)]), "in the features original_glcm_2"),
        (lambda t: t.assign(note="text"), "features must be numbers; leave out the columns note"),
        (lambda t: t[["volume_id"]].assign(a=1.0, b=2.0), "no feature differs between volumes"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(change, says):
    with pytest.raises(InputError, match=says):
        lined_up(change(radiomics().assign(volume_id=IDS)), IDS, SERIES)


def test_it_is_one_more_descriptor_and_reported_only_if_asked_for():
    with pytest.raises(InputError, match=r"cluster\.external names its vectors"):
        from_dict({"associate": {"descriptor": "external"}})
    settings = from_dict(
        {"cluster": {"external": "x.csv", "n_clusters_max": 3}, "associate": {"descriptor": "external"}}
    )
    calls = cluster.calls(Study("nowhere", settings), 12)
    assert {f"{EXTERNAL}-{k}" for k in (2, 3)} <= set(calls)
    without = replace(settings, cluster=replace(settings.cluster, external=""))
    assert not any(c.startswith(EXTERNAL) for c in cluster.calls(Study("nowhere", without), 12))
    criterion = pd.DataFrame(
        {"descriptor": ["lda", EXTERNAL, "zones"], "n_clusters": 2, "seed": 0, "Q": [3, 9, 9], "gain": [0.1, 0.9, 0.8]}
    ).assign(is_candidate=True)
    assert reported_grouping(criterion, "best").descriptor == "lda"
    assert reported_grouping(criterion, EXTERNAL).descriptor == EXTERNAL
