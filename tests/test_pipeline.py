"""The whole flow on a real Dask cluster, over a small simulated population with known transforms."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_study import DERIVED, N_VOLUMES, copy_study, digest, kill_workers, made_by, make_study, set_setting

from popclust.cli import main
from popclust.dataflow.client import connect
from popclust.dataflow.failure import BAD_INPUT, DONE, QUARANTINED, STOPPED
from popclust.dataflow.flow import Flow
from popclust.dataflow.meeting import stored_keypoints
from popclust.dataflow.pipeline import run
from popclust.dataflow.progress import snapshot
from popclust.normalization.atlas import Atlas
from popclust.parts import WHOLE
from popclust.population.duplicates import find_duplicates
from popclust.settings import ComputeSettings
from popclust.study import Study

MAY_BE_EMPTY = ("duplicates", "atlas/templates")


@pytest.fixture
def new_study(population: Path) -> Any:
    return functools.partial(make_study, population=population)


def test_every_declared_table_and_store_is_there(finished: Flow):
    study = finished.study
    for name in DERIVED:
        table = study.read_table(name)
        assert len(table) > 0 or name in MAY_BE_EMPTY or name.startswith("validity/"), name
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    assert words.counts.shape == (N_VOLUMES, 41)  # the learnt ones, and focal densities
    assert topics.topic_of_volume.shape == (N_VOLUMES, 5)
    assert study.exists("summary", "index.html")
    assert study.exists("vocabulary", "training.zarr", "zarr.json")
    card = study.read_json("runs", f"{finished.card.run_id}.json")
    assert card["state"] == "ended"
    assert card["packages"]["dask"]
    assert [s["stage"] for s in card["stages"]][-1] == "summarize"


def test_the_cohort_says_why(finished: Flow, population: Path):
    truth = pd.read_parquet(population / "truth.parquet").drop_duplicates("series_instance_uid")
    sources = pd.read_parquet(finished.study.secret_path("sources.parquet"))
    cohort = finished.study.read_table("cohort").merge(sources, on="volume_id").merge(truth, on="series_instance_uid")
    assert len(cohort) == len(truth)
    assert cohort["included"].sum() == N_VOLUMES
    # which of two equal series stays is the cohort's choice; that one of them does is asserted above
    ours, theirs = (cohort[c].map(lambda r: set(r) - {"duplicate_series"}) for c in ("reasons", "expected_reasons"))
    assert ours.tolist() == theirs.tolist()
    assert cohort["reasons"].map(lambda r: "duplicate_series" in r).sum() == 1


def test_a_person_under_two_pseudonyms_is_recognised(finished: Flow):
    study = finished.study
    cohort = study.read_table("cohort")
    included = cohort[cohort["included"]].set_index("volume_id")["patient_id"]
    visits = {tuple(sorted(rows.index)) for _, rows in included.groupby(included) if len(rows) > 1}
    assert visits, "somebody comes twice in the simulated population"
    found = find_duplicates({v: stored_keypoints(study, v) for v in included.index})
    assert {(pair.volume_a, pair.volume_b) for pair in found} == visits  # whom the stage leaves out, being one patient
    assert study.read_table("duplicates").empty


def test_nothing_in_the_study_names_a_patient(finished: Flow, population: Path):
    truth = pd.read_parquet(population / "truth.parquet")
    secrets = {str(v).encode() for c in ("patient", "study_instance_uid", "series_instance_uid") for v in truth[c]}
    secrets |= {b"SIM^", b"PatientName"}
    for path in Path(finished.study.url).rglob("*"):
        if path.is_file() and path.suffix in {".json", ".parquet", ".html", ".svg", ".csv"}:
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data = pd.read_parquet(path).to_csv().encode()
            # what became of each attribute is recorded by the attributes' names
            named = {b"PatientName"} if path.name == "deidentification.json" else set()
            assert not [s for s in secrets - named if s in data], path.name


def test_features_lie_in_the_atlas(finished: Flow):
    study = finished.study
    volume_id = next(iter(study.markers("extract").done))
    group = study.open_group("features", f"{volume_id}.zarr")
    lungs = Atlas.load(study.path("atlas")).reference.lungs
    low, high = np.percentile(lungs.index_to_mm(np.argwhere(lungs.voxels)), [0, 100], axis=0)
    positions = np.asarray(group["haralick_position_mm"][...])
    assert np.isfinite(np.asarray(group["haralick"][...])).all()
    assert len(positions) == group["haralick"].shape[0]
    assert (positions > low - 15).all()
    assert (positions < high + 15).all()


def test_a_second_run_has_nothing_to_do(finished: Flow):
    assert made_by(run(finished.study, None)) == {}


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(finished: Flow, tmp_path: Path):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "n_topics", "4")
    assert set(made_by(run(study, None))) == {"topics", "cluster", "repeat", "associate", "freeze", "summarize"}


def test_a_rule_of_inclusion_redoes_no_volume_that_it_leaves_alone(finished: Flow, tmp_path: Path):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "min_slices", "100")
    made = made_by(run(study, None))
    assert set(made) == {"ingest", "summarize"}


def test_one_worker_and_a_killed_one_give_the_same_bytes(finished: Flow, new_study: Any, tmp_path: Path):
    study = new_study(tmp_path / "s")
    killed = threading.Event()
    with connect("", ComputeSettings(n_workers=1)) as client:
        assert client is not None
        killer = threading.Thread(target=kill_workers, args=(client, study, ("normalize", "extract"), killed))
        killer.start()
        flow = run(study, client)
        killer.join()
    assert killed.is_set()
    assert flow.n_quarantined == 0
    ours, theirs = digest(study), digest(finished.study)
    assert [name for name in theirs if ours.get(name) != theirs[name]] == []


def _start(study: Study, *arguments: str) -> subprocess.Popen[bytes]:
    """A run that hears Ctrl-C, even where the tests run in the background of a shell, which mutes it."""
    command = [sys.executable, "-m", "popclust", "run", study.url, *arguments]
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child takes over no handler, but deafness
    try:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, hears)


COARSE = {"n_resolutions": 2, "n_iterations": 30, "n_samples": 500, "grid_spacing_mm": 60.0}


def test_atlas_and_templates_are_chosen_from_the_cohort(new_study: Any, tmp_path: Path):
    chosen = {"volume": "", "n_from_cohort": 1, "min_lung_dice": 0.0}
    study = new_study(tmp_path / "s", atlas=chosen, normalize=COARSE)
    with connect("", ComputeSettings(n_workers=1)) as client:
        run(study, client, until="atlas")
    ids = set(study.read_table("cohort")["volume_id"])
    (row,) = pd.read_parquet(study.path("atlas", "templates.parquet")).to_dict("records")
    record = study.record("atlas")
    first, second = record["templates"]
    assert (first, second) == ("atlas", row["template_id"])
    assert record["chosen"][1] == second and set(record["chosen"]) <= ids
    assert second in ids and row["used"] and row["lung_dice"] > 0.5
    assert [t.template_id for t in Atlas.load(study.path("atlas")).templates] == [first, second]
    assert study.exists("atlas", "templates.png")


def test_a_template_that_takes_too_long_is_refused_and_the_atlas_stands(
    new_study: Any, population: Path, tmp_path: Path
):
    templates = [str(population / "atlas" / "template_01.nii.gz")]
    atlas = {"volume": str(population / "atlas" / "atlas.nii.gz"), "templates": templates}
    study = new_study(tmp_path / "s", atlas=atlas, normalize={**COARSE, "timeout_s": 0.1})
    run(study, None, until="atlas")
    record = study.record("atlas")
    assert (record["templates"], record["refused"]) == (["atlas"], {"template_01": ["timeout"]})
    (row,) = pd.read_parquet(study.path("atlas", "templates.parquet")).to_dict("records")
    assert not row["used"] and list(row["reasons"]) == ["timeout"]
    assert not study.exists("atlas", "templates.png")


def test_an_interrupted_run_goes_on_where_it_was(finished: Flow, new_study: Any, tmp_path: Path):
    study = new_study(tmp_path / "s")
    with _start(study, "--until", "normalize", "--scheduler", "serial") as process:
        while len(study.names_done("normalize")) < 1 and process.poll() is None:
            time.sleep(0.02)
        assert snapshot(study)["state"] == "running"
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == STOPPED
    assert snapshot(study)["state"] == "stopped"
    n_before = len(study.names_done("normalize"))
    assert 1 <= n_before < N_VOLUMES
    made = made_by(run(study, None, until="normalize"))
    assert set(made) == {"normalize"}
    assert len(made["normalize"] - {WHOLE}) == N_VOLUMES - n_before
    assert study.read_bytes("quality.parquet") == finished.study.read_bytes("quality.parquet")


def test_a_killed_run_is_seen_as_killed_and_goes_on(new_study: Any, tmp_path: Path):
    study = new_study(tmp_path / "s")
    with _start(study, "--until", "ingest", "--scheduler", "serial") as process:
        while len(study.names_done("ingest")) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert snapshot(study)["state"] == "killed"
    assert main(["run", study.url, "--until", "ingest", "--scheduler", "serial"]) == DONE
    assert len(study.names_done("ingest")) >= N_VOLUMES


def test_a_bad_volume_goes_to_quarantine_and_comes_back(finished: Flow, population: Path, tmp_path: Path):
    transforms = tmp_path / "transforms"
    shutil.copytree(population / "transforms", transforms)
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "given_folder", f"'{transforms}'")
    sources = pd.read_parquet(study.secret_path("sources.parquet")).set_index("volume_id")["series_instance_uid"]
    bad = sorted(study.markers("normalize").done)[1]
    file = transforms / f"{sources[bad]}.npz"
    good = file.read_bytes()
    file.write_bytes(good[:100])
    assert main(["run", study.url, "--until", "encode", "--scheduler", "serial"]) == QUARANTINED
    kept_out = study.read_table("quarantine")
    assert kept_out[["volume_id", "stage"]].to_numpy().tolist() == [[bad, "normalize"]]
    assert str(sources[bad]) not in kept_out["message"].iloc[0]
    assert len(study.read_table("quality")) == N_VOLUMES - 1
    # it stays out while nothing has changed, and comes back once it is mended
    assert main(["run", study.url, "--until", "normalize", "--scheduler", "serial"]) == QUARANTINED
    file.write_bytes(good)
    assert main(["retry", study.url]) == DONE
    assert main(["run", study.url, "--until", "normalize", "--scheduler", "serial"]) == DONE
    assert len(study.read_table("quality")) == N_VOLUMES
    assert len(study.read_table("quarantine")) == 0


def test_stages_alone_need_those_before_them(finished: Flow, new_study: Any, tmp_path: Path, capsys: Any):
    fresh = new_study(tmp_path / "fresh")
    assert main(["extract", fresh.url, "--scheduler", "serial"]) == BAD_INPUT
    assert "popclust run" in " ".join(capsys.readouterr().err.split())
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "n_topics", "3")
    assert main(["cluster", study.url, "--scheduler", "serial"]) == BAD_INPUT
    assert "stage topics is not up to date" in " ".join(capsys.readouterr().err.split())
    assert main(["topics", study.url, "--scheduler", "serial"]) == DONE
    assert main(["cluster", study.url, "--scheduler", "serial"]) == DONE


def test_groups_stand_without_any_report(finished: Flow, tmp_path: Path):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "reports", "''")
    flow = run(study, None)
    record = study.record("associate")
    assert record["Q"] is None
    assert record["n_clusters"] >= 2
    assert flow.card.records["terms"]["n_volumes_without_report"] == N_VOLUMES
    # tests of an earlier run that had reports are none of this one
    for name in ("associations", "criterion", "validity/gate"):
        assert not study.exists(f"{name}.parquet")
    assert study.reported.Q is None and len(study.reported.clusters) == N_VOLUMES


def test_minibatch_groups_are_dask_mls(finished: Flow, tmp_path: Path):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "engine", "'minibatch'")
    run(study, None, until="cluster")
    groupings = study.read_dataset("groupings")
    assert set(groupings.descriptor.values) == {"haralick", "sift", "concatenated", "lda", "zones"}
    assert groupings.cluster.shape == (len(groupings.descriptor), N_VOLUMES)


def test_status_and_compare_speak_json(finished: Flow, tmp_path: Path, capsys: Any):
    study = finished.study
    assert main(["status", study.url, "--json"]) == DONE
    state = json.loads(capsys.readouterr().out)
    assert {s["stage"]: s["left"] for s in state["stages"]}["summarize"] == 0
    card = study.path("runs", f"{finished.card.run_id}.json")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(Path(card).read_text()), "python": "2.7"}))
    assert main(["compare", card, str(other), "--json"]) == DONE
    assert [d["name"] for d in json.loads(capsys.readouterr().out)] == ["python"]


def test_too_little_room_stops_in_good_order(finished: Flow, tmp_path: Path, capsys: Any):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "min_free_disk_mb", "1000000000")
    study = set_setting(study, "n_topics", "3")
    assert main(["run", study.url, "--scheduler", "serial"]) == STOPPED
    assert "MB of disk are left" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_and_loses_nothing(new_study: Any, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        study = new_study(disk / "s", compute={"min_free_disk_mb": 0})
        assert main(["run", study.url, "--until", "ingest", "--scheduler", "serial"]) == STOPPED
        n_done = len(study.names_done("ingest"))
        assert 0 < n_done < N_VOLUMES
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        made = made_by(run(study, None, until="ingest"))
        assert n_done + len(made["ingest"] - {WHOLE}) == len(study.names_done("ingest"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "holds no files"),
        (lambda folder: (folder.mkdir(), (folder / "note.txt").write_text("hello")), "no image"),
    ],
)
def test_sources_without_series_are_one_clear_line(make: Any, says: str, tmp_path: Path, capsys: Any):
    source = tmp_path / "source"
    make(source)
    study = Study.create(str(tmp_path / "s"), {"ingest": {"sources": [str(source)]}})
    assert main(["run", study.url, "--scheduler", "serial"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert "error: " in error
    assert says in " ".join(error.split())
    assert "Traceback" not in error


def test_no_study_is_one_clear_line(tmp_path: Path, capsys: Any):
    assert main(["run", str(tmp_path / "none")]) == BAD_INPUT
    assert "no study here" in " ".join(capsys.readouterr().err.split())


def test_the_page_says_how_far_to_trust_the_associations(finished: Flow):
    study = finished.study
    assert study.exists("validity", "split_half.parquet")
    page = study.read_bytes("summary", "index.html").decode()
    assert "How far to trust them" in page
    for name in ("confounders", "gate", "power", "term_noise"):
        study.read_table(f"validity/{name}")
