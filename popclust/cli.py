"""The command line: one command per stage, and a few around them."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live
from rich.markup import escape

import popclust
from popclust.errors import InputError, SurroundingsError
from popclust.study import Study

DONE, QUARANTINED, BAD_INPUT, STOPPED = 0, 1, 2, 3
"""Exit codes: all done; some volumes in quarantine; bad input or settings; stopped by the surroundings."""

_STAGES = (
    *("ingest", "atlas", "normalize", "extract", "vocabulary", "encode", "topics", "cluster", "terms", "associate"),
    "summarize",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.ERROR, format="%(message)s")
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _as_interrupt)  # a batch system asks to stop before it kills
    try:
        return int(arguments.command(arguments, console))
    except InputError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return BAD_INPUT
    except SurroundingsError as error:
        console.print(f"[bold red]stopped:[/] {escape(str(error))}; run again to go on", soft_wrap=True)
        return STOPPED
    except KeyboardInterrupt:
        console.print("[bold red]stopped:[/] interrupted; run again to go on")
        return STOPPED
    except OSError as error:
        from popclust.dataflow.window import is_disk_full

        if not is_disk_full(error):
            raise
        console.print("[bold red]stopped:[/] the disk is full; make room and run again to go on, nothing is lost")
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="popclust", description=popclust.__doc__)
    parser.add_argument("--version", action="version", version=popclust.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace, Console], int], text: str) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("-v", "--verbose", action="store_true", help="log what happens, tracebacks included")
        sub.set_defaults(command=function)
        return sub

    demo = command("demo", _demo, "simulate a population with planted groups, run everything, print the scores")
    demo.add_argument("--out", default="popclust-demo", help="folder to write into (default: %(default)s)")
    demo.add_argument("--volumes", type=_positive, default=72, help="volumes to simulate (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the population (default: %(default)s)")
    _add_scheduler(demo)

    simulate = command("simulate", _simulate, "write a simulated population: series, reports, truth, atlas")
    simulate.add_argument("out", metavar="OUT", help="folder to write into")
    simulate.add_argument("--volumes", type=_positive, required=True, help="volumes to simulate")
    simulate.add_argument("--seed", type=int, default=0, help="seed of the population (default: %(default)s)")
    simulate.add_argument(
        "--templates", type=_positive, default=3, help="templates beside the atlas (default: %(default)s)"
    )
    simulate.add_argument("--format", choices=("dicom", "nifti"), default="dicom", help="default: %(default)s")
    _add_scheduler(simulate)

    init = command("init", _init, "write a commented study.toml into a new folder")
    init.add_argument("study", metavar="STUDY", help="folder or URL")
    init.add_argument("--source", action="append", default=[], help="folder with CT series; may be repeated")
    init.add_argument("--reports", default="", help="reports file")

    run = command("run", _run, "run the whole flow; what is done already is not done again")
    run.add_argument("study", metavar="STUDY")
    run.add_argument(
        "--from", dest="redo_from", choices=_STAGES, default="", help="do this stage and all after it again"
    )
    run.add_argument("--until", choices=_STAGES, default="", help="end after this stage")
    _add_scheduler(run)
    _add_json(run)
    for name in _STAGES:
        stage = command(name, _stage, f"run the stage {name} alone; those before it must be up to date")
        stage.add_argument("study", metavar="STUDY")
        stage.set_defaults(stage=name)
        _add_scheduler(stage)
        _add_json(stage)

    status = command("status", _status, "how far the study is")
    status.add_argument("study", metavar="STUDY")
    status.add_argument("--watch", action="store_true", help="keep showing it until the run ends")
    _add_json(status)

    retry = command("retry", _retry, "take volumes out of quarantine; the next run tries them again")
    retry.add_argument("study", metavar="STUDY")
    retry.add_argument("--stage", choices=_STAGES, default=None, help="only those kept out at this stage")

    assign = command("assign", _assign, "put new volumes on the frozen model")
    assign.add_argument("study", metavar="STUDY")
    assign.add_argument("new", metavar="NEW", nargs="+", help="folders or files with series")
    _add_scheduler(assign)
    _add_json(assign)

    explore = command("explore", _explore, "open the interactive explorer on loopback")
    explore.add_argument("study", metavar="STUDY")
    explore.add_argument("--port", type=int, default=5006, help="default: %(default)s")

    compare = command("compare", _compare, "what differs between two run cards")
    compare.add_argument("a", metavar="RUN_A", help="runs/<run_id>.json")
    compare.add_argument("b", metavar="RUN_B")
    _add_json(compare)
    return parser


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    text = "Dask scheduler: tls://host:port, a scheduler file, or 'serial'; default: a local cluster"
    parser.add_argument("--scheduler", default="", metavar="ADDR", help=text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output on stdout")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _demo(arguments: argparse.Namespace, console: Console) -> int:
    from popclust.dataflow.demo import run_demo

    return (
        QUARANTINED
        if run_demo(arguments.out, arguments.volumes, arguments.seed, arguments.scheduler, console)
        else DONE
    )


def _simulate(arguments: argparse.Namespace, console: Console) -> int:
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


def _init(arguments: argparse.Namespace, console: Console) -> int:
    overrides: dict[str, dict[str, Any]] = {}
    if arguments.source:
        overrides["ingest"] = {"sources": arguments.source}
    if arguments.reports:
        overrides["terms"] = {"reports": arguments.reports}
    study = Study.create(arguments.study, overrides)
    console.print(f"{study.path('study.toml')} is written: look at it, then `popclust run {arguments.study}`")
    return DONE


def _run(arguments: argparse.Namespace, console: Console) -> int:
    return _flow(arguments, console, redo_from=arguments.redo_from, until=arguments.until)


def _stage(arguments: argparse.Namespace, console: Console) -> int:
    return _flow(arguments, console, only=arguments.stage)


def _flow(arguments: argparse.Namespace, console: Console, **part: str) -> int:
    from popclust.dataflow.client import connect
    from popclust.dataflow.pipeline import run

    study = Study.open(arguments.study)
    with connect(arguments.scheduler, study.settings.compute) as client:
        flow = run(study, client, console=console, **part)
    n_quarantined = len(flow.quarantine)
    if arguments.json:
        _print_json(flow.card.as_dict("ended", flow.progress.stages, 0))
    elif n_quarantined:
        console.print(f"[yellow]{n_quarantined} volumes are in quarantine[/]: {study.path('quarantine.parquet')}")
    return QUARANTINED if n_quarantined else DONE


def _status(arguments: argparse.Namespace, console: Console) -> int:
    from popclust.dataflow.progress import as_table, snapshot

    study = Study.open(arguments.study)
    state = snapshot(study)
    if arguments.watch and not arguments.json:
        with Live(as_table(state), console=Console(), auto_refresh=False) as live:
            while state["state"] in ("running", "new"):
                time.sleep(1)
                state = snapshot(study)
                live.update(as_table(state), refresh=True)
        return DONE
    while True:
        if arguments.json:
            _print_json(state)
        else:
            Console().print(as_table(state))
        if not (arguments.watch and state["state"] in ("running", "new")):
            return DONE
        time.sleep(1)
        state = snapshot(study)


def _retry(arguments: argparse.Namespace, console: Console) -> int:
    from popclust.dataflow.quarantine import Quarantine

    n = Quarantine.open(Study.open(arguments.study)).release(stage=arguments.stage)
    console.print(f"{n} taken out of quarantine; `popclust run {arguments.study}` tries them again")
    return DONE


def _assign(arguments: argparse.Namespace, console: Console) -> int:
    from popclust.dataflow.assign import assign
    from popclust.dataflow.client import connect

    study = Study.open(arguments.study)
    with connect(arguments.scheduler, study.settings.compute) as client:
        result = assign(study, client, arguments.new, console)
    if arguments.json:
        _print_json(result.rows.to_dict("records"))
    else:
        Console().print(result.as_table())
    return QUARANTINED if result.n_quarantined else DONE


def _explore(arguments: argparse.Namespace, console: Console) -> int:
    from popclust.presentation.explorer import serve

    serve(Study.open(arguments.study), arguments.port)
    return DONE


def _compare(arguments: argparse.Namespace, console: Console) -> int:
    from popclust.dataflow.runcard import differences, read_card

    rows = differences(read_card(arguments.a), read_card(arguments.b))
    if arguments.json:
        _print_json([{"name": n, "a": a, "b": b} for n, a, b in rows])
    else:
        for name, a, b in rows:
            print(f"{name}: {a!r} -> {b!r}")
        if not rows:
            print("no difference but in time")
    return DONE


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, sort_keys=True, default=str)
    print(flush=True)


def _as_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
