"""What a plan says is what the run then does."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from small_study import copy_study, made_by, make_study, set_setting

from popclust.dataflow import stages
from popclust.dataflow.flow import Flow
from popclust.dataflow.forget import forget
from popclust.dataflow.pipeline import run
from popclust.dataflow.plan import Plan, plan
from popclust.dataflow.stages import extract
from popclust.dataflow.verify import verify
from popclust.parts import WHOLE
from popclust.study import Study


@dataclasses.dataclass
class Case:
    """A finished study with sources of its own, to be changed."""

    study: Study
    people: Path

    def series(self, number: int) -> tuple[str, Path]:
        """An included volume and the folder of its images."""
        sources = pd.read_parquet(self.study.secret_path("sources.parquet")).set_index("volume_id")["folder"]
        cohort = self.study.read_table("cohort")
        volume_id = sorted(cohort.loc[cohort["included"], "volume_id"])[number]
        return volume_id, Path(sources[volume_id])


@pytest.fixture(scope="module")
def base(population: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A finished study whose population is its own."""
    folder = tmp_path_factory.mktemp("planned")
    shutil.copytree(population, folder / "people")
    study = make_study(folder / "study", folder / "people", summarize={"show_examples": False})
    run(study, None)
    return Case(study, folder / "people")


@pytest.fixture
def case(base: Case, tmp_path: Path) -> Iterator[Case]:
    """A copy of the study; its export lies where it lay, and is afterwards as it was."""
    kept = {path: path.read_bytes() for path in base.people.rglob("*") if path.is_file()}
    yield Case(copy_study(base.study, tmp_path / "study"), base.people)
    there = {path: path.read_bytes() for path in base.people.rglob("*") if path.is_file()}
    for path in {p for p, _ in there.items() ^ kept.items()}:
        if path in kept:
            path.write_bytes(kept[path])
        else:
            path.unlink()
    if there != kept:
        run(base.study, None)  # what was written anew is read anew


def setting(name: str, value: str) -> Callable[[Case], Case]:
    return lambda case: Case(set_setting(case.study, name, value), case.people)


def new_volume(case: Case) -> Case:
    """One comes that was kept back: here, one that comes back under another name."""
    _, folder = case.series(2)
    target = case.people / "DICOM" / "newcomer"
    target.mkdir()
    for path in sorted(folder.glob("*")):
        image = pydicom.dcmread(path)
        image.SeriesInstanceUID += ".1"
        image.SOPInstanceUID += ".1"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.RescaleIntercept = float(image.RescaleIntercept) + 1  # no second copy of the voxels
        image.save_as(target / path.name)
    return case


def newcomer_with_transform(case: Case) -> Case:
    case = new_volume(case)
    _, folder = case.series(2)
    uid = str(pydicom.dcmread(next(iter(folder.glob("*"))), stop_before_pixels=True).SeriesInstanceUID)
    transforms = case.people / "transforms"
    shutil.copy(transforms / f"{uid}.npz", transforms / f"{uid}.1.npz")
    return case


def withdrawn(case: Case) -> Case:
    forget(case.study, [case.series(3)[0]])
    return case


def mended(case: Case) -> Case:
    """The same number of bytes, another intercept, in every image."""
    for path in case.series(1)[1].glob("*"):
        image = pydicom.dcmread(path)
        image.RescaleIntercept = f"{int(image.RescaleIntercept) + 3:d}"
        image.save_as(path)
    return case


def another_report(case: Case) -> Case:
    path = case.people / "reports.csv"
    reports = pd.read_csv(path, dtype=str)
    reports.loc[0, "text"] = "Emphysema in both upper lobes."
    reports.to_csv(path, index=False)
    return case


def another_lexicon(case: Case) -> Case:
    path = case.people / "lexicon.csv"
    path.write_text("label,RID,parent\nroot,RID34785,\nemphysema,RID4799,RID34785\n")
    return Case(set_setting(case.study, "lexicon", f"'{path}'"), case.people)


