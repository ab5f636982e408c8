"""The whole flow on one page: which stage reads what. Wiring only."""

from __future__ import annotations

from collections.abc import Callable

from distributed import Client
from rich.console import Console

from popclust.dataflow import atlas_tasks, population_tasks, report_tasks, tables, volume_tasks
from popclust.dataflow.flow import Flow, Need
from popclust.dataflow.inputs import (
    atlas_files,
    find_series,
    given_transform,
    handed_in_mask,
    hash_atlas,
    hash_file,
    source_of_volumes,
)
from popclust.dataflow.learning import learn_words, pack_training
from popclust.dataflow.progress import Progress
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.runcard import RunCard
from popclust.dataflow.same_people import same_people
from popclust.dataflow.stages import STAGE_NAMES, stage_named
from popclust.errors import InputError
from popclust.population.vocabulary import VOCABULARIES
from popclust.presentation.figures import write_figures
from popclust.presentation.summary import write_summary
from popclust.study import Study


def ingest(flow: Flow) -> None:
    """Series -> volumes and the cohort."""
    if "ingest" in flow.active:
        needs = find_series(flow)
        done = flow.volumes("ingest", volume_tasks.ingest, needs)
        tables.gather_cohort(flow.study, list(done), same_people(flow, done))
    flow.parts["ingest"] = tables.included_volumes(flow.study)
    flow.card.records["ingest"] = tables.describe_cohort(flow.study)
    tables.print_cohort(flow.card.records["ingest"], flow.progress.line)


def atlas(flow: Flow) -> None:
    """The atlas and its templates, given or chosen from the cohort."""
    included = flow.parts["ingest"]
    files = atlas_files(flow.study)
    read = hash_atlas(files) if files else _of(included)
    flow.card.inputs["atlas"] = "files" if files else "chosen from the cohort"

    marker = stage_named("atlas").marker(flow.study.settings, read)

    def build() -> dict[str, object]:
        if files:
            offers = atlas_tasks.offered_files(flow.study, marker, files)
        else:
            shapes = flow.map("atlas", atlas_tasks.shape, atlas_tasks.candidates(flow.study, included))
            offers = atlas_tasks.offered_volumes(flow.study, marker, shapes)
        flow.study.remove("atlas")
        outcomes = flow.outcomes("atlas", atlas_tasks.check, {o.template_id: (offers[0], o) for o in offers[1:]})
        return dict(flow.once("atlas", atlas_tasks.assemble, offers[0], outcomes))

    record = flow.population("atlas", read, build)
    atlas_tasks.print_atlas(record, flow.progress.line)


def normalize(flow: Flow) -> None:
    """Volumes -> transforms to the atlas, lungs, quality; only accepted volumes go on."""
    marker = flow.marker("atlas")
    included = flow.parts["ingest"]
    is_given = flow.study.settings.normalize.transforms == "given"
    if is_given:
        flow.progress.line("[bold red]known transforms are given: nothing is registered[/]")
    find = given_transform if is_given else handed_in_mask
    if is_given or flow.study.settings.masks.folder:
        series = source_of_volumes(flow.study).set_index("volume_id")["series_instance_uid"]
        handed = {v: find(flow.study, series, v) for v in included}
        needs = {v: Need((read, marker, handed[v].digest), (marker, handed[v].path)) for v, read in included.items()}
        n_with = sum(bool(h.path) for h in handed.values())
        flow.progress.line(f"{n_with} of {len(handed)} volumes have a {'transform' if is_given else 'mask'} handed in")
    else:
        needs = {v: Need((read, marker), (marker,)) for v, read in included.items()}
    done = flow.volumes("normalize", volume_tasks.take_given if is_given else volume_tasks.normalize, needs)
    accepted = tables.gather_quality(flow.study, list(done))
    if not accepted:
        raise InputError("normalize: no volume was accepted; the reasons stand in quality.parquet")
    flow.parts["normalize"] = {v: m for v, m in done.items() if v in accepted}
    if len(accepted) < len(done):
        flow.progress.line(
            f"[yellow]{len(done) - len(accepted)} of {len(done)} volumes not accepted[/] (quality.parquet)"
        )


def extract(flow: Flow) -> None:
    """Volumes and lungs -> texture and shape features with atlas positions."""
    included = flow.parts["ingest"]
    needs = {v: Need((included[v], m)) for v, m in flow.parts["normalize"].items()}
    flow.parts["extract"] = flow.volumes("extract", volume_tasks.extract, needs)


def vocabulary(flow: Flow) -> None:
    """Training samples of all volumes -> three vocabularies."""
    extracted = flow.parts["extract"]

    def learn() -> dict[str, object]:
        rows = flow.once("vocabulary", pack_training, flow.study, list(extracted))
        words = {name: dict(learn_words(flow.study, name, flow.client)) for name in VOCABULARIES}
        return {"rows": dict(rows), "words": words}

    flow.population("vocabulary", _of(extracted), learn)


def encode(flow: Flow) -> None:
    """Features -> word counts."""
    marker = flow.marker("vocabulary")
    needs = {v: Need((m, marker), (marker,)) for v, m in flow.parts["extract"].items()}
    flow.parts["encode"] = flow.volumes("encode", volume_tasks.encode, needs)


