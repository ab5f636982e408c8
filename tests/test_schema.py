from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr

from popclust import schema
from popclust.dataflow.flow import Flow
from popclust.features.sift3d import Keypoints
from popclust.imaging.ome_zarr import write_ome_zarr
from popclust.imaging.volume import Volume
from popclust.normalization.atlas import Atlas, BuiltAtlas, Template
from popclust.normalization.normalized import Normalized
from popclust.normalization.preparation import Prepared
from popclust.normalization.transform import DisplacementField
from popclust.population.vocabulary import FeatureScaling, Vocabulary

PAGE = Path(__file__).parents[1] / "docs" / "outputs.md"


def clusters(**changed: object) -> pd.DataFrame:
    values = [("v1", "lda", 2, 0, 0, 0.5, 1.0, False), ("v2", "lda", 2, 0, 1, 0.25, np.nan, False)]
    return pd.DataFrame(values, columns=schema.names("clusters")).assign(**changed)


def cohort(**changed: object) -> pd.DataFrame:
    row = dict.fromkeys(schema.names("cohort")) | {"volume_id": "v1", "included": False}
    return pd.DataFrame([row | changed])


def test_the_page_of_outputs_is_up_to_date():
    assert PAGE.read_text() == schema.page(), "run: python -m popclust.schema > docs/outputs.md"


def test_every_column_and_array_has_a_meaning_and_a_known_type():
    known = {"string", "bool", "int64", "Int64", "boolean", "float64", "list[float64]", "list[string]"}
    columns = [(table, c) for table, columns in schema.TABLES.items() for c in columns]
    assert {c.dtype for _, c in columns} <= known
    for name, column in columns:
        assert column.doc and column.name.endswith("_mm") == (column.unit == "mm"), (name, column.name)
    for name, store in schema.STORES.items():
        assert store.path.endswith(".zarr")
        for array in store.arrays.values():
            assert array.dtype == "string" or np.dtype(array.dtype).name == array.dtype, name
            assert array.doc and len(set(array.dims)) == len(array.dims), name
            assert array.name not in array.dims or array.dims == (array.name,), "xarray refuses such a name"


@pytest.mark.parametrize("name", schema.TABLES)
def test_a_table_without_rows_is_a_parquet_file_of_the_declared_types(name: str):
    empty = schema.empty_table(name)
    data = schema.encode_table(name, empty)
    read = pq.read_schema(io.BytesIO(data))
    for column in schema.TABLES[name]:
        field = read.field(column.name)
        assert field.type == column.arrow
        assert field.metadata.get(b"unit", b"").decode() == column.unit
        assert field.metadata[b"meaning"].decode() == column.doc
    pd.testing.assert_frame_equal(schema.conform_table(name, pd.read_parquet(io.BytesIO(data))), empty)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (clusters(cluster=[0.5, 1.0]), "'cluster': must be int64, got float64"),
        (clusters(distance=["near", 1.0]), "'distance': must be float64, got object"),
        (clusters(descriptor=[1, 2]), "'descriptor': must be string, got int64"),
        (clusters().drop(columns="seed"), r"columns \['seed'\] are missing"),
    ],
)
def test_values_that_would_change_are_refused(frame: pd.DataFrame, message: str):
    with pytest.raises(ValueError, match=f"table 'clusters'.*{message}"):
        schema.conform_table("clusters", frame)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"included": None}, "'included': must be bool"),
        ({"n_slices": 1.5}, "'n_slices': must be Int64"),
        ({"reasons": "flat"}, r"'reasons': must be list\[string\]"),
        ({"reasons": [1]}, r"'reasons': must be list\[string\]"),
        ({"spacing_zyx_mm": ["wide"]}, r"'spacing_zyx_mm': must be list\[float64\]"),
    ],
)
def test_a_value_of_another_type_is_refused(changed: dict[str, object], message: str):
    with pytest.raises(ValueError, match=f"table 'cohort', column {message}"):
        schema.conform_table("cohort", cohort(**changed))


def test_missing_values_and_lists_come_back():
    frame = cohort(reasons=("a", "b"), spacing_zyx_mm=[1.0, 2.0, 3.0])
    read = pd.read_parquet(io.BytesIO(schema.encode_table("cohort", frame))).iloc[0]
    assert list(read["reasons"]) == ["a", "b"] and list(read["spacing_zyx_mm"]) == [1.0, 2.0, 3.0]
    assert pd.isna(read["contrast"]) and pd.isna(read["n_slices"])


def vocabulary(n_words: int = 4) -> Vocabulary:
    scaling = FeatureScaling.empty(2, 0.5)
    return Vocabulary("haralick", scaling, np.zeros((n_words, 5), np.float32))


