"""The chain again, from words to groups, over seeds and resamples of patients; what the runs agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from popclust.dataflow import repeating
from popclust.dataflow.stage import Stage, Work, each
from popclust.parts import Made
from popclust.population.vocabulary import VOCABULARIES


def build(work: Work) -> Made:
    """Learn words, count them, learn topics and groups, run by run; then groups that begin with what they agree on."""
    study = work.study
    n_runs = study.settings.repeat.n_runs
    if n_runs == 0:
        return Made({"n_runs": 0})
    n_volumes, step = len(repeating.volumes_of(study)), repeating.VOLUMES_OF_TASK
    work.once(repeating.prepare, study, n_runs)
    runs = range(n_runs)
    work.map(repeating.learn_run, {f"{r} {name}": (study, r, name) for r in runs for name in VOCABULARIES})
    starts = range(0, n_volumes, step)
    work.map(repeating.count_chunk, {f"{s:07}": (study, n_runs, s, min(n_volumes, s + step)) for s in starts})
    work.map(repeating.group_run, {f"{r}": (study, r) for r in runs})
    work.map(repeating.agree, {d: (study, d) for d in repeating.descriptors_of(study)})
    return Made(work.once(repeating.gather, study, n_runs))


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say where the chain was not learnt again."""
    if record["n_runs"] == 0:
        line("the chain is learnt once: how well its groups come back is known of the last step alone", "yellow")


STAGE = Stage(
    name="repeat",
    version=3,
    title="learn the chain again",
    sections=("repeat", "vocabulary", "encode", "topics", "cluster"),
    reads=("extract", "vocabulary", "topics", "cluster", "ingest", "duplicates"),
    build_needs=lambda known: [
        *each(known.passing("extract")),
        known.marker("cluster"),
        known.output("ingest"),
        known.output("duplicates"),
    ],
    build=build,
    results=("repeats.zarr", repeating.FOLDER),
    say=say,
)
