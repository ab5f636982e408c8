"""What a task costs, measured where it runs: wall and processor seconds, and the memory that it took at most."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, replace
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
    """Processor time of the worker's thread; that of its child is not in it."""
    peak_mb: float = 0.0
    """Largest resident size of the worker, and of its child beside it, in MB; 0 where the system does not tell."""

    def shared(self, n: int) -> Usage:
        """One part's share of a task that made `n`."""
        return replace(self, seconds=self.seconds / n, cpu_seconds=self.cpu_seconds / n)


class Meter:
    """Measures what a task takes from here on."""

    def __init__(self) -> None:
        self._started, self._cpu = time.monotonic(), time.thread_time()
        _children.peak_mb = 0.0
        try:
            _CLEAR.write_text("5")  # the high-water mark of the resident size starts anew
        except OSError:
            return

    def read(self) -> Usage:
        """What it took so far."""
        seconds, cpu = time.monotonic() - self._started, time.thread_time() - self._cpu
        return Usage(_WORKER, round(seconds, 4), round(cpu, 4), round(_high_water_mb() + _children.peak_mb, 1))


def note_child(memory_mb: float) -> None:
    """The resident size of this thread's child was seen."""
    _children.peak_mb = max(getattr(_children, "peak_mb", 0.0), memory_mb)


_children = threading.local()


def _high_water_mb() -> float:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)
