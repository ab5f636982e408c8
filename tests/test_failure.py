"""Exit codes, the one line, the JSON and the private log, as another program meets them."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from popclust import commands
from popclust.cli import main
from popclust.dataflow.failure import (
    BAD_INPUT,
    DONE,
    FAULT,
    QUARANTINED,
    STOPPED,
    RemoteTraceback,
    disk_trouble,
    exit_code,
    place_of,
    plain_console,
    to_json,
)
from popclust.dataflow.perform import logged
from popclust.dataflow.window import attempt
from popclust.dataflow.workers import Ticket
from popclust.errors import DamagedError, InputError, SurroundingsError, VolumeError
from popclust.study import Study

PRIVATE = "/data/Doe^John/report [bold]secret[/] :warning:"


def _raiser(error: BaseException) -> Callable[[], int]:
    def act() -> int:
        raise error

    return act


def _divide() -> int:
    return 1 // len("")


def _inside_pandas() -> int:
    return int(pd.DataFrame({"a": [1]})["b"].sum())


def _run(action: Callable[[], int], folder: Path | None = None, **options: Any) -> tuple[int, str]:
    out = StringIO()
    console = Console(file=out, markup=True, width=40)
    return exit_code(action, console, log_folder=lambda: folder, **options), out.getvalue()


@pytest.mark.parametrize("code", [DONE, QUARANTINED])
def test_a_command_s_own_code_passes(code: int):
    assert _run(lambda: code) == (code, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InputError(f"{PRIVATE}: [atlas] volume\nis missing"),
            BAD_INPUT,
            f"error: {PRIVATE}: [atlas] volume is missing",
        ),
        (PermissionError(13, "Permission denied", "/data"), BAD_INPUT, "error: /data: not allowed (Permission denied)"),
        (SurroundingsError("the Dask cluster was lost"), STOPPED, "stopped: the Dask cluster was lost; run again"),
        (DamagedError("features/v1.zarr is damaged"), STOPPED, "stopped: features/v1.zarr is damaged; run again"),
        (KeyboardInterrupt(), STOPPED, "stopped: interrupted; run again to go on"),
        (OSError(errno.ENOSPC, "No space left"), STOPPED, "stopped: the disk is full; make room and run again"),
        (OSError(errno.EDQUOT, "Quota exceeded"), STOPPED, "stopped: the disk is full"),
        (MemoryError(), STOPPED, "stopped: there is not enough memory"),
        (ConnectionRefusedError("no"), STOPPED, "stopped: a store or machine does not answer (ConnectionRefusedError"),
    ],
)
def test_what_is_no_fault_has_a_code_and_a_line(error: BaseException, code: int, line: str, tmp_path: Path):
    got, said = _run(_raiser(error), tmp_path / "log")
    assert got == code
    assert said.startswith(line), said
    assert said.count("\n") == 1
    assert not (tmp_path / "log").exists()


def test_a_full_disk_is_found_behind_another_exception():
    def act() -> int:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not write") from error

    assert _run(act)[0] == STOPPED


def test_a_disk_that_turns_read_only_is_no_fault_of_a_volume():
    assert disk_trouble(OSError(errno.EROFS, "Read-only file system")) == "the disk has turned read-only"
    assert disk_trouble(OSError(errno.EACCES, "Permission denied")) == ""


def test_a_fault_is_a_line_with_its_place_and_a_private_log(tmp_path: Path):
    folder = tmp_path / "s.secret" / "log"
    code, said = _run(_divide, folder)
    assert code == FAULT
    (log,) = folder.iterdir()
    assert said.startswith("fault: ZeroDivisionError in _divide (test_failure.py:")
    assert said.endswith(f"; the traceback is in {log}\n")
    assert said.count("\n") == 1
    assert "ZeroDivisionError: integer division" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_the_place_is_the_caller_s_not_a_library_s(tmp_path: Path):
    _, said = _run(_inside_pandas, tmp_path)
    assert said.startswith("fault: KeyError in _inside_pandas (test_failure.py:")


def test_the_exception_s_own_words_stay_in_the_log(tmp_path: Path):
    code, said = _run(_raiser(ValueError(PRIVATE)), tmp_path / "log")
    assert code == FAULT
    assert "Doe" not in said
    assert PRIVATE in next((tmp_path / "log").iterdir()).read_text()


def test_a_fault_in_another_process_has_that_one_s_place():
    error = ValueError("x")
    error.__cause__ = RemoteTraceback("Traceback ...", "ValueError in warp (transform.py:7)")
    assert place_of(error) == "ValueError in warp (transform.py:7)"


def _folder_unknown() -> Path | None:
    raise InputError("no study here")


@pytest.mark.parametrize("where", ["no study", "not a study", "not writable"])
def test_the_log_goes_home_where_there_is_no_study(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "file").write_text("")
    folders = {
        "no study": lambda: None,
        "not a study": _folder_unknown,
        "not writable": lambda: tmp_path / "file" / "x",
    }
    out = StringIO()
    assert exit_code(_divide, Console(file=out, width=40), log_folder=folders[where]) == FAULT
    (log,) = (tmp_path / "state" / "popclust" / "log").iterdir()
    assert str(log) in out.getvalue()


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (InputError("wrong [atlas]"), 2, "input"),
        (SurroundingsError("lost"), 3, "surroundings"),
        (KeyboardInterrupt(), 3, "interrupted"),
        (ZeroDivisionError(), 4, "fault"),
    ],
)
def test_with_json_an_error_is_one_document(
    error: BaseException, code: int, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert _run(_raiser(error), tmp_path, as_json=True)[0] == code
    document = _strict(capsys.readouterr().out)
    assert (document["error"]["code"], document["error"]["kind"]) == (code, kind)
    assert document["error"]["message"]


@dataclass
class _Card:
    seconds: float
    path: Path


def test_json_is_strict_whatever_the_library_that_made_the_value():
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], dtype="Int64"),
            "x": [np.nan, np.inf],
            "text": pd.array(["a", None], dtype="string"),
            "when": pd.to_datetime(["2026-01-02", None]),
            "ok": pd.array([True, None], dtype="boolean"),
        }
    )
    first = {"n": 1, "x": None, "text": "a", "when": "2026-01-02T00:00:00", "ok": True}
    assert _strict(to_json(frame)) == [first, dict.fromkeys(first)]
    values = {
        "numpy": [np.float32("nan"), np.int64(3), np.bool_(True), np.float32(0.5), np.array([[1.0, -np.inf]])],
        "scalar array": np.array(4),
        "dates": [datetime(2026, 1, 2, tzinfo=UTC), pd.NaT, np.datetime64("NaT", "s"), np.datetime64("2026-01-02")],
        "series": pd.Series([1.5, np.nan]),
        "set": {"b", "a"},
        "card": _Card(float("nan"), Path("/x")),
        7: (None, pd.NA, True),
    }
    assert _strict(to_json(values)) == {
        "numpy": [None, 3, True, 0.5, [[1.0, None]]],
        "scalar array": 4,
        "dates": ["2026-01-02T00:00:00+00:00", None, None, "2026-01-02"],
        "series": [1.5, None],
        "set": ["a", "b"],
        "card": {"seconds": None, "path": "/x"},
        "7": [None, None, True],
    }
    with pytest.raises(TypeError, match="object has no form in JSON"):
        to_json(object())


def test_a_plain_console_prints_text_as_it_is(capsys: pytest.CaptureFixture[str]):
    line = f"{PRIVATE}: set [atlas] volume to a file; {'x' * 300}"
    plain_console().print(line, style="yellow")
    assert capsys.readouterr().err == f"{line}\n"


def _script(body: str) -> list[str]:
    head = "import sys, time\nfrom popclust.dataflow.failure import exit_code, plain_console, print_json\n"
    tail = "\nsys.exit(exit_code(act, plain_console(), log_folder=lambda: None))"
    return [sys.executable, "-c", head + body + tail]


def test_sigterm_stops_in_good_order(tmp_path: Path):
    body = (
        "def act():\n    try:\n        print('up', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('tidied', flush=True)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(_script(body), **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (3, "tidied\n", "stopped: interrupted; run again to go on\n")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def act():\n    for _ in range(10**6):\n        print('x' * 100)", STOPPED),
        ("def act():\n    for _ in range(10**6):\n        plain_console(stderr=False).print('x' * 100)", STOPPED),
        ("def act():\n    sys.stdin.readline()\n    print_json({'a': 1})\n    return 1", QUARANTINED),
    ],
    ids=["print", "rich", "json at the end"],
)
def test_a_reader_that_goes_away_gets_no_traceback(body: str, code: int):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(_script(body), **pipes) as process:  # type: ignore[call-overload]
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == code


def test_the_command_line_keeps_the_contract(tmp_path: Path):
    command = [sys.executable, "-m", "popclust", "status", "--json", str(tmp_path / "[bold]none")]
    missing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert missing.returncode == BAD_INPUT
    assert _strict(missing.stdout)["error"]["kind"] == "input"
    assert missing.stderr.startswith(f"error: {tmp_path}/[bold]none: no study here")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["estimate", "s", "--volumes", "0", "--workers", "2"], "argument --volumes: must be at least 1"),
        (["run", "s", "--until", "nothing"], "argument --until: invalid choice: 'nothing'"),
        (["status"], "the following arguments are required: STUDY"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_what_is_called_wrongly_is_one_line_and_one_document(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main([*words, "--json"]) == BAD_INPUT
    out, err = capsys.readouterr()
    assert said in _strict(out)["error"]["message"]
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "--help` says how it is called" in err


def test_settings_in_another_encoding_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = Study.create(str(tmp_path / "s"))
    path = Path(study.path("study.toml"))
    path.write_bytes(b"# first\n# M\xfcnchen\n" + path.read_bytes())
    assert main(["status", study.url]) == BAD_INPUT
    assert capsys.readouterr().err == f"error: {path}: line 2 is not UTF-8; save the file in that encoding\n"


def test_a_fault_of_a_command_is_logged_beside_the_study_s_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    study = Study.create(str(tmp_path / "s"))
    monkeypatch.setattr(commands, "status", lambda arguments, console: _divide())
    assert main(["status", study.url, "--json"]) == FAULT
    (log,) = Path(study.secret_path("log")).iterdir()
    out, err = capsys.readouterr()
    assert _strict(out)["error"]["message"].endswith(f"the traceback is in {log}")
    assert "Traceback" in log.read_text()
    assert err.startswith("fault: ZeroDivisionError in _divide")
    assert "Traceback" not in err


def _strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _names_a_person() -> None:
    raise KeyError("Doe^Jane")


def test_what_nobody_foresaw_in_a_task_is_logged_beside_the_key(tmp_path: Path):
    study = Study.create(str(tmp_path / "s"))
    with pytest.raises(KeyError):
        logged(study, Ticket(), _names_a_person)
    (file,) = Path(study.secret_path("log")).iterdir()
    assert "in _names_a_person" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    outcome = attempt(logged, study, Ticket(), _names_a_person)
    assert "see the log" in outcome.message
    assert "Doe" not in outcome.message


def test_a_volume_s_own_trouble_needs_no_log(tmp_path: Path):
    study = Study.create(str(tmp_path / "s"))

    def trouble() -> None:
        raise VolumeError("no_lung", "no lung is seen")

    with pytest.raises(VolumeError):
        logged(study, Ticket(), trouble)
    assert not Path(study.secret_path("log")).exists()
