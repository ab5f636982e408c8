"""What each command does; :mod:`popclust.cli` says how it is called."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from popclust.dataflow.failure import DONE, QUARANTINED, plain_console, print_json
from popclust.errors import InputError
from popclust.storage import absolute
from popclust.study import Study

DAMAGED = QUARANTINED
"""Exit code of `verify` where something is damaged: finished, but not all is well."""


def demo(arguments: argparse.Namespace, console: Console) -> int:
    """Simulate, run, score."""
    from popclust.dataflow.demo import run_demo

    n = run_demo(arguments.out, arguments.volumes, arguments.seed, arguments.scheduler, console)
    return QUARANTINED if n else DONE


def simulate(arguments: argparse.Namespace, console: Console) -> int:
    """Write a simulated population."""
    from popclust.dataflow.client import connect
    from popclust.dataflow.simulate import simulate

    with connect(arguments.scheduler) as client:
        simulate(
            client,
            arguments.out,
            arguments.volumes,
            arguments.seed,
            arguments.format,
            n_templates=arguments.templates,
            console=console,
        )
    return DONE


def init(arguments: argparse.Namespace, console: Console) -> int:
    """Write study.toml; what is relative on the command line is so to where the command was given."""
    overrides: dict[str, dict[str, Any]] = {}
    if arguments.source:
        overrides["ingest"] = {"sources": [absolute(source) for source in arguments.source]}
    if arguments.reports:
        overrides["terms"] = {"reports": absolute(arguments.reports)}
    study = Study.create(arguments.study, overrides)
    _say(console, f"{study.path('study.toml')} is written: look at it, then `popclust run {arguments.study}`")
    return DONE


def run(arguments: argparse.Namespace, console: Console) -> int:
    """The whole flow, or a part of it."""
    return _flow(arguments, console, redo_from=arguments.redo_from, until=arguments.until, rescan=arguments.rescan)


def stage(arguments: argparse.Namespace, console: Console) -> int:
    """One stage."""
    return _flow(arguments, console, only=arguments.stage)


def terms(arguments: argparse.Namespace, console: Console) -> int:
    """The stage of report terms, or the sheet by which a person judges it."""
    from popclust.dataflow.audit import read_sheet, write_sheet

    if arguments.audit:
        path = write_sheet(Study.open(arguments.study), arguments.audit)
        _say(console, f"{path} is written; it holds report text. Fill in `checked`, then `popclust terms --audited`")
        return DONE
    if not arguments.audited:
        return stage(arguments, console)
    found = read_sheet(Study.open(arguments.study))
    per_status = found.per_status.round(4).to_dict("index")
    if arguments.json:
        print_json({**vars(found), "per_status": per_status})
        return DONE
    _say(console, f"{found.n_checked} mentions judged, {found.n_wrong_term} do not name the term")
    _say(console, f"status right {found.accuracy:.2f}, kappa {found.kappa:.2f}")
    for status, row in per_status.items():
        _say(
            console, f"{status}: precision {row['precision']:.2f}, recall {row['recall']:.2f}, {row['n']:.0f} mentions"
        )
    return DONE


def _flow(arguments: argparse.Namespace, console: Console, **part: Any) -> int:
    from popclust.dataflow.client import connect
    from popclust.dataflow.pipeline import run

    study = Study.open(arguments.study)
    with connect(arguments.scheduler, study.settings.compute) as client:
        flow = run(study, client, console=console, **part)
    if arguments.json:
        print_json(flow.run_card)
    elif flow.n_quarantined:
        _say(console, f"{flow.n_quarantined} volumes are in quarantine: {study.path('quarantine.parquet')}", "yellow")
    return QUARANTINED if flow.n_quarantined else DONE


def plan(arguments: argparse.Namespace, console: Console) -> int:
    """What a run would do."""
    from popclust.dataflow.plan import plan

    found = plan(Study.open(arguments.study))
    if arguments.json:
        print_json(found.as_dict())
        return DONE
    plain_console(stderr=False).print(found.as_table())
    if found.missing:
        _say(console, f"{len(found.missing)} series are no longer in the sources; they stay until `popclust forget`:")
        for volume_id in found.missing:
            _say(console, f"  {volume_id}")
    _say(console, f"{found.n_todo} parts to make" if found.n_todo else "nothing to do")
    return DONE


def verify(arguments: argparse.Namespace, console: Console) -> int:
    """Compare what is stored with its digests."""
    from popclust.dataflow.verify import as_table, verify

    found = verify(Study.open(arguments.study), repair=arguments.repair, console=console)
    if arguments.json:
        print_json([vars(f) for f in found])
    elif found:
        plain_console(stderr=False).print(as_table(found))
    else:
        _say(console, "everything is there and as it was published")
    if found and arguments.repair:
        _say(console, f"withdrawn; `popclust run {arguments.study}` makes it anew")
    return DAMAGED if found and not arguments.repair else DONE


def forget(arguments: argparse.Namespace, console: Console) -> int:
    """Remove patients or volumes."""
    from popclust.dataflow.forget import forget

    gone = forget(Study.open(arguments.study), arguments.names, console)
    if arguments.json:
        print_json(vars(gone))
        return DONE
    _say(console, f"{len(gone.volumes)} volumes are gone, {len(gone.patients)} patients whole")
    if gone.withdrawn:
        _say(console, f"what was learnt from them is withdrawn ({', '.join(gone.withdrawn)}): run the study again")
    return DONE


def status(arguments: argparse.Namespace, console: Console) -> int:
    """How far the study is; watching ends with the run that is at work, or that starts later."""
    from popclust.dataflow.progress import as_table, snapshot

    study, out = Study.open(arguments.study), plain_console(stderr=False)
    if not arguments.watch:
        state = snapshot(study)
        if arguments.json:
            print_json(state)
        else:
            out.print(as_table(state))
            if state["groups"]:
                out.print(state["groups"], highlight=False)
        return DONE
    if arguments.json:
        for state in _watched(study):
            print_json(state)
        return DONE
    with Live(console=out, auto_refresh=False) as live:
        for state in _watched(study):
            live.update(as_table(state), refresh=True)
    return DONE


def _watched(study: Study) -> Iterator[dict[str, Any]]:
    """The study every second, until a run that is at work or starts later is over."""
    from popclust.dataflow.progress import snapshot

    before = snapshot(study)
    yield before
    state, is_begun = before, before["state"] == "running"
    while not is_begun or state["state"] == "running":
        time.sleep(1)
        state = snapshot(study)
        is_begun = is_begun or state["state"] == "running" or state["run_id"] != before["run_id"]
        yield state


def performance(arguments: argparse.Namespace, console: Console) -> int:
    """Where a run's time went."""
    from popclust.dataflow.events import DRIVER, read_events, runs_with_events
    from popclust.presentation.performance import measure, page

    study = Study.open(arguments.study)
    run_id = arguments.run or (runs_with_events(study) or [""])[-1]
    events = read_events(study, run_id)
    if arguments.json:
        print_json({"run_id": run_id, **measure(events, DRIVER).as_dict()})
        return DONE
    study.write_bytes(page(events, run_id, DRIVER), "runs", f"{run_id}.performance.html")
    _say(console, f"{study.path('runs', f'{run_id}.performance.html')} is written")
    return DONE