def topics(flow: Flow) -> None:
    """Word counts -> topics."""
    encoded = flow.parts["encode"]

    def learn() -> dict[str, object]:
        tables.gather_word_counts(flow.study, list(encoded))
        return dict(flow.once("topics", population_tasks.learn_topics, flow.study))

    flow.population("topics", _of(encoded), learn)


def cluster(flow: Flow) -> None:
    """Descriptors -> groups, over K and seeds."""
    calls = population_tasks.groupings(flow.study, len(flow.parts["encode"]))

    def group() -> dict[str, object]:
        frames = flow.map("cluster", population_tasks.group, calls)
        return dict(tables.write_clusters(flow.study, list(frames.values())))

    flow.population("cluster", [flow.marker("topics")], group)


def terms(flow: Flow) -> None:
    """Reports -> terms of volumes."""
    read = report_tasks.report_inputs(flow.study)
    flow.card.inputs["terms"] = read[0] if read else "no reports"
    cohort = hash_file(flow.study, "cohort.parquet")

    def find() -> dict[str, object]:
        found = flow.map("terms", report_tasks.find_terms, report_tasks.report_batches(flow.study))
        return dict(report_tasks.gather_terms(flow.study, list(found.values())))

    record = flow.population("terms", [*read, cohort], find)
    report_tasks.print_terms(record, flow.progress.line)


def associate(flow: Flow) -> None:
    """Groups and terms -> significant associations, Q, the reported grouping, the frozen model."""
    has_reports = bool(flow.study.record("terms")["n_volumes_with_report"])
    chunks = population_tasks.permutation_chunks(flow.study)

    def test() -> dict[str, object]:
        if not has_reports:
            flow.progress.line("[yellow]no volume has a report: groups are formed, nothing is tested[/]")
            return dict(flow.once("associate", population_tasks.groups_without_reports, flow.study))
        nulls = list(flow.map("associate", population_tasks.null_of_criterion, chunks).values())
        return dict(flow.once("associate", population_tasks.run_tests, flow.study, nulls))

    flow.population("associate", [flow.marker("cluster"), flow.marker("terms")], test)


def summarize(flow: Flow) -> None:
    """Everything -> figures and one page."""
    study = flow.study
    tables = [
        hash_file(study, f"{t}.parquet") for t in ("cohort", "quality", "quarantine") if study.exists(f"{t}.parquet")
    ]
    card = flow.card.as_dict("ended", flow.progress.stages, flow.n_workers)

    def draw() -> dict[str, object]:
        return {"figures": write_figures(study), "page": write_summary(study, card).removeprefix(study.url)}

    flow.population("summarize", [flow.marker("associate"), *tables], draw)


STEPS: dict[str, Callable[[Flow], None]] = {
    "ingest": ingest,
    "atlas": atlas,
    "normalize": normalize,
    "extract": extract,
    "vocabulary": vocabulary,
    "encode": encode,
    "topics": topics,
    "cluster": cluster,
    "terms": terms,
    "associate": associate,
    "summarize": summarize,
}
"""In the order of :data:`popclust.dataflow.stages.STAGES`."""


def run(
    study: Study,
    client: Client | None,
    *,
    redo_from: str = "",
    until: str = "",
    only: str = "",
    console: Console | None = None,
) -> Flow:
    """Run the flow, or a part of it; what is done already is not done again.

    Parameters
    ----------
    study : Study
        The study.
    client : distributed.Client or None
        Where tasks run; None runs them in this process, one after the other.
    redo_from : str
        Do this stage and all after it again, done or not.
    until : str
        End after this stage.
    only : str
        Do this stage alone; those before it must be up to date.
    console : rich.console.Console
        Where bars and lines go; none by default.

    Returns
    -------
    Flow
        The finished run: its parts, card and quarantine.

    Raises
    ------
    InputError
        Bad input or settings, or nothing left to go on with.
    SurroundingsError
        Disk full or Dask cluster lost: run again to go on.
    """
    last = stage_named(until or only or STAGE_NAMES[-1]).name
    names = STAGE_NAMES[: STAGE_NAMES.index(last) + 1]
    if redo_from and stage_named(redo_from).name not in names:
        raise InputError(f"--from {redo_from} comes after --until {last}: there is nothing to do")
    card = RunCard(study)
    console = console or Console(quiet=True)
    progress = Progress(study, card.run_id, console, client.dashboard_link if client else "")
    with progress:
        for name in STAGE_NAMES[STAGE_NAMES.index(redo_from) :] if redo_from else ():
            study.remove("markers", name)
        flow = Flow(study, client, progress, card, Quarantine.open(study), frozenset([only] if only else names))
        state = "stopped"
        try:
            for name in names:
                STEPS[name](flow)
            state = "ended"
        finally:
            card.write(state, progress.stages, flow.n_workers if client is None or client.status == "running" else 0)
    return flow


def _of(parts: dict[str, str]) -> list[str]:
    """What a stage over the population reads: every volume's marker, with the volume it is of."""
    return [f"{volume_id} {marker}" for volume_id, marker in parts.items()]
