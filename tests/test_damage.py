"""Nothing damaged is served as true: it is named, withdrawn and made anew, and no volume pays for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from small_study import N_VOLUMES, copy_study, digest, made_by, set_setting

from popclust.cli import main
from popclust.dataflow.failure import BAD_INPUT, DONE, QUARANTINED, STOPPED
from popclust.dataflow.flow import Flow
from popclust.dataflow.pipeline import run
from popclust.dataflow.progress import snapshot
from popclust.dataflow.stages.vocabulary import degraded_volumes
from popclust.dataflow.verify import verify
from popclust.errors import DamagedError
from popclust.parts import WHOLE
from popclust.study import Study


@pytest.fixture
def study(finished: Flow, tmp_path: Path) -> Study:
    return copy_study(finished.study, tmp_path / "s")


def _first(study: Study) -> str:
    return min(v for v in study.markers("extract").done if v != WHOLE)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _chunk(study: Study, *parts: str) -> Path:
    return max(
        (p for p in Path(study.path(*parts)).rglob("*") if p.is_file() and "c" in p.parts),
        key=lambda p: p.stat().st_size,
    )


def cut_features(study: Study) -> set[tuple[str, str]]:
    _cut(_chunk(study, "features", f"{_first(study)}.zarr", "haralick"))
    return {("extract", _first(study))}


def cut_topics(study: Study) -> set[tuple[str, str]]:
    _cut(_chunk(study, "topics.zarr"))
    return {("topics", WHOLE)}


def cut_vocabulary(study: Study) -> set[tuple[str, str]]:
    _cut(_chunk(study, "vocabulary", "haralick.zarr"))
    return {("vocabulary", WHOLE)}


def change_voxels(study: Study) -> set[tuple[str, str]]:
    return _change_voxels_of(study, _first(study))


def change_degraded_voxels(study: Study) -> set[tuple[str, str]]:
    passing = [v for v in study.markers("extract").done if v != WHOLE]
    return _change_voxels_of(study, degraded_volumes(study, passing)[0])


def _change_voxels_of(study: Study, volume_id: str) -> set[tuple[str, str]]:
    path = _chunk(study, "volumes", f"{volume_id}.ome.zarr")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return {("ingest", volume_id)}


def delete_transform(study: Study) -> set[tuple[str, str]]:
    shutil.rmtree(study.path("normalized", f"{_first(study)}.zarr"))
    return {("normalize", _first(study))}


def truncate_cohort(study: Study) -> set[tuple[str, str]]:
    _cut(Path(study.path("cohort.parquet")))
    return {("ingest", WHOLE)}


def empty_marker(study: Study) -> set[tuple[str, str]]:
    first = _first(study)
    study.write_bytes(b"", "markers", "extract", f"{first}.json")
    return {("extract", first)}


def empty_record(study: Study) -> set[tuple[str, str]]:
    study.write_bytes(b"", "records", "encode", f"{_first(study)}.json")
    return {("encode", _first(study))}


HARMS = (
    cut_features,
    cut_topics,
    cut_vocabulary,
    change_voxels,
    delete_transform,
    truncate_cohort,
    empty_marker,
    empty_record,
)


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_found_withdrawn_and_made_anew(
    finished: Flow, study: Study, harm: Callable[[Study], set[tuple[str, str]]], capsys: pytest.CaptureFixture[str]
):
    harmed = harm(study)
    assert {(f.stage, f.volume_id) for f in verify(study)} == harmed
    assert main(["verify", study.url, "--json"]) == QUARANTINED
    assert {(f["stage"], f["volume_id"]) for f in json.loads(capsys.readouterr().out)} == harmed
    assert main(["verify", study.url, "--repair"]) == DONE
    made = made_by(run(study, None))
    assert harmed <= {(stage, part) for stage, parts in made.items() for part in parts}
    assert len(made.get("normalize", set()) | made.get("extract", set())) <= 2
    assert verify(study) == []
    ours, theirs = digest(study), digest(finished.study)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []


@pytest.mark.parametrize("harm", [delete_transform, truncate_cohort, cut_topics, empty_marker])
def test_a_run_sees_what_is_lost_or_cut_by_itself(study: Study, harm: Callable[[Study], set[tuple[str, str]]]):
    harmed = harm(study)
    made = made_by(run(study, None))
    assert harmed <= {(stage, part) for stage, parts in made.items() for part in parts}
    assert verify(study) == []


@pytest.mark.parametrize(
    ("harm", "name", "value"),
    [
        (cut_features, "n_words_haralick", "19"),  # read by the learning of words
        (change_voxels, "n_levels", "12"),  # read by extract
        (change_degraded_voxels, "nuisance_share", "0.03"),  # read for its degraded copies
    ],
)
def test_a_damaged_part_of_a_volume_stops_the_run_and_is_withdrawn(
    study: Study, harm: Callable[[Study], set[tuple[str, str]]], name: str, value: str
):
    ((stage, volume_id),) = harm(study)
    study = set_setting(study, name, value)
    if name == "n_words_haralick":  # the training rows are another chunk
        _cut(_chunk(study, "features", f"{volume_id}.zarr", "training_haralick"))
    with pytest.raises(DamagedError, match="the next run makes it anew"):
        run(study, None)
    assert study.done(stage, volume_id) is None
    assert study.read_table("quarantine").empty
    flow = run(study, None)
    assert flow.n_quarantined == 0
    assert volume_id in made_by(flow)[stage]
    assert verify(study) == []


def test_a_damaged_shared_store_quarantines_nobody(study: Study, monkeypatch: pytest.MonkeyPatch):
    # large stores are compared by size alone before their readers compare digests
    monkeypatch.setattr("popclust.dataflow.state.DIGEST_LIMIT_BYTES", 0)
    path = _chunk(study, "atlas", "reference.zarr")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    delete_transform(study)
    assert main(["run", study.url, "--scheduler", "serial"]) == STOPPED
    assert study.done("atlas") is None
    assert study.read_table("quarantine").empty
    assert main(["run", study.url, "--scheduler", "serial"]) == DONE
    assert len(study.read_table("quality")) == N_VOLUMES


def test_an_empty_active_file_and_a_cut_quarantine_are_made_anew(study: Study):
    study.write_bytes(b"", "runs", "active.json")
    study.write_bytes(b"PAR1", "quarantine.parquet")
    assert snapshot(study)["state"] == "new"
    assert [f.what for f in verify(study)] == ["runs/active.json cannot be read"]
    flow = run(study, None)
    assert flow.n_quarantined == 0
    assert snapshot(study)["state"] == "ended"
    assert study.read_table("quarantine").empty


def test_a_missing_key_is_refused_and_never_renewed(study: Study, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(f"{study.url}.secret")
    for command in ("run", "plan", "ingest"):
        assert main([command, study.url]) == BAD_INPUT
        assert "the key is missing" in " ".join(capsys.readouterr().err.split())
    assert not Path(f"{study.url}.secret", "key").exists()
    assert [f.remedy for f in verify(study)] == ["bring the key back"]


def test_a_read_only_study_is_one_clear_line(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = tmp_path / "read-only"
    place.mkdir()
    mounted = subprocess.run(["mount", "--bind", study.url, str(place)], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    shutil.copytree(f"{study.url}.secret", f"{place}.secret")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        assert main(["plan", str(place)]) == DONE
        assert main(["status", str(place)]) == DONE
        assert main(["verify", str(place)]) == DONE
        capsys.readouterr()
        assert main(["run", str(place), "--scheduler", "serial"]) == BAD_INPUT
        assert str(place) in " ".join(capsys.readouterr().err.split())
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