def keypoints(n: int) -> Keypoints:
    single = np.float32
    return Keypoints(
        np.zeros((n, 3), single), np.ones(n, single), np.ones(n, single), np.ones(n, np.int8),
        np.zeros((n, 3, 3), single), np.zeros((n, 64), np.uint8),
    )  # fmt: skip


def check_store(path: str, name: str) -> None:
    """xarray opens it, and it is what is declared, in its values and in what it says of itself."""
    store = schema.STORES[name]
    with xr.open_zarr(path, consolidated=False) as dataset:
        assert set(map(str, dataset.variables)) == set(store.arrays), path
        assert set(map(str, dataset.attrs)) == set(store.attrs), path
        for array in store.arrays.values():
            found = dataset[array.name]
            assert found.dims == array.dims, (path, array.name)
            assert ("string" if found.dtype.kind in "OT" else str(found.dtype)) == array.dtype, (path, array.name)
            assert found.attrs.get("units", "") == array.unit, (path, array.name)
            assert found.attrs["long_name"] == array.doc, (path, array.name)


@pytest.mark.parametrize("n", [0, 3])
def test_a_group_says_what_it_holds_and_xarray_opens_it(tmp_path: Path, n: int):
    vocabulary(n).save(zarr.open_group(str(tmp_path / "v.zarr"), mode="w", zarr_format=3))
    check_store(str(tmp_path / "v.zarr"), "vocabulary")
    keypoints(n).save(zarr.open_group(str(tmp_path / "k.zarr"), mode="w", zarr_format=3))
    check_store(str(tmp_path / "k.zarr"), "keypoints")


def field(*shape: int) -> DisplacementField:
    return DisplacementField(np.zeros((3, *shape), np.float32), (1.0, 2.0, 2.0), (0.0, 0.0, 5.0))


def test_grids_of_other_sizes_share_a_group(tmp_path: Path):
    image = Volume(np.zeros((4, 5, 6), np.float32), (3.0, 3.0, 3.0), (1.0, 2.0, 3.0))
    lungs = image.with_values(np.zeros(image.shape, bool))
    prepared = Prepared(image, lungs, ((0.0, 0.0, 0.0), (9.0, 9.0, 9.0)))
    normalized = Normalized("t1", {"t1": 0.5}, field(2, 3, 4), field(5, 1, 2), lungs, np.eye(3), {"ncc": 0.5})
    normalized.save(zarr.open_group(str(tmp_path / "n.zarr"), mode="w", zarr_format=3))
    check_store(str(tmp_path / "n.zarr"), "normalized")
    with xr.open_zarr(tmp_path / "n.zarr", consolidated=False) as dataset:
        assert dataset["to_volume"].attrs["origin_mm"] == [0.0, 0.0, 5.0]
    template = Template("t1", prepared, field(2, 3, 4), field(5, 1, 2), {"carina": (1.0, 2.0, 3.0)})
    url = str(tmp_path / "atlas")
    BuiltAtlas(Atlas(prepared, {}, (template, template)), schema.empty_table("atlas/templates")).save(url)
    check_store(f"{url}/reference.zarr", "atlas")
    check_store(f"{url}/templates/t1/template.zarr", "template")
    assert pd.read_parquet(f"{url}/templates.parquet").columns.tolist() == schema.names("atlas/templates")
    again = Template.load(url, "t1")
    assert again.landmarks == template.landmarks and again.prepared.field_of_view_mm == prepared.field_of_view_mm


def test_a_volume_stays_ome_zarr_and_xarray_opens_it(tmp_path: Path):
    write_ome_zarr(str(tmp_path / "v.ome.zarr"), Volume(np.zeros((3, 4, 5), np.int16), (2.0, 1.0, 1.0)))
    check_store(str(tmp_path / "v.ome.zarr"), "volume")


def test_grids_stay_with_their_arrays_and_chunks_are_as_asked_for(tmp_path: Path):
    group = zarr.open_group(str(tmp_path / "t.zarr"), mode="w", zarr_format=3)
    arrays = {"haralick": np.zeros((9, 16), np.float32)} | {
        name: np.zeros((5, 67), np.float32) for name in ("micro_sift", "macro_sift")
    }
    arrays["macro_sift"] = arrays["macro_sift"][:2]
    grid = {"haralick": {"spacing_mm": [1.0, 1.0, 1.0]}}
    schema.write_group(group, "training", arrays, array_attrs=grid, chunks={"haralick": (4, 16)})
    check_store(str(tmp_path / "t.zarr"), "training")
    array = group["haralick"]
    assert isinstance(array, zarr.Array)
    assert array.chunks == (4, 16) and array.attrs["spacing_mm"] == [1.0, 1.0, 1.0]


