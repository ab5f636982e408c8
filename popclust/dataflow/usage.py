"""What a task costs, measured where it runs: wall and processor seconds, and the memory that it took at most."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_WORKER = f"w{secrets.token_hex(4)}"
"""This process, under a name that says nothing of its machine."""
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Usage:
    """What one task took."""

    worker: str = ""
    """Pseudonym of the worker process."""
    seconds: float = 0.0
    """Wall time."""
    cpu_seconds: float = 0.0
    """Processor time of the worker's thread and of its child."""
    peak_mb: float = 0.0
    """Largest resident size of the worker, and of its child beside it, in MB; 0 where the system does not tell."""


class Meter:
    """Measures what a task takes from here on."""

    def __init__(self) -> None:
        self._started, self._cpu = time.monotonic(), time.thread_time()
        _children.peak_mb = _children.cpu_seconds = 0.0
        try:
            _CLEAR.write_text("5")  # the high-water mark of the resident size starts anew
        except OSError:
            return

    def read(self) -> Usage:
        """What it took so far."""
        seconds, cpu = time.monotonic() - self._started, time.thread_time() - self._cpu + _children.cpu_seconds
        return Usage(_WORKER, round(seconds, 4), round(cpu, 4), round(_high_water_mb() + _children.peak_mb, 1))


class _Children(threading.local):
    peak_mb = 0.0
    cpu_seconds = 0.0


def note_child(memory_mb: float, cpu_seconds: float = 0.0) -> None:
    """The resident size of this thread's child was seen, and the processor time that it took since the last look."""
    _children.peak_mb = max(_children.peak_mb, memory_mb)
    _children.cpu_seconds += cpu_seconds


_children = _Children()


def _high_water_mb() -> float:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)
