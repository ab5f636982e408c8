"""One file per stage, and their order; no stage reads a later one's output."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from popclust.errors import InputError

if TYPE_CHECKING:  # the order is wanted where Dask is not
    from popclust.dataflow.stage import Stage

ORDER = (
    "ingest",
    "duplicates",
    "atlas",
    "normalize",
    "extract",
    "vocabulary",
    "encode",
    "topics",
    "cluster",
    "repeat",
    "terms",
    "associate",
    "freeze",
    "summarize",
)


def stage_named(name: str) -> Stage:
    """A stage by its name.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if name not in ORDER:
        raise InputError(f"stage {name!r}: there is none; the stages are {', '.join(ORDER)}")
    stage: Stage = import_module(f"{__name__}.{name}").STAGE
    return stage
