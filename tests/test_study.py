from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from popclust.cli import main
from popclust.errors import DamagedError, InputError
from popclust.parts import Made, Markers, marker_of, recipe_digest
from popclust.schema import TABLES, conform_table
from popclust.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(str(tmp_path / "s"))


def _clusters() -> pd.DataFrame:
    values = [("v1", "lda", 2, 0, 0, 0.5, 1.0, False), ("v2", "lda", 2, 0, 1, 0.25, np.nan, False)]
    return pd.DataFrame(values, columns=[c.name for c in TABLES["clusters"]])


def test_a_table_comes_back_and_equal_frames_give_equal_bytes(study: Study):
    study.write_table("clusters", _clusters())
    first = study.read_bytes("clusters.parquet")
    pd.testing.assert_frame_equal(study.read_table("clusters"), conform_table("clusters", _clusters()))
    study.write_table("clusters", _clusters().sample(frac=1, axis=1, random_state=1))
    assert study.read_bytes("clusters.parquet") == first


def test_lists_and_missing_values_come_back(study: Study):
    row = {c.name: None for c in TABLES["cohort"]} | {
        "volume_id": "v1",
        "n_slices": 3,
        "spacing_zyx_mm": [1.0, 2.0, 3.0],
        "included": False,
        "reasons": ["too_few_slices"],
    }
    study.write_table("cohort", pd.DataFrame([row]))
    read = study.read_table("cohort").iloc[0]
    assert list(read["spacing_zyx_mm"]) == [1.0, 2.0, 3.0]
    assert list(read["reasons"]) == ["too_few_slices"]
    assert pd.isna(read["series_number"])
    assert pd.isna(read["contrast"])


def test_a_missing_column_is_refused(study: Study):
    with pytest.raises(ValueError, match="'stability'"):
        study.write_table("clusters", _clusters().drop(columns="stability"))


def test_a_dataset_comes_back_and_is_checked(study: Study):
    counts = xr.DataArray(np.arange(6, dtype=np.uint32).reshape(2, 3), dims=("volume", "word"))
    zones = xr.DataArray(np.ones((2, 6, 4), np.uint32), dims=("volume", "zone", "bin"))
    coords = {"volume": ["v1", "v2"], "vocabulary": ("word", ["a", "b", "b"])}
    dataset = xr.Dataset({"counts": counts, "zone_counts": zones}, coords=coords)
    study.write_dataset("word_counts", dataset)
    read = study.read_dataset("word_counts")
    assert read.counts.values.tolist() == counts.values.tolist()
    assert read.volume.values.tolist() == ["v1", "v2"]
    assert read.vocabulary.values.tolist() == ["a", "b", "b"]
    with pytest.raises(ValueError, match="must be uint32"):
        study.write_dataset("word_counts", dataset.astype(float))


def test_a_part_is_done_only_once_it_is_published(study: Study):
    assert study.done("extract", "v1") is None
    study.write_bytes(b"words", "features", "v1")
    done = study.publish("extract", "m1", Made({"n": 1}), "v1", recipe="r", files=["features/v1"])
    assert study.done("extract", "v1") == done
    assert (done.marker, done.output, done.passes) == ("m1", "m1", True)
    assert study.record("extract", "v1") == {"n": 1}
    assert study.markers("extract") == Markers({"v1": done}, {})
    study.begin("extract", "v1", ["features/v1"])
    assert study.done("extract", "v1") is None
    assert not study.exists("features", "v1")
    with pytest.raises(InputError, match="not done"):
        study.record("extract", "v1")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.write_bytes(b"wor"), "was cut"),
        (lambda path: path.write_bytes(b"Words"), "was changed"),
        (lambda path: path.unlink(), "was removed"),
    ],
)
def test_a_harmed_part_is_not_what_was_published(study: Study, harm: Any, says: str):
    study.write_bytes(b"words", "features", "v1")
    study.publish("extract", "m1", Made({"n": 1}), "v1", files=["features/v1"])
    study.check_part("extract", "v1", ["features/v1"])
    harm(Path(study.path("features", "v1")))
    with pytest.raises(DamagedError, match=says) as raised:
        study.check_part("extract", "v1", ["features/v1"])
    assert (raised.value.stage, raised.value.volume_id) == ("extract", "v1")
    assert pickle.loads(pickle.dumps(raised.value)).what == raised.value.what  # noqa: S301  (our own bytes)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"marker": "m1"}', b"\xff\xfe"])