def estimate(arguments: argparse.Namespace, console: Console) -> int:
    """What a larger population would take."""
    from popclust.dataflow.estimate import estimate

    found = estimate(Study.open(arguments.study), arguments.volumes, arguments.workers)
    if arguments.json:
        print_json(found.as_dict())
        return DONE
    plain_console(stderr=False).print(found.as_table())
    for line in found.notes:
        _say(console, line)
    return DONE


def retry(arguments: argparse.Namespace, console: Console) -> int:
    """Take volumes out of quarantine."""
    from popclust.dataflow.lease import hold
    from popclust.dataflow.quarantine import Quarantine

    study = Study.open(arguments.study)
    with hold(study, say=lambda text: _say(console, text)):
        quarantine = Quarantine.open(study)
        n = quarantine.release(stage=arguments.stage)
        quarantine.write()
    _say(console, f"{n} taken out of quarantine; `popclust run {arguments.study}` tries them again")
    return DONE


def assign(arguments: argparse.Namespace, console: Console) -> int:
    """Put new volumes on a frozen model."""
    from popclust.dataflow.assign import NewVolumes, assign, with_sources
    from popclust.dataflow.client import connect

    new = NewVolumes(arguments.new, arguments.workspace, arguments.masks, arguments.transforms)
    with connect(arguments.scheduler) as client:
        result = assign(arguments.model, new, client, console=console)
    if arguments.json:
        rows = with_sources(result) if arguments.show_sources else result.rows
        print_json(rows.to_dict("records"))
    else:
        plain_console(stderr=False).print(result.as_table())
        if arguments.show_sources:
            for row in with_sources(result).itertuples():
                _say(console, f"{row.volume_id}  {row.series_instance_uid}  {row.folder}")
    return QUARANTINED if result.n_quarantined else DONE