def good_vocabulary() -> tuple[dict[str, np.ndarray], dict[str, object]]:
    arrays = {
        "centres": np.zeros((4, 5), np.float32),
        "feature_centre": np.zeros(2),
        "feature_spread": np.ones(2),
        "projection": np.eye(2),
        "nuisance_share": np.zeros(2),
        "position_centre_mm": np.zeros(3),
        "position_spread_mm": np.ones(3),
    }
    return arrays, {"name": "haralick", "spatial_weight": 0.5, "n_removed": 0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"centres": np.zeros((4, 5))}, r"'centres': must be float32 \(word, column\), got float64 \(word, column\)"),
        ({"centres": np.zeros(4, np.float32)}, r"'centres': must be float32 \(word, column\), got float32 \(4\)"),
        ({"feature_spread": np.ones(3)}, "'feature_spread': feature is 3 long, that of 'feature_centre' 2"),
        ({"centers": np.ones(3)}, "must have the arrays .*'centers'"),
    ],
)
def test_arrays_that_are_not_as_declared_are_refused(tmp_path: Path, changed: dict, message: str):
    arrays, attrs = good_vocabulary()
    group = zarr.open_group(str(tmp_path / "v.zarr"), mode="w", zarr_format=3)
    with pytest.raises(ValueError, match=f"store 'vocabulary'.*{message}"):
        schema.write_group(group, "vocabulary", arrays | changed, attrs)
    with pytest.raises(ValueError, match="must have the attributes"):
        schema.write_group(group, "vocabulary", arrays, attrs | {"more": 1})
    assert not list(group.members())


def test_datasets_that_are_not_as_declared_are_refused():
    counts = (("volume", "word"), np.zeros((2, 3), np.uint32))
    coords = {"volume": ["v1", "v2"], "vocabulary": ("word", ["a", "b", "b"])}
    zones = (("volume", "zone", "bin"), np.zeros((2, 6, 4), np.uint32))
    good = xr.Dataset({"counts": counts, "zone_counts": zones}, coords=coords)
    assert (
        schema.conform_dataset("word_counts", good)["counts"].attrs
        == schema.STORES["word_counts"].arrays["counts"].attrs
    )
    assert good["counts"].attrs == {}
    for bad, message in (
        (good.drop_vars("vocabulary"), "must have the arrays"),
        (good.assign_attrs(more=1), "must have the attributes"),
        (good.assign(counts=good["counts"].T), r"must be uint32 \(volume, word\), got uint32 \(word, volume\)"),
        (good.assign(counts=good["counts"].astype(float)), "got float64"),
    ):
        with pytest.raises(ValueError, match=f"store 'word_counts'.*{message}"):
            schema.conform_dataset("word_counts", bad)


def test_a_file_belongs_to_the_declaration_of_its_place():
    assert schema.declared_as("vocabulary/training.zarr/haralick/c/0/0") == "vocabulary/training.zarr"
    assert schema.declared_as("vocabulary/haralick.zarr/zarr.json") == "vocabulary/<name>.zarr"
    assert schema.declared_as("atlas/templates/t1/template.zarr/zarr.json").startswith("atlas/templates/<")
    assert schema.declared_as("model/vocabulary/haralick.zarr/zarr.json") == "vocabulary/<name>.zarr"
    assert schema.declared_as("validity/gate.parquet") == "validity/gate.parquet"
    for path in (
        "cohort.parquet.aside",
        "volumes/v1.zarr/zarr.json",
        "features/a/v1.zarr/zarr.json",
        "model/cohort.parquet",
        "cohortXparquet",
    ):
        assert schema.declared_as(path) is None, path


def test_a_finished_study_holds_what_is_declared_and_nothing_else(finished: Flow):
    root = Path(finished.study.url)
    files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    found = {path: schema.declared_as(path) for path in files}
    assert sorted(path for path, entry in found.items() if entry is None) == []
    stores = {store.path: name for name, store in schema.STORES.items()}
    opened = set()
    for path, entry in found.items():
        if entry in stores and path.endswith(".zarr/zarr.json"):
            check_store(str(root / path.removesuffix("/zarr.json")), stores[entry])
            opened.add(stores[entry])
        if path.endswith(".parquet"):
            table = str(entry).removesuffix(".parquet")
            assert pq.read_schema(root / path).equals(schema.arrow_schema(table)), path
    # no template beside the atlas, no groups from elsewhere, and what the repeated runs wrote is removed at their end
    assert set(schema.STORES) - opened == {"template", "external", "repeat_counts", "repeat_groups"}
    assert set(schema.TABLES) - {path.removesuffix(".parquet") for path in files} <= {"quarantine", "replication"}
