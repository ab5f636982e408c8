"""Loaded by a Dask worker at its start (`distributed.worker.preload`): every task takes longer, one takes too much.

`POPCLUST_TEST_WAIT_S`: seconds that each task waits first, so that a dozen volumes keep a cluster busy however fast the
machine is. `POPCLUST_TEST_GREEDY`: a file; who finds it takes it away, and memory until somebody ends the process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from popclust.dataflow import perform

# Dask may load a preload twice
_logged = perform.undisturbed = getattr(perform, "undisturbed", perform.logged)


def logged(*args: Any) -> Any:
    """The task, after what hinders it."""
    time.sleep(float(os.environ.get("POPCLUST_TEST_WAIT_S", "0")))
    if greedy := os.environ.get("POPCLUST_TEST_GREEDY"):
        try:
            Path(greedy).unlink()
        except FileNotFoundError:
            return _logged(*args)
        taken = []
        while True:
            taken.append(b"\1" * (50 << 20))
            time.sleep(0.05)
    return _logged(*args)


perform.logged = logged
