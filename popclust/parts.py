"""Parts: what a stage made of one volume, or of the population, and how it is known to be finished and whole.

A part is written, synced and then published by its marker file ``markers/<stage>/<volume_id>.json``. What is missing
is what should exist minus the markers that match. The small record that a part leaves lies beside it, in
``records/<stage>/``; the stage, version and settings it was made with in ``recipes/``. Nothing here knows what a stage
computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

WHOLE = "population"
"""The `volume_id` under which a stage keeps what it made of the whole population."""


@dataclass(frozen=True, slots=True)
class Done:
    """What the marker file of a finished part says."""

    marker: str
    """SHA-256 over the recipe and what the part read: the same again for equal input."""
    recipe: str
    """Digest of the stage, its version and its settings; the recipe lies in recipes/."""
    output: str
    """What later stages depend on: the marker, or a digest of the content where equal content shall redo nothing."""
    passes: bool
    """Whether the volume goes on to later stages."""
    digest: str
    """SHA-256 of the part's files and record, as published."""
    n_bytes: int
    """Their size."""


@dataclass(frozen=True)
class Made:
    """What a task hands back for one part."""

    record: Mapping[str, Any]
    """Small, for the population's tables; JSON."""
    passes: bool = True
    """Whether the volume goes on to later stages."""
    output: str = ""
    """Digest of the content, where later stages depend on that; empty: they depend on the marker."""
    read: tuple[str, ...] = ()
    """What it was made from, where that was chosen only while it was made; empty: what the stage needs."""


@dataclass(frozen=True)
class Markers:
    """The marker files of one stage."""

    done: dict[str, Done]
    """Finished parts by sorted volume_id, the population's among them."""
    withdrawn: dict[str, str]
    """Parts that are not: withdrawn by `verify`, or with a marker file that cannot be read; each with its reason."""


def canonical(value: Any, indent: int | None = None) -> bytes:
    """JSON bytes in one way only: sorted keys, no NaN."""
    return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False).encode()


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe: stage, version, settings."""
    return hashlib.sha256(canonical(recipe)).hexdigest()


def marker_of(recipe: str, read: Iterable[str]) -> str:
    """SHA-256 over a recipe's digest and the sorted outputs of what was read.

    >>> marker_of("ab", ["x", "y"]) == marker_of("ab", ["y", "x"])
    True
    """
    return hashlib.sha256("\n".join([recipe, *sorted(read)]).encode()).hexdigest()


def dump_done(done: Done) -> bytes:
    """Bytes of a marker file."""
    return canonical(asdict(done))


def dump_withdrawn(reason: str) -> bytes:
    """Bytes of the marker file of a part that is not to be trusted any more."""
    return canonical({"withdrawn": reason})


def load_marker(data: bytes, name: str) -> Done | str:
    """What a marker file says: the finished part, or why it is none.

    Parameters
    ----------
    data : bytes
        Its contents.
    name : str
        Its place in the study, for the reason.
    """
    try:
        value = json.loads(data)
        if "withdrawn" in value:
            return str(value["withdrawn"])
        return Done(**value)
    except (ValueError, TypeError):
        return f"{name} cannot be read"