def test_a_marker_that_cannot_be_read_is_named_and_counts_as_missing(study: Study, content: bytes):
    study.publish("extract", "m1", Made({}), "v1")
    study.publish("extract", "m2", Made({}), "v2")
    study.write_bytes(content, "markers", "extract", "v1.json")
    markers = study.markers("extract")
    assert list(markers.done) == ["v2"]
    assert markers.withdrawn == {"v1": "markers/extract/v1.json cannot be read"}
    assert study.done("extract", "v1") is None


def test_a_withdrawn_part_keeps_its_reason(study: Study):
    study.publish("extract", "m1", Made({}), "v1")
    study.withdraw("extract", "v1", "features/v1 was cut")
    assert study.done("extract", "v1") is None
    assert study.markers("extract").withdrawn == {"v1": "features/v1 was cut"}


def test_a_record_that_cannot_be_read_names_its_part(study: Study):
    study.publish("extract", "m1", Made({"n": 1}), "v1")
    study.write_bytes(b"{", "records", "extract", "v1.json")
    with pytest.raises(DamagedError, match=r"records/extract/v1\.json"):
        study.records("extract", ["v1"])


def test_tables_and_stores_that_cannot_be_read_are_named(study: Study):
    study.write_table("clusters", _clusters())
    path = Path(study.path("clusters.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"clusters\.parquet cannot be read"):
        study.read_table("clusters")
    study.write_bytes(b"{", "topics.zarr", "zarr.json")
    with pytest.raises(DamagedError, match=r"topics\.zarr cannot be read"):
        study.read_dataset("topics")


def test_markers_depend_on_each_part_and_not_on_order():
    recipe = {"stage": "s", "version": 1, "settings": {"a": {"x": 1}}}
    base = marker_of(recipe_digest(recipe), ["m1", "m2"])
    assert base == marker_of(recipe_digest(dict(reversed(recipe.items()))), ["m2", "m1"])
    others = [
        *(
            marker_of(recipe_digest({**recipe, **change}), ["m1", "m2"])
            for change in ({"stage": "t"}, {"version": 2}, {"settings": {"a": {"x": 2}}})
        ),
        marker_of(recipe_digest(recipe), ["m1"]),
    ]
    assert len({base, *others}) == 5


def test_a_recipe_comes_back(study: Study):
    recipe = {"stage": "s", "version": 1, "settings": {}}
    digest = study.write_recipe(recipe)
    assert study.read_recipe(digest) == recipe
    study.write_bytes(b"", "recipes", f"{digest}.json")
    assert study.read_recipe(digest) == {}
    assert study.read_recipe("none") == {}


@pytest.mark.parametrize("text", ["format_version = 99\n", "format_version = 1\n", "# nothing\n"])
def test_a_study_of_another_format_is_refused(tmp_path: Path, text: str):
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=r"study\.toml: study format .*, this popclust reads format 2"):
        Study.open(str(tmp_path))


def test_no_study_and_a_second_study_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="popclust init"):
        Study.open(str(tmp_path / "none"))
    Study.create(str(tmp_path / "one"))
    with pytest.raises(InputError, match="already"):
        Study.create(str(tmp_path / "one"))


def test_a_table_that_is_not_made_yet_is_one_clear_line(study: Study):
    with pytest.raises(InputError, match="popclust run"):
        study.read_table("clusters")
    with pytest.raises(InputError, match="popclust run"):
        study.read_dataset("topics")


def test_secrets_lie_outside_the_study(study: Study):
    assert not study.secret_path("key").startswith(study.url + "/")
    with pytest.raises(InputError, match="key_file"):
        Study("memory://bucket/s", study.settings).secret_path("key")


def test_the_handle_pickles_small(study: Study):
    data = pickle.dumps(study)
    assert pickle.loads(data) == study  # noqa: S301  (our own bytes)
    assert len(data) < 8000


def test_a_study_may_lie_at_a_url():
    study = Study.create("memory://a/study")
    study.write_table("clusters", _clusters())
    done = study.publish("extract", "m1", Made({"n": 1}), "v1")
    again = Study.open("memory://a/study")
    assert len(again.read_table("clusters")) == 2
    assert again.markers("extract").done == {"v1": done}
    assert len(again.names_done("extract")) == 1
    again.remove("markers")
    assert len(again.names_done("extract")) == 0


def test_what_init_is_given_is_relative_to_where_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "deep/study", "--source", "dicom", "--source", "s3://pacs/ct", "--reports", "a.csv"]) == 0
    study = Study.open("deep/study")
    assert study.settings.ingest.sources == (str(tmp_path / "dicom"), "s3://pacs/ct")
    assert study.settings.terms.reports == str(tmp_path / "a.csv")
