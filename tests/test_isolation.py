from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from popclust.dataflow.isolation import IsolatedError, run_isolated
from popclust.errors import VolumeError

LIMITS = {"timeout_s": 60.0, "max_memory_mb": 2000.0}


def _pid() -> int:
    return os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


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
