"""A process that takes a study's lease and does as it is told over a pipe, or over stdin and stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from object_store import use_store

from popclust.dataflow import lease
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study

BEAT_S, WATCH_S = 0.2, 2.0


def contend(url: str, options: dict[str, Any], clock_s: float, pipe: Connection) -> None:
    """Say `held`, `refused` or `lost`; then answer each `check` by `ok` or `lost` until told to `end`."""
    use_store(options)
    _take(url, clock_s, pipe.send, pipe.recv)


def _take(url: str, clock_s: float, say: Callable[[str], object], hear: Callable[[], str]) -> None:
    true_time = time.time
    time.time = lambda: true_time() + clock_s
    lease.BEAT_S, lease.WATCH_S = BEAT_S, WATCH_S
    try:
        with lease.hold(Study.open(url)) as held:
            say("held")
            while hear() == "check":
                try:
                    held.check()
                    say("ok")
                except SurroundingsError:
                    say("lost")
    except InputError:
        say("refused")
    except SurroundingsError:
        say("lost")


if __name__ == "__main__":
    _take(sys.argv[1], 0.0, lambda word: print(word, flush=True), lambda: sys.stdin.readline().strip())
