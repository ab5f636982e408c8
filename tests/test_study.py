from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from popclust.errors import InputError
from popclust.schema import TABLES, conform_table
from popclust.study import Study, marker_of


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(str(tmp_path / "s"))


def _clusters() -> pd.DataFrame:
    values = [("v1", "lda", 2, 0, 0, 0.5, 1.0), ("v2", "lda", 2, 0, 1, 0.25, np.nan)]
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
    dataset = xr.Dataset({"counts": counts}, coords={"volume": ["v1", "v2"], "vocabulary": ("word", ["a", "b", "b"])})
    study.write_dataset("word_counts", dataset)
    read = study.read_dataset("word_counts")
    assert read.counts.values.tolist() == counts.values.tolist()
    assert read.volume.values.tolist() == ["v1", "v2"]
    assert read.vocabulary.values.tolist() == ["a", "b", "b"]
    with pytest.raises(ValueError, match="must be uint32"):
        study.write_dataset("word_counts", dataset.astype(float))


def test_a_part_is_done_only_once_it_is_published(study: Study):
    assert study.marker("extract", "v1") == ""
    study.publish("extract", "m1", {"n": 1}, "v1")
    assert study.marker("extract", "v1") == "m1"
    assert study.record("extract", "v1") == {"n": 1}
    assert study.markers("extract") == {"v1": "m1"}
    study.begin("extract", "v1")
    assert study.marker("extract", "v1") == ""
    with pytest.raises(InputError, match="not done"):
        study.record("extract", "v1")


def test_markers_depend_on_each_part_and_not_on_order():
    base = marker_of("s", 1, {"a": {"x": 1}}, ["m1", "m2"])
    assert base == marker_of("s", 1, {"a": {"x": 1}}, ["m2", "m1"])
    others = [
        marker_of("t", 1, {"a": {"x": 1}}, ["m1", "m2"]),
        marker_of("s", 2, {"a": {"x": 1}}, ["m1", "m2"]),
        marker_of("s", 1, {"a": {"x": 2}}, ["m1", "m2"]),
        marker_of("s", 1, {"a": {"x": 1}}, ["m1"]),
    ]
    assert len({base, *others}) == 5


def test_a_study_of_another_format_is_refused(tmp_path: Path):
    (tmp_path / "study.toml").write_text("format_version = 99\n")
    with pytest.raises(InputError, match="study format 99"):
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
    study.publish("extract", "m1", {"n": 1}, "v1")
    again = Study.open("memory://a/study")
    assert len(again.read_table("clusters")) == 2
    assert again.markers("extract") == {"v1": "m1"}
    again.remove("markers")
    assert again.n_markers("extract") == 0
