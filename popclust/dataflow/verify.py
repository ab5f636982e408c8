"""Whether everything stored is there and as it was published; what is not can be withdrawn, so that a run redoes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track
from rich.table import Table

from popclust import storage
from popclust.dataflow.inputs import has_key
from popclust.dataflow.lease import hold
from popclust.dataflow.stages import ORDER, stage_named
from popclust.errors import DamagedError, InputError
from popclust.parts import WHOLE
from popclust.study import Study

_THREADS = 4
"""Digests are made while other files are waited for."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    stage: str
    """Stage of the part; empty for what is no part."""
    volume_id: str
    """Its volume, or ``population``."""
    what: str
    """The place in the study and what is wrong, on one line."""
    remedy: str
    """What mends it."""


def verify(study: Study, *, repair: bool = False, console: Console | None = None) -> list[Finding]:
    """Compare every finished part with the digest it was published with.

    Parameters
    ----------
    study : Study
        The study.
    repair : bool
        Withdraw what is damaged: the next run makes it anew, and what follows from it.
    console : rich.console.Console
        Where the bar goes; none by default.

    Returns
    -------
    list of Finding
        In the order of the stages; empty where all is well.

    Raises
    ------
    InputError
        Another run is at work on the study (with `repair`).
    """
    console = console or Console(quiet=True)
    if not repair:
        return [*_findings(study, console), *_beside_parts(study)]
    with hold(study, say=lambda text: console.print(text, markup=False, highlight=False)):
        found = [*_findings(study, console), *_beside_parts(study)]
        for finding in found:
            if finding.stage:
                study.withdraw(finding.stage, finding.volume_id, finding.what)
        if any(f.what.startswith("runs/active.json") for f in found):
            study.remove("runs", "active.json")
    return found


def as_table(findings: list[Finding]) -> Table:
    """For the terminal."""
    table = Table("stage", "volume", "what", "remedy")
    for f in findings:
        table.add_row(f.stage, f.volume_id, f.what, f.remedy)
    return table


def _findings(study: Study, console: Console) -> list[Finding]:
    parts = [(name, volume_id) for name in ORDER for volume_id in study.markers(name).done]
    withdrawn = [
        Finding(name, volume_id, reason, "the next run makes it anew")
        for name in ORDER
        for volume_id, reason in study.markers(name).withdrawn.items()
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        checked = pool.map(lambda part: _check(study, *part), parts)
        return withdrawn + [f for f in track(checked, "verify", len(parts), console=console) if f is not None]


def _check(study: Study, name: str, volume_id: str) -> Finding | None:
    stage = stage_named(name)
    files = stage.results if volume_id == WHOLE else stage.files_of(volume_id)
    try:
        study.check_part(name, volume_id, files)
    except DamagedError as error:
        return Finding(name, volume_id, error.what, "withdraw it (--repair): the next run makes it anew")
    return None


def _beside_parts(study: Study) -> Iterator[Finding]:
    """Files that no marker vouches for."""
    for name in storage.names(study.path("runs")):
        if name.endswith(".json"):
            yield from _readable(study, f"runs/{name}", "it is a report of an earlier run: nothing depends on it")
    for name in storage.names(study.path("recipes")):
        yield from _readable(study, f"recipes/{name}", "`popclust plan` cannot say which setting changed: no more")
    try:
        has_key(study)
    except InputError as error:
        yield Finding("", "", str(error), "bring the key back")


def _readable(study: Study, path: str, remedy: str) -> Iterator[Finding]:
    try:
        json.loads(study.read_bytes(path))
    except ValueError:
        yield Finding("", "", f"{path} cannot be read", remedy)
    except FileNotFoundError:
        return
