"""The command line: one command per stage, and a few around them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

import popclust
from popclust import commands
from popclust.dataflow.failure import exit_code, log_folder_of, plain_console
from popclust.dataflow.stages import ORDER
from popclust.errors import InputError

_Command = Callable[[str, Callable[[argparse.Namespace, Console], int], str], argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    console = plain_console()
    arguments = argparse.Namespace()

    def act() -> int:
        _parser().parse_args(words, arguments)
        logging.basicConfig(level=logging.INFO if arguments.verbose else logging.ERROR, format="%(message)s")
        return int(arguments.command(arguments, console))

    return exit_code(
        act, console, as_json="--json" in words, log_folder=lambda: log_folder_of(getattr(arguments, "study", ""))
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is an error like any other: one line, and one document with --json."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (`{self.prog} --help` says how it is called)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="popclust", description=(popclust.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=popclust.__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace, Console], int], text: str
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.add_argument("-v", "--verbose", action="store_true", help="log what happens, tracebacks included")
        sub.set_defaults(command=function)
        return sub

    for add in (_that_begin, _that_compute, _that_look_ahead_and_back, _that_tend, _that_go_beyond, _that_show):
        add(command)
    return parser


def _that_begin(command: _Command) -> None:
    """Add the commands with which a study begins."""
    demo = command("demo", commands.demo, "simulate a population with planted groups, run everything, print the scores")
    demo.add_argument("--out", default="popclust-demo", help="folder to write into (default: %(default)s)")
    demo.add_argument("--volumes", type=_positive, default=39, help="volumes to simulate (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the population (default: %(default)s)")
    _add_scheduler(demo)

    simulate = command("simulate", commands.simulate, "write a simulated population: series, reports, truth, atlas")
    simulate.add_argument("out", metavar="OUT", help="folder to write into")
    simulate.add_argument("--volumes", type=_positive, required=True, help="volumes to simulate")
    simulate.add_argument("--seed", type=int, default=0, help="seed of the population (default: %(default)s)")
    simulate.add_argument(
        "--templates", type=_positive, default=3, help="templates beside the atlas (default: %(default)s)"
    )
    simulate.add_argument("--format", choices=("dicom", "nifti"), default="dicom", help="default: %(default)s")
    _add_scheduler(simulate)

    init = command("init", commands.init, "write a commented study.toml into a new folder")
    init.add_argument("study", metavar="STUDY", help="folder or URL")
    init.add_argument("--source", action="append", default=[], help="folder with CT series; may be repeated")
    init.add_argument("--reports", default="", help="reports file")


def _that_compute(command: _Command) -> None:
    """Add the whole flow and each of its stages."""
    run = command("run", commands.run, "run the whole flow; what is done already is not done again")
    run.add_argument("study", metavar="STUDY")
    run.add_argument("--from", dest="redo_from", choices=ORDER, default="", help="do this stage and all after it again")
    run.add_argument("--until", choices=ORDER, default="", help="end after this stage")
    run.add_argument("--rescan", action="store_true", help="read the headers of all files again, changed or not")
    _add_scheduler(run)
    _add_json(run)
    for name in ORDER:
        stage = command(name, commands.stage, f"run the stage {name} alone; those before it must be up to date")
        stage.add_argument("study", metavar="STUDY")
        stage.set_defaults(stage=name)
        _add_scheduler(stage)
        _add_json(stage)
        if name == "terms":
            _add_audit(stage)


def _that_look_ahead_and_back(command: _Command) -> None:
    """Add what says what is done, what is left and what it costs."""
    plan = command("plan", commands.plan, "what a run would do and why; computes nothing")
    plan.add_argument("study", metavar="STUDY")
    _add_json(plan)

    status = command("status", commands.status, "how far the study is")
    status.add_argument("study", metavar="STUDY")
    status.add_argument(
        "--watch", action="store_true", help="keep showing it until the run at work, or the next one, ends"
    )
    _add_json(status)

    performance = command("performance", commands.performance, "where a run's time went: a page, from its events")
    performance.add_argument("study", metavar="STUDY")
    performance.add_argument("--run", default="", metavar="RUN_ID", help="default: the last one that left events")
    _add_json(performance)

    estimate = command("estimate", commands.estimate, "core-hours, memory, disk and time, from this study's own costs")
    estimate.add_argument("study", metavar="STUDY", help="one that has been run: a few dozen volumes are enough")
    estimate.add_argument("--volumes", type=_positive, required=True, help="volumes of the population to come")
    estimate.add_argument("--workers", type=_positive, required=True, help="worker processes, one core each")
    _add_json(estimate)


def _that_tend(command: _Command) -> None:
    """Add what changes a study's state by hand."""
    retry = command("retry", commands.retry, "take volumes out of quarantine; the next run tries them again")
    retry.add_argument("study", metavar="STUDY")
    retry.add_argument("--stage", choices=ORDER, default=None, help="only those kept out at this stage")

    verify = command("verify", commands.verify, "whether every part is there and as it was published")
    verify.add_argument("study", metavar="STUDY")
    verify.add_argument("--repair", action="store_true", help="withdraw what is damaged: the next run makes it anew")
    _add_json(verify)

    forget = command("forget", commands.forget, "a withdrawn consent: remove every trace of patients or volumes")
    forget.add_argument("study", metavar="STUDY")
    forget.add_argument("names", metavar="PATIENT_OR_VOLUME", nargs="+", help="pseudonyms, as in cohort.parquet")
    _add_json(forget)


