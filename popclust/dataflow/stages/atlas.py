"""The atlas and its templates: from files that settings name, or chosen from the cohort once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from popclust.dataflow.inputs import AtlasFiles, atlas_files, landmarks_beside, mask_beside, organs_beside
from popclust.dataflow.isolation import run_isolated
from popclust.dataflow.stage import Known, Stage, Work
from popclust.dataflow.window import Outcome
from popclust.errors import InputError, VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.label_maps import read_lung_mask
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.normalization.atlas import (
    AtlasInput,
    CheckedTemplate,
    Template,
    assemble_atlas,
    check_names,
    check_template,
    refused_template,
)
from popclust.normalization.cohort_choice import LungShape, choose_from_cohort, lung_shape
from popclust.normalization.landmarks import read_landmarks
from popclust.normalization.preparation import Prepared, prepare
from popclust.parts import Made
from popclust.presentation.atlas_figure import templates_figure
from popclust.presentation.style import to_png
from popclust.study import Study

Outcomes = Callable[[Callable[..., Any], Mapping[str, tuple[Any, ...]]], list[Outcome]]
"""Runs a function for every key, in tasks of their own."""
_RECORD = "records/atlas/population.json"
_MAX_CANDIDATES = 500
"""Volumes looked at when the atlas is chosen from the cohort: the first by volume_id, which is as good as random."""


@dataclass(frozen=True)
class Offer:
    """A volume offered as the atlas or a template: names only, a worker reads what they stand for."""

    study: Study
    """The study it is for."""
    token: str
    """Of the atlas that is being built: what a process has read is of no use to the next one."""
    number: int
    """Which of the offered volumes; 0 is the atlas itself."""
    template_id: str
    """Its name in tables."""
    is_file: bool
    """Whether it is a file that settings name, or a volume of the study."""

    def read(self) -> AtlasInput:
        """Read it with what lies beside it."""
        if not self.is_file:
            path = self.study.path("volumes", f"{self.template_id}.ome.zarr")
            return AtlasInput(self.template_id, read_ome_zarr(path))
        files = atlas_files(self.study)
        if files is None:
            raise InputError(f"{self.study.url}/study.toml: [atlas] volume is no longer set")
        path = (files.volume, *files.templates)[self.number]
        return read_atlas_input(path, self.study.settings.masks.lung_labels)


def needs(known: Known) -> list[str]:
    """The files it is built from, or the volumes chosen before: who else comes or goes changes nothing."""
    files = atlas_files(known.study)
    if files is not None:
        return [known.digest(path) for path in files.all]
    included = known.passing("ingest")
    chosen = chosen_before(known.study)
    if chosen and all(v in included for v in chosen):
        return [f"{v} {included[v]}" for v in chosen]
    return ["to be chosen"]


def chosen_before(study: Study) -> list[str]:
    """Volumes that an earlier run chose, the atlas first; empty where none did or it is to be chosen anew."""
    return list(study.read_json(_RECORD).get("chosen", [])) if study.exists(_RECORD) else []


def build(work: Work) -> Made:
    """Check every template against the atlas, each in a task of its own, and put the atlas together."""
    study = work.study
    token = "\n".join(needs(work))
    files = atlas_files(study)
    offers = offered_files(study, token, files) if files else offered_volumes(study, token, _choose(work))
    n_wanted = len(offers) - 1 if files else study.settings.atlas.n_from_cohort
    outcomes = checked_until(n_wanted, offers, work.outcomes)
    chosen = [] if files else [offers[0].template_id, *(o.key for o in outcomes)]
    included = work.passing("ingest")
    record = {**work.once(assemble, offers[0], outcomes), "chosen": chosen, "n_wanted": n_wanted}
    return Made({**record, "from_files": bool(files)}, read=tuple(f"{v} {included[v]}" for v in chosen))


def checked_until(n_wanted: int, offers: Sequence[Offer], outcomes: Outcomes) -> list[Outcome]:
    """Check templates in their order, as many at once as are missing, until so many are used or none is left."""
    found: list[Outcome] = []
    while len(found) < len(offers) - 1:
        missing = n_wanted - sum(not o.error and o.value["used"] for o in found)
        if missing <= 0:
            break
        batch = offers[1 + len(found) :][:missing]
        found += outcomes(check, {o.template_id: (offers[0], o) for o in batch})
    return found


def _choose(work: Work) -> list[str]:
    """The atlas, templates, and as many more to take the place of templates that are refused."""
    included, before = work.passing("ingest"), chosen_before(work.study)
    n_wanted = work.study.settings.atlas.n_from_cohort
    is_alike = bool(before) and work.study.read_json(_RECORD).get("n_wanted") == n_wanted
    if is_alike and all(v in included for v in before):
        return before
    shapes = work.map(shape, candidates(work.study, included))
    return choose_from_cohort(shapes, 1 + 2 * n_wanted)


def candidates(study: Study, volume_ids: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Arguments of `shape` for the volumes among which the atlas is chosen: one per patient."""
    cohort = study.read_table("cohort").sort_values("volume_id")
    first = cohort[cohort["volume_id"].isin(list(volume_ids))].drop_duplicates("patient_id")["volume_id"]
    return {v: (study, v) for v in first.iloc[:_MAX_CANDIDATES]}