def damaged(case: Case) -> Case:
    volume_id, _ = case.series(0)
    chunk = next(
        p for p in Path(case.study.path("features", f"{volume_id}.zarr", "haralick", "c")).rglob("*") if p.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[:-1])
    verify(case.study, repair=True)
    return case


def lost(case: Case) -> Case:
    volume_id, _ = case.series(0)
    shutil.rmtree(case.study.path("normalized", f"{volume_id}.zarr"))
    return case


def raised(case: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(extract, "STAGE", dataclasses.replace(extract.STAGE, version=extract.STAGE.version + 1))
    return case


CHANGES: dict[str, tuple[Callable[[Case], Case], str, str]] = {
    "ingest": (setting("min_slices", "100"), "ingest", "setting ingest.min_slices changed from 101 to 100"),
    "normalize": (setting("min_coverage", "0.14"), "normalize", "setting normalize.min_coverage"),
    "extract": (setting("n_levels", "12"), "extract", "setting haralick.n_levels changed from 16 to 12"),
    "vocabulary": (setting("n_passes", "2"), "vocabulary", "setting vocabulary.n_passes changed from 3 to 2"),
    "topics": (setting("doc_topic_prior", "0.1"), "topics", "setting topics.doc_topic_prior"),
    "cluster": (setting("n_clusters_max", "3"), "cluster", "setting cluster.n_clusters_max changed from 4 to 3"),
    "terms": (setting("count_uncertain", "true"), "terms", "setting terms.count_uncertain changed from False to True"),
    "associate": (setting("alpha", "0.1"), "associate", "setting associate.alpha changed from 0.05 to 0.1"),
    "new volume": (newcomer_with_transform, "ingest", "new"),
    "withdrawn volume": (withdrawn, "vocabulary", "new"),
    "mended volume": (mended, "ingest", "input changed"),
    "another report": (another_report, "terms", "input changed"),
    "another lexicon": (another_lexicon, "terms", "input changed"),
    "damaged part": (damaged, "extract", "damaged"),
    "lost part": (lost, "normalize", "damaged: normalized/"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_what_the_plan_says(case: Case, change: str):
    act, stage, why = CHANGES[change]
    case = act(case)
    foreseen = plan(case.study)
    assert _todo(foreseen) == made_by(run(case.study, None))
    reasons = {s.stage: set(s.todo.values()) for s in foreseen.stages}
    assert any(reason.startswith(why) for reason in reasons[stage]), reasons
    assert plan(case.study).n_todo == 0


def test_a_raised_version_is_foreseen(case: Case, monkeypatch: pytest.MonkeyPatch):
    case = raised(case, monkeypatch)
    foreseen = plan(case.study)
    (row,) = (s for s in foreseen.stages if s.stage == "extract")
    version = stages.stage_named("extract").version
    assert set(row.todo.values()) == {f"stage version raised from {version - 1} to {version}"}
    assert _todo(foreseen) == made_by(run(case.study, None))


def test_a_study_without_parts_is_planned_without_writing_anything(population: Path, tmp_path: Path):
    study = make_study(tmp_path / "s", population)
    before = sorted(tmp_path.rglob("*"))
    found = plan(study)
    assert {s.stage for s in found.stages if s.todo} >= {"ingest", "normalize", "extract", "associate", "freeze"}
    assert sorted(tmp_path.rglob("*")) == before


def test_an_estimate_follows_from_earlier_runs(finished: Flow, tmp_path: Path):
    study = set_setting(copy_study(finished.study, tmp_path / "s"), "n_levels", "12")
    (row,) = (s for s in plan(study).stages if s.stage == "extract")
    (before,) = (s for s in finished.progress.stages if s.name == "extract")
    assert row.seconds == pytest.approx(before.seconds, rel=0.2, abs=0.2)


def _todo(found: Plan) -> dict[str, set[str]]:
    return {s.stage: set(s.todo) for s in found.stages if s.todo}


def test_nothing_else_is_named_population(finished: Flow):
    assert WHOLE not in set(finished.study.read_table("cohort")["volume_id"])