def export(arguments: argparse.Namespace, console: Console) -> int:
    """The study in other programs' formats."""
    from popclust.presentation.export.folder import UNASKED, export

    parts = {*(arguments.only or UNASKED), *(["dicom"] if arguments.dicom else [])}
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task("volumes", total=None)
        made = export(
            Study.open(arguments.study),
            arguments.out,
            parts,
            arguments.volume,
            lambda done, total: bars.update(bar, completed=done, total=total),
        )
    if arguments.json:
        print_json(vars(made))
    else:
        size = f"{made.n_files} files, {made.n_bytes / 1e6:.1f} MB"
        _say(console, f"{made.folder}: {', '.join(made.parts)}; {made.n_volumes} volumes, {size}")
    return DONE


def methods(arguments: argparse.Namespace, console: Console) -> int:
    """Text for a paper."""
    from popclust.presentation.methods import methods

    found = methods(Study.open(arguments.study))
    if arguments.json:
        print_json(found.as_dict())
    else:
        print(found.as_markdown(), end="")
    return DONE


def replicate(arguments: argparse.Namespace, console: Console) -> int:
    """Test a study's associations on a second population."""
    from popclust.dataflow.client import connect
    from popclust.dataflow.replicate import replicate

    with connect(arguments.scheduler) as client:
        found = replicate(
            Study.open(arguments.study), Study.open(arguments.other), arguments.workspace, client, console=console
        )
    if arguments.json:
        print_json(found.as_dict())
    else:
        plain_console(stderr=False).print(found.as_table())
        _say(console, found.sentence())
    return QUARANTINED if found.n_quarantined else DONE


def explore(arguments: argparse.Namespace, console: Console) -> int:
    """The interactive explorer."""
    from popclust.presentation.explorer import serve

    serve(Study.open(arguments.study), arguments.port)
    return DONE


def view(arguments: argparse.Namespace, console: Console) -> int:
    """One page about one volume."""
    from popclust.presentation.volume_page import volume_page

    page = volume_page(Study.open(arguments.study), arguments.volume)
    out = Path(arguments.out or f"{arguments.volume}.html")
    try:
        out.write_text(page, "utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); name another file with --out") from None
    console.print(f"{out}: {arguments.volume}", markup=False)
    return DONE


def compare(arguments: argparse.Namespace, console: Console) -> int:
    """What differs between two run cards."""
    from popclust.dataflow.runcard import differences, read_card

    rows = differences(read_card(arguments.a), read_card(arguments.b))
    if arguments.json:
        print_json([{"name": n, "a": a, "b": b} for n, a, b in rows])
    else:
        for name, a, b in rows:
            print(f"{name}: {a!r} -> {b!r}")
        if not rows:
            print("no difference but in time")
    return DONE


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)
