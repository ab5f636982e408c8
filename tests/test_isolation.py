from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import psutil
import pytest

from popclust.dataflow.failure import place_of
from popclust.dataflow.isolation import IsolatedError, run_isolated
from popclust.dataflow.usage import Meter
from popclust.errors import VolumeError

LIMITS = {"timeout_s": 60.0, "max_memory_mb": 2000.0}


def _pid() -> int:
    return os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _toil(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _eat() -> int:
    hoard = np.ones(80_000_000)
    time.sleep(20)
    return len(hoard)


def _refuse() -> None:
    raise VolumeError("flat", "the volume is flat")


class _Stubborn(Exception):
    def __init__(self) -> None:
        super().__init__("no")
        self.lock = threading.Lock()  # cannot be pickled


def _fail_stubbornly() -> None:
    raise _Stubborn


def test_the_child_is_another_process_that_lives_on():
    first = run_isolated(_pid, **LIMITS)
    assert first != os.getpid()
    assert run_isolated(_pid, **LIMITS) == first


def test_a_crash_costs_one_call_and_the_child_is_replaced():
    before = run_isolated(_pid, **LIMITS)
    with pytest.raises(IsolatedError, match="SIGSEGV") as caught:
        run_isolated(_die, **LIMITS)
    assert caught.value.code == "crashed"
    assert run_isolated(_pid, **LIMITS) != before


def test_a_hang_ends_in_time():
    with pytest.raises(IsolatedError, match="longer than 0") as caught:
        run_isolated(_sleep, 60, timeout_s=0.5, max_memory_mb=2000)
    assert caught.value.code == "timeout"


def test_what_the_child_takes_counts_for_the_task():
    run_isolated(_pid, **LIMITS)  # its start is paid for
    meter = Meter()
    run_isolated(_toil, 0.5, **LIMITS)
    assert 0.4 < meter.read().cpu_seconds < 1.5
    assert Meter().read().cpu_seconds < 0.1


def test_greed_ends():
    with pytest.raises(IsolatedError, match="more than 400 MB") as caught:
        run_isolated(_eat, timeout_s=60, max_memory_mb=400)
    assert caught.value.code == "out_of_memory"


def test_what_the_function_raises_arrives_as_it_is():
    with pytest.raises(VolumeError, match="flat") as caught:
        run_isolated(_refuse, **LIMITS)
    assert caught.value.code == "flat"
    with pytest.raises(RuntimeError, match="_Stubborn: no"):
        run_isolated(_fail_stubbornly, **LIMITS)


def _print_and_fail(name: str) -> None:
    print("python was here")
    os.write(1, f"reading {name}\n".encode())
    os.write(2, f"ITK warning: {name}\n".encode())
    raise ValueError(name)


def _print_and_die(name: str) -> None:
    os.write(2, f"free(): invalid pointer {name}\n".encode())
    os.kill(os.getpid(), signal.SIGSEGV)


def _give_what_does_not_travel() -> object:
    return threading.Lock()


def test_the_child_s_traceback_and_prints_come_with_what_it_raises(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match="Doe") as caught:
        run_isolated(_print_and_fail, "/data/Doe", **LIMITS)
    text = "".join(traceback.format_exception(caught.value))
    assert re.search(r"test_isolation.py\", line \d+, in _print_and_fail", text)
    assert "python was here" in text
    assert "reading /data/Doe" in text
    assert "ITK warning: /data/Doe" in text
    assert re.fullmatch(r"ValueError in _print_and_fail \(test_isolation.py:\d+\)", place_of(caught.value))
    assert capfd.readouterr() == ("", "")


def test_a_crash_comes_with_its_last_words_and_python_lines(capfd: pytest.CaptureFixture[str]):
    run_isolated(_pid, **LIMITS)
    with pytest.raises(IsolatedError, match="SIGSEGV") as caught:
        run_isolated(_print_and_die, "/data/Doe", **LIMITS)
    text = "".join(traceback.format_exception(caught.value))
    assert "free(): invalid pointer /data/Doe" in text
    assert re.search(r"line \d+ in _print_and_die", text)
    assert capfd.readouterr() == ("", "")


def test_the_prints_of_one_call_are_not_another_s():
    for name in ("first", "second"):
        with pytest.raises(ValueError, match=name) as caught:
            run_isolated(_print_and_fail, name, **LIMITS)
    assert "first" not in str(caught.value.__cause__)


def test_what_cannot_be_sent_back_says_so_and_the_child_lives_on():
    before = run_isolated(_pid, **LIMITS)
    with pytest.raises(TypeError, match="cannot pickle"):
        run_isolated(_give_what_does_not_travel, **LIMITS)
    assert run_isolated(_pid, **LIMITS) == before


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(IsolatedError):
        run_isolated(_die, **LIMITS)
    run_isolated(_pid, **LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_the_child_dies_with_its_parent():
    script = (
        "import os, sys; sys.path.insert(0, 'tests')\n"
        "from test_isolation import _pid, LIMITS\n"
        "from popclust.dataflow.isolation import run_isolated\n"
        "if __name__ == '__main__':\n"
        "    print(run_isolated(_pid, **LIMITS), flush=True)\n"
        "    import time; time.sleep(60)\n"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
