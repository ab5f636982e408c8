"""A finished study's associations on a second population: placed by the frozen model, tested by its own reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from distributed import Client
from rich.console import Console
from rich.table import Table

from popclust import storage
from popclust.dataflow.assign import pass_through
from popclust.dataflow.flow import Flow
from popclust.dataflow.frozen import STAGES, FrozenModel, open_model
from popclust.dataflow.stages.encode import counts_of
from popclust.errors import InputError
from popclust.evaluation.counting import ReportTerms, count_population
from popclust.evaluation.replication import REPLICATED, UNDERPOWERED
from popclust.evaluation.replication import replicate as test_again
from popclust.reported import Reported
from popclust.study import Study


@dataclass(frozen=True)
class Replicated:
    """What of a study holds in a second population."""

    rows: pd.DataFrame
    """The table `replication`: one row per association of the study."""
    n_volumes: int
    """Volumes of the second population that were placed."""
    n_units: int
    """Of these, units with a report."""
    n_unnamed_terms: int
    """Terms of the associations that none of its reports names."""
    languages: tuple[str, ...]
    """Of its reports."""
    n_quarantined: int
    """Its volumes that ended in quarantine."""
    workspace: str
    """Where its parts are."""

    def as_dict(self) -> dict[str, Any]:
        """For a machine."""
        rows = self.rows.astype(object).where(self.rows.notna(), None).to_dict("records")
        return {**{k: v for k, v in vars(self).items() if k != "rows"}, "associations": rows}

    def as_table(self) -> Table:
        """For the terminal."""
        table = Table("group", "term", "odds ratio", "there (95 % interval)", "p", "power", "outcome")
        for row in self.rows.itertuples():
            again = f"{row.odds_ratio_again:.2f} ({row.ci_low:.2f} to {row.ci_high:.2f})"
            values = (str(row.cluster), str(row.term), f"{row.odds_ratio:.2f}", again)
            table.add_row(*values, f"{row.p_value:.2g}", f"{row.power:.2f}", str(row.outcome))
        return table

    def sentence(self) -> str:
        """The result in a sentence."""
        n, outcomes = len(self.rows), Counter(self.rows["outcome"])
        text = (
            f"{outcomes[REPLICATED]} of {n} associations replicated, {outcomes[UNDERPOWERED]} underpowered, on "
            f"{self.n_units} units with a report ({', '.join(self.languages)}) of {self.n_volumes} volumes placed"
        )
        return text + (f"; {self.n_unnamed_terms} terms are in none of these reports" if self.n_unnamed_terms else "")


def replicate(
    study: Study, other: Study, workspace: str, client: Client | None, console: Console | None = None
) -> Replicated:
    """Place the second population by the study's frozen model, and test the study's associations there.

    Nothing is learnt, and neither study is written to: what is made lies in the workspace, with a key of its own, and
    so does the table `replication`.

    Parameters
    ----------
    study
        Finished, with reports.
    other
        Its study.toml says where series and reports of the second population lie, and how its reports are read.
    workspace
        Folder to work in; empty: beside `other`, named after it.
    client
        Where tasks run; None runs them in this process.
    console
        Where bars and lines go; none by default.

    Raises
    ------
    InputError
        The study has no frozen model or no associations; the other names no series or no reports; none of the
        associations' terms is in its reports.
    """
    reported, model = _of_study(study), open_model(study.url)
    work = _workspace(model, other, workspace)
    flow = pass_through(work, model, client, console or Console(quiet=True), (*STAGES, "terms"), True)
    found = _test(flow, model, reported, study, other)
    work.write_table("replication", found.rows)
    return found


def _of_study(study: Study) -> Reported:
    reported = study.reported
    if reported.Q is None:
        raise InputError(f"{study.url}: has no reports, so there is no association to replicate")
    if reported.associations.empty:
        raise InputError(f"{study.url}: no association is significant, so there is nothing to replicate")
    return reported


def _workspace(model: FrozenModel, other: Study, workspace: str) -> Study:
    """A study of the second population with the model's settings, but its own series, masks, transforms and reports."""
    settings, where = other.settings, f"{other.url}/study.toml"
    if not settings.ingest.sources:
        raise InputError(f"{where}: [ingest] sources: names no series of the second population")
    if not settings.terms.reports:
        raise InputError(f"{where}: [terms] reports: is empty, and without reports nothing can be replicated")
    if model.settings.normalize.transforms == "given" and not settings.normalize.given_folder:
        raise InputError(f"{where}: [normalize] given_folder: the model was made with known transforms, name theirs")
    url = storage.absolute(workspace or f"{other.url}.replicated")
    if not storage.is_local(url):
        raise InputError(
            f"{other.url}: name a local folder to work in (--workspace): keys do not belong in an object store"
        )

    def place(path: str) -> str:
        return storage.absolute(other.resolve(path)) if path else ""

    terms = replace(settings.terms, reports=place(settings.terms.reports), lexicon=place(settings.terms.lexicon))
    chosen = replace(
        model.settings,
        ingest=replace(model.settings.ingest, sources=tuple(place(s) for s in settings.ingest.sources)),
        normalize=replace(model.settings.normalize, given_folder=place(settings.normalize.given_folder)),
        masks=replace(model.settings.masks, folder=place(settings.masks.folder)),
        terms=terms,
        compute=settings.compute,
    )
    return Study(url, chosen, model_url=model.url, model_digest=model.digest)


def _test(flow: Flow, model: FrozenModel, reported: Reported, study: Study, other: Study) -> Replicated:
    work = flow.study
    records = work.records("encode", sorted(flow.finished("encode")))
    if not records:
        raise InputError(
            f"{other.url}: no volume of the second population could be placed; see {work.url}/quarantine.parquet"
        )
    counts = counts_of(records)
    n_clusters, volume_id = len(model.groups.centres), list(records)
    clusters = pd.DataFrame({"volume_id": volume_id, "descriptor": model.groups.descriptor, "seed": 0})
    clusters = clusters.assign(n_clusters=n_clusters, cluster=model.groups.assign(counts).nearest)
    terms = work.read_dataset("terms")
    present = pd.DataFrame(terms.has_term.values, index=terms.volume.values, columns=terms.term.values)
    cohort = work.read_table("cohort").set_index("volume_id")
    settings = replace(study.settings.associate, min_term_count=1)
    labels, has_report = pd.Series(terms.label.values, index=terms.term.values), pd.Series(True, index=present.index)
    population = count_population(
        clusters, ReportTerms(present, labels), has_report, cohort["patient_id"], settings, cohort["acquired_on"]
    )
    languages = tuple(sorted(set(work.read_table("reports")["language"])))
    unnamed = set(reported.associations["term_id"]) - set(population.term_id)
    if len(unnamed) == reported.associations["term_id"].nunique():
        raise InputError(
            f"{other.url}: none of the {len(unnamed)} terms of the associations is in its reports "
            f"({', '.join(languages)}): is [terms] lexicon, language or sections another than in {study.url}?"
        )
    rows = test_again(reported.associations, population, settings)
    n_quarantined = len({v for v, _ in flow.state.quarantine.rows})
    return Replicated(rows, len(records), population.n_units, len(unnamed), languages, n_quarantined, work.url)