def _that_go_beyond(command: _Command) -> None:
    """Add what takes a finished study to new patients."""
    assign = command("assign", commands.assign, "put new volumes on a frozen model")
    assign.add_argument("model", metavar="MODEL_OR_STUDY", help="a copy of a study's model/ folder, or the study")
    assign.add_argument("new", metavar="NEW", nargs="+", help="folders, files or URLs with series")
    assign.add_argument("--workspace", default="", metavar="DIR", help="default: MODEL_OR_STUDY.assigned, beside it")
    assign.add_argument("--masks", default="", metavar="DIR", help="lung masks of another tool, one per series")
    assign.add_argument("--transforms", default="", metavar="DIR", help="known transforms, if the model has such")
    assign.add_argument("--show-sources", action="store_true", help="also say which series each row is: identifying")
    _add_scheduler(assign)
    _add_json(assign)

    replicate = command("replicate", commands.replicate, "test a study's associations on a second population")
    replicate.add_argument("study", metavar="STUDY", help="a finished study: its frozen model and its associations")
    replicate.add_argument("other", metavar="OTHER", help="a study.toml with the other's series and reports (init)")
    replicate.add_argument("--workspace", default="", metavar="DIR", help="default: OTHER.replicated, beside it")
    _add_scheduler(replicate)
    _add_json(replicate)


def _that_show(command: _Command) -> None:
    """Add what shows a finished study, here or in other programs."""
    explore = command("explore", commands.explore, "open the interactive explorer on loopback")
    explore.add_argument("study", metavar="STUDY")
    explore.add_argument("--port", type=int, default=5006, help="default: %(default)s")

    view = command("view", commands.view, "one page about one volume: slices with masks, quality, topics, words, group")
    view.add_argument("study", metavar="STUDY")
    view.add_argument("volume", metavar="VOLUME", help="volume_id, as in cohort.parquet")
    view.add_argument("--out", default="", metavar="FILE", help="default: VOLUME.html here")

    export = command("export", commands.export, "write the study in other programs' formats, into a new folder")
    export.add_argument("study", metavar="STUDY", help="folder or URL")
    export.add_argument("out", metavar="OUT", help="local folder that does not exist yet")
    parts = ("tables", "anndata", "atlas", "masks", "transforms", "fields", "dicom")
    export.add_argument("--only", action="append", default=[], choices=parts, help="one part; may be repeated")
    export.add_argument("--dicom", action="store_true", help="also lungs as DICOM SEG and groups as SR")
    export.add_argument("--volume", action="append", default=[], metavar="ID", help="one volume; may be repeated")
    _add_json(export)

    methods = command("methods", commands.methods, "the paragraph and tables that a paper needs, as Markdown")
    methods.add_argument("study", metavar="STUDY")
    _add_json(methods)

    compare = command("compare", commands.compare, "what differs between two run cards")
    compare.add_argument("a", metavar="RUN_A", help="runs/<run_id>.json")
    compare.add_argument("b", metavar="RUN_B")
    _add_json(compare)


def _add_scheduler(parser: argparse.ArgumentParser) -> None:
    text = "Dask scheduler: tls://host:port, a scheduler file, or 'serial'; default: a local cluster"
    parser.add_argument("--scheduler", default="", metavar="ADDR", help=text)


def _add_audit(terms: argparse.ArgumentParser) -> None:
    text = "write a sheet of N mentions beside the key, for a radiologist to judge"
    terms.add_argument("--audit", type=_positive, default=0, metavar="N", help=text)
    terms.add_argument("--audited", action="store_true", help="what the judged sheet says of the extractor")
    terms.set_defaults(command=commands.terms)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output on stdout")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
