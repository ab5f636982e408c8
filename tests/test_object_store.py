"""Studies in an object store that is throttled, and now and then at fault: the same bytes as on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from object_store import n_refused, object_store, use_store
from small_study import digest, make_study

from popclust import storage
from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.dataflow.lease import hold
from popclust.dataflow.pipeline import run
from popclust.parts import Made
from popclust.settings import ComputeSettings
from popclust.study import Study

N_PARTS = 3


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A store that refuses a fifth of the requests, or as is asked, here and in processes started from here."""
    with object_store(**getattr(request, "param", {"refuses_every": 5})) as options:
        monkeypatch.setitem(fsspec.config.conf, "s3", dict(fsspec.config.conf.get("s3", {})))
        use_store(options)
        for name, value in options.items():
            monkeypatch.setenv(f"FSSPEC_S3_{name.upper()}", value)
        yield options


def test_what_the_store_refuses_is_asked_for_again(store: dict[str, Any], tmp_path: Path):
    digests = []
    for url in (str(tmp_path / "s"), "s3://studies/s"):
        study = Study.create(url)
        with hold(study) as lease:
            for i in range(N_PARTS):
                study.open_group("volumes", f"v{i}.zarr", mode="w").create_array("x", data=np.arange(99) + i)
                done = study.publish("ingest", "m", Made({"i": i}), f"v{i}", files=[f"volumes/v{i}.zarr"])
                study.check_part("ingest", f"v{i}", [f"volumes/v{i}.zarr"])
                digests.append(done.digest)
            lease.check()
        assert sorted(study.markers("ingest").done) == study.names_done("ingest") == [f"v{i}" for i in range(N_PARTS)]
        study.remove("volumes", "v0.zarr")
        assert storage.names(study.path("volumes")) == [f"v{i}.zarr" for i in range(1, N_PARTS)]
    assert digests[:N_PARTS] == digests[N_PARTS:]
    assert n_refused(store)[0] >= 10


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "store",
    [{"waits_s": 0.0001}, {"refuses_every": 20}, {"waits_s": 0.02}],
    indirect=True,
    ids=["well", "at fault", "slow"],
)
def test_a_whole_run_is_the_one_on_a_disk(
    store: dict[str, Any], finished: Flow, population: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    study = make_study("s3://studies/whole", population, ingest={"key_file": str(tmp_path / "secret" / "key")})
    with connect("", ComputeSettings(n_workers=2)) as client:
        flow = run(study, client)
    assert flow.n_quarantined == 0
    ours, theirs = digest(study), digest(finished.study)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    with capsys.disabled():
        print("refused {} of {} requests".format(*n_refused(store)))


def test_patience_with_s3_is_set_unless_somebody_chose_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage.be_patient()
    assert fsspec.config.conf == {}
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    storage.be_patient()
    assert fsspec.config.conf["s3"]["config_kwargs"]["retries"]["max_attempts"] > 4