def shape(study: Study, volume_id: str) -> LungShape:
    """Shape of one volume's lungs."""
    return lung_shape(read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr")))


def offered_files(study: Study, token: str, files: AtlasFiles) -> list[Offer]:
    """The files that the atlas is built from, the atlas itself first.

    Raises
    ------
    InputError
        Two files share a name, or an approved name was not offered.
    """
    names = [_stem(path) for path in (files.volume, *files.templates)]
    check_names(names, study.settings.atlas)
    return [Offer(study, token, i, name, is_file=True) for i, name in enumerate(names)]


def offered_volumes(study: Study, token: str, chosen: Sequence[str]) -> list[Offer]:
    """The volumes of the cohort that the atlas is built from, the atlas itself first; raises as `offered_files`."""
    check_names(chosen, study.settings.atlas)
    return [Offer(study, token, i, volume_id, is_file=False) for i, volume_id in enumerate(chosen)]


def check(reference: Offer, offered: Offer) -> Mapping[str, Any]:
    """Register one template to the atlas, in the worker's child, and leave it in the study; its row of the table."""
    limits = offered.study.settings.normalize
    row = run_isolated(_check, reference, offered, timeout_s=limits.timeout_s, max_memory_mb=limits.max_memory_mb)
    return dict(row)


def assemble(reference: Offer, outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """Write the atlas with the templates that passed, its table and its pictures.

    A template whose task failed (a crash, a hang) is refused with that reason.
    """
    study, settings = reference.study, reference.study.settings.atlas
    url = study.path("atlas")
    checked = []
    for outcome in outcomes:
        if outcome.error:
            checked.append(refused_template(outcome.key, settings, outcome.error))
        else:
            is_there = study.exists("atlas", "templates", outcome.key)
            checked.append(CheckedTemplate(outcome.value, Template.load(url, outcome.key) if is_there else None))
    offered, prepared = _reference(reference)
    built = assemble_atlas(prepared, offered.landmarks, checked)
    study.remove("atlas")
    built.save(url)
    if built.registered:
        study.write_bytes(to_png(templates_figure(built)), "atlas", "templates.png")
    refused = [c.row for c in checked if not c.row["used"]]
    return {
        "templates": [t.template_id for t in built.atlas.templates],
        "refused": {str(row["template_id"]): [str(r) for r in row["reasons"]] for row in refused},
    }


def say(record: Mapping[str, Any], line: Callable[..., None]) -> None:
    """Say which templates there are."""
    source = "given" if record["from_files"] else "chosen from the cohort"
    line(f"atlas {source}, {len(record['templates'])} templates: {', '.join(record['templates'])}")
    for template_id, reasons in record["refused"].items():
        line(
            f"template {template_id} refused: {', '.join(reasons)}; look at atlas/templates.png, "
            "and name it in [atlas] approved to use it all the same",
            "yellow",
        )


def read_atlas_input(path: str, lung_labels: Sequence[int] = ()) -> AtlasInput:
    """A volume file with the masks and landmarks beside it; `lung_labels` as in [masks].

    Raises
    ------
    InputError
        A file cannot be read.
    """
    mask, organs, landmarks = mask_beside(path), organs_beside(path), landmarks_beside(path)
    try:
        return AtlasInput(
            template_id=_stem(path),
            volume=read_volume_file(path),
            lungs=None if mask is None else read_lung_mask(mask, lung_labels),
            organs=None if organs is None else read_volume_file(organs),
            landmarks=read_landmarks(landmarks) if landmarks else {},
        )
    except VolumeError as error:
        raise InputError(f"{path}: {error.message}") from None


def _check(reference: Offer, offered: Offer) -> Mapping[str, Any]:
    study, (atlas, prepared) = offered.study, _reference(reference)
    checked = check_template(prepared, atlas, offered.read(), study.settings.atlas, study.settings.normalize)
    if checked.template is not None:
        checked.template.save(study.path("atlas"))
    return checked.row


@lru_cache(maxsize=1)
def _reference(offer: Offer) -> tuple[AtlasInput, Prepared]:
    """The atlas volume, read and prepared once per process for as long as the token stays."""
    offered = offer.read()
    try:
        return offered, prepare(offered.volume, offer.study.settings.atlas.spacing_mm, offered.lungs)
    except VolumeError as error:
        raise InputError(f"atlas {offer.template_id}: {error.message}; name another volume in [atlas]") from None


def _stem(path: str) -> str:
    return path.rpartition("/")[2].split(".")[0]


STAGE = Stage(
    name="atlas",
    version=11,
    title="build the atlas",
    sections=("atlas", "masks", "normalize"),
    build_needs=needs,
    build=build,
    results=("atlas",),
    say=say,
)
