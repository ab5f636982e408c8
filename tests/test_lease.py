"""One run at a time on a study: on a disk, in memory and on an object store, with processes that really die."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from lease_process import BEAT_S, WATCH_S, contend
from object_store import object_store, use_store

from popclust.dataflow import lease
from popclust.dataflow.lease import hold, is_held
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study

_LEASES = ("runs", "lease")
_PATIENCE_S = 60.0
_TEN_YEARS_S = 10 * 365.25 * 86400


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, Any]]:
    with object_store() as options, pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", dict(fsspec.config.conf.get("s3", {})))
        use_store(options)
        yield options


@pytest.fixture(params=["disk", "memory", "s3"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    if request.param == "s3":
        request.getfixturevalue("store")
    name = uuid4().hex
    urls = {"disk": str(tmp_path / name), "memory": f"memory://{name}", "s3": f"s3://studies/{name}"}
    return Study.create(urls[request.param])


@pytest.fixture(params=["disk", "s3"])
def shared_study(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    """One that several processes see."""
    if request.param == "s3":
        request.getfixturevalue("store")
    return Study.create(str(tmp_path / "s") if request.param == "disk" else f"s3://studies/{uuid4().hex}")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", BEAT_S)
    monkeypatch.setattr(lease, "WATCH_S", WATCH_S)


class _Contender:
    """A process that wants the lease."""

    def __init__(self, study: Study, clock_s: float = 0.0) -> None:
        context = multiprocessing.get_context("forkserver")  # imports once for all
        context.set_forkserver_preload(["popclust.dataflow.lease", "s3fs"])
        self.pipe, far_end = context.Pipe()
        options = fsspec.config.conf.get("s3", {})
        self.process: BaseProcess = context.Process(target=contend, args=(study.url, options, clock_s, far_end))
        self.process.start()
        far_end.close()

    def hear(self) -> str:
        assert self.pipe.poll(_PATIENCE_S)
        return str(self.pipe.recv())

    def ask(self, word: str) -> str:
        self.pipe.send(word)
        return self.hear()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture
def contender() -> Iterator[Callable[..., _Contender]]:
    started: list[_Contender] = []

    def start(study: Study, clock_s: float = 0.0) -> _Contender:
        started.append(_Contender(study, clock_s))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def test_a_released_lease_is_taken_at_once_and_old_files_go(study: Study):
    assert not is_held(study)
    for _ in range(3):
        started = time.monotonic()
        with hold(study) as held:
            held.check()
        assert time.monotonic() - started < WATCH_S
    assert _files(study) == ["00000003.json"]
    assert study.read_json(*_LEASES, "00000003.json")["released"] is True
    assert not is_held(study)


def test_a_second_run_is_refused_while_the_first_lives(study: Study):
    with hold(study) as held:
        time.sleep(1.25 * WATCH_S)
        started = time.monotonic()
        assert is_held(study)
        with pytest.raises(InputError, match="another run is at work on this study; wait for it"), hold(study):
            pytest.fail("two runs at once")
        assert time.monotonic() - started < WATCH_S
        held.check()


def test_what_raises_inside_releases_the_lease(study: Study):
    with pytest.raises(KeyboardInterrupt), hold(study):
        raise KeyboardInterrupt
    assert not is_held(study)
    assert json.loads(study.read_bytes(*_LEASES, "00000001.json"))["released"] is True


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"counter": 5, "released": false, "token": "x", "pid": 1}'])
def test_what_does_not_move_is_dead(tmp_path: Path, left: bytes):
    study = Study.create(str(tmp_path / "s"))
    study.write_bytes(left, *_LEASES, "00000041.json")
    assert not is_held(study, watch_s=0.3)
    lines: list[str] = []
    with hold(study, lines.append) as held:
        held.check()
        assert is_held(study)
    assert [line.split(":")[0] for line in lines] == ["a run has left its lease in this study", "that run is dead"]
    assert _files(study) == ["00000042.json"]


def test_one_of_eight_gets_a_dead_run_s_study(shared_study: Study, contender: Callable[..., _Contender]):
    dead = contender(shared_study)
    assert dead.hear() == "held"
    dead.kill()
    assert _outcomes([contender(shared_study) for _ in range(8)]) == ["held"] + ["refused"] * 7
    assert len(_files(shared_study)) == 1


def test_one_of_eight_gets_a_new_study(shared_study: Study, contender: Callable[..., _Contender]):
    outcomes = _outcomes([contender(shared_study) for _ in range(8)])
    assert outcomes.count("held") == 1
    assert set(outcomes) == {"held", "refused"}


def test_creating_is_exclusive_on_a_disk(tmp_path: Path):
    """Fsspec's own `create` is not: many threads at once on one number, and one has it."""
    study, start, made = Study.create(str(tmp_path / "s")), threading.Barrier(8), []

    def create(generation: int) -> None:
        start.wait()
        made.append(lease._create(lease.Lease(study, generation, uuid4().hex, 0.0)))

    for generation in range(1, 30):
        threads = [threading.Thread(target=create, args=(generation,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == [False] * 7 + [True]
        made.clear()


def test_a_run_that_stood_still_and_was_overtaken_stops(shared_study: Study, contender: Callable[..., _Contender]):
    first = contender(shared_study)
    assert first.hear() == "held"
    assert first.ask("check") == "ok"
    first.signal(signal.SIGSTOP)
    assert not is_held(shared_study, watch_s=2 * BEAT_S + 0.5)
    second = contender(shared_study)
    assert second.hear() == "held"
    first.signal(signal.SIGCONT)
    assert first.ask("check") == "lost"
    assert second.ask("check") == "ok"
    first.pipe.send("end")
    first.process.join(_PATIENCE_S)
    assert is_held(shared_study), "the one that lost it must not release it"


def test_a_run_that_stood_still_goes_on_where_nobody_came(tmp_path: Path, contender: Callable[..., _Contender]):
    first = contender(Study.create(str(tmp_path / "s")))
    assert first.hear() == "held"
    first.signal(signal.SIGSTOP)
    time.sleep(1.5 * WATCH_S)
    first.signal(signal.SIGCONT)
    assert first.ask("check") == "ok"


@pytest.mark.parametrize("clocks", [(0.0, 90.0), (_TEN_YEARS_S, 0.0)])
def test_clocks_do_not_matter(tmp_path: Path, contender: Callable[..., _Contender], clocks: tuple[float, float]):
    study = Study.create(str(tmp_path / "s"))
    first = contender(study, clocks[0])
    assert first.hear() == "held"
    assert contender(study, clocks[1]).hear() == "refused"
    first.kill()
    assert contender(study, clocks[1]).hear() == "held"


@pytest.mark.skipif(
    subprocess.run(["unshare", "--pid", "--fork", "--uts", "true"], stderr=subprocess.DEVNULL, check=False).returncode
    != 0,
    reason="PID namespaces cannot be made here (unshare is refused)",
)
def test_two_machines_with_one_name_and_the_same_process_ids(tmp_path: Path):
    """As containers have them: each is process 1 of its own."""
    study = Study.create(str(tmp_path / "s"))
    command = ["unshare", "--pid", "--fork", "--kill-child", "--uts", "--mount-proc"]
    command += [sys.executable, str(Path(__file__).with_name("lease_process.py")), study.url]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start() as first, start() as second:
        said = {first: _line(first), second: _line(second)}
        assert sorted(said.values()) == ["held", "refused"]
        holder = first if said[first] == "held" else second
        holder.kill()
        with start() as third:
            assert _line(third) == "held"
            third.kill()


def test_a_hiccup_of_the_store_ends_no_run_but_a_long_silence_does(tmp_path: Path):
    study = Study.create(str(tmp_path / "s"))
    folder, aside = Path(study.path(*_LEASES)), tmp_path / "aside"
    with hold(study) as held:
        _break(folder, aside)
        time.sleep(WATCH_S / 4)
        held.check()
        _mend(folder, aside)
        time.sleep(3 * BEAT_S)
        held.check()
        _break(folder, aside)
        time.sleep(WATCH_S)
        with pytest.raises(SurroundingsError, match="could not be written to for 2 s"):
            held.check()
        _mend(folder, aside)
        held.check()


def test_a_full_disk_leaves_nothing_that_looks_like_a_run(tmp_path: Path):
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mount)], stderr=subprocess.DEVNULL, check=False
    )
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here (mount is refused)")
    try:
        study = Study.create(str(mount / "s"))
        Path(study.path(*_LEASES)).mkdir(parents=True)
        with pytest.raises(OSError, match="No space left"), (mount / "filler").open("wb") as filler:
            filler.write(bytes(10**6))
        with pytest.raises(OSError, match="No space left"), hold(study):
            pytest.fail("held without a file")
        assert _files(study) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_study_that_cannot_be_written_to_is_told_in_a_line():
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        study = Study.create(str(folder / "s"))
        for path in (folder / "s", folder):
            path.chmod(0o555)
        with _as_nobody(), pytest.raises(InputError) as caught, hold(study):
            pytest.fail("held without a file")
        assert str(caught.value) == f"{study.url}: the study cannot be written to; a run needs the right to"
        assert not is_held(study)
    finally:
        for path in (folder, folder / "s"):
            path.chmod(0o755)
        shutil.rmtree(folder)


class _as_nobody:
    """Root may write anywhere; whoever is not root stays who they are."""

    def __enter__(self) -> None:
        self._user = os.geteuid()
        if self._user == 0:
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self._user == 0:
            os.seteuid(0)


def _break(folder: Path, aside: Path) -> None:
    """Nothing can be written into a folder that is a file."""
    folder.rename(aside)
    folder.write_text("")


def _mend(folder: Path, aside: Path) -> None:
    folder.unlink()
    aside.rename(folder)


def _outcomes(contenders: list[_Contender]) -> list[str]:
    """What each said; the winner holds the lease until all have spoken."""
    waiting: list[Connection] = [c.pipe for c in contenders]
    said = []
    while waiting and (ready := wait(waiting, _PATIENCE_S)):
        for pipe in ready:
            assert isinstance(pipe, Connection)
            said.append(str(pipe.recv()))
            waiting.remove(pipe)
    return sorted(said)


def _files(study: Study) -> list[str]:
    fs, folder = fsspec.core.url_to_fs(study.path(*_LEASES))
    fs.invalidate_cache()
    # a beat that is on its way lies aside for a moment
    return sorted(Path(p).name for p in fs.ls(folder, detail=False) if not p.endswith(".aside"))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
