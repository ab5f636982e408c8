"""What there is, what there should be, and why a part is to be made: the same eyes for a run and for a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from popclust import settings, storage
from popclust.dataflow.inputs import HandedIn
from popclust.dataflow.quarantine import Quarantine
from popclust.dataflow.stage import Stage
from popclust.dataflow.stages import stage_named
from popclust.errors import DamagedError
from popclust.imaging.series_table import SeriesTable
from popclust.parts import WHOLE, Done, Markers, marker_of, recipe_digest
from popclust.study import Study

DIGEST_LIMIT_BYTES = 64 * 2**20
"""Population parts up to this size are compared by digest at every run, larger ones by their size."""
_UNKNOWN = "not known before it is made"


@dataclass
class Due:
    """What a stage has to do for its volumes, or for the population."""

    stage: Stage
    """The stage."""
    recipe: str
    """Digest of its recipe."""
    wanted: dict[str, str] = field(default_factory=dict)
    """Marker that each part should have, by sorted volume_id."""
    todo: dict[str, str] = field(default_factory=dict)
    """Parts to make, each with the reason."""
    held: dict[str, str] = field(default_factory=dict)
    """Parts that failed on this very input before: they stay in quarantine."""
    lost: dict[str, str] = field(default_factory=dict)
    """Parts that are out of date and cannot be made now, each with the reason."""


@dataclass
class State:
    """The study as a run or a plan goes through its stages; a :class:`popclust.dataflow.stage.Known`."""

    study: Study
    quarantine: Quarantine
    handed_in: HandedIn
    series_table: SeriesTable | None = None
    _markers: dict[str, Markers] = field(default_factory=dict)
    _finished: dict[str, dict[str, str]] = field(default_factory=dict)
    _passing: dict[str, dict[str, str]] = field(default_factory=dict)
    _population: dict[str, Done] = field(default_factory=dict)
    _changed: dict[str, set[str]] = field(default_factory=dict)
    """Volumes whose part a stage makes anew in this run or plan, to say what follows from what."""

    # -- what stages ask -----------------------------------------------------------------------------------------

    @property
    def series(self) -> SeriesTable:
        """The series of the sources."""
        if self.series_table is None:
            raise RuntimeError("the sources have not been looked at yet")
        return self.series_table

    @property
    def key(self) -> bytes:
        """The key of the study's pseudonyms."""
        return self.handed_in.key

    def passing(self, stage: str) -> Mapping[str, str]:
        """Outputs of a stage's parts of the volumes that go on."""
        return self._passing[stage]

    def finished(self, stage: str) -> Mapping[str, str]:
        """Markers of a stage's finished parts, whether the volumes go on or not."""
        return self._finished[stage]

    def marker(self, stage: str) -> str:
        """Marker of what a stage made of the population."""
        return self._population[stage].marker

    def output(self, stage: str) -> str:
        """What later stages depend on of it."""
        return self._population[stage].output

    def digest(self, path: str) -> str:
        """Keyed digest of something that a person hands in."""
        return self.handed_in.digest(path)

    def take_over(self, stage: str, marker: str) -> None:
        """Something learnt elsewhere stands for what a stage would make of the population."""
        self._population[stage] = Done(marker, "", marker, True, "", 0)

    # -- what is due ---------------------------------------------------------------------------------------------

    def markers(self, stage: Stage) -> Markers:
        """The stage's marker files, read once."""
        if stage.name not in self._markers:
            self._markers[stage.name] = self.study.markers(stage.name)
        return self._markers[stage.name]

    def forget(self, stage: Stage) -> None:
        """Read a stage's marker files anew when they are asked for."""
        self._markers.pop(stage.name, None)

    def largest_first(self, due: Due) -> list[str]:
        """The volumes to do, those first that are the largest where they are read: a long one begun last is waited for.

        The order has no part in a result.
        """
        read = [stage_named(name) for name in due.stage.reads]
        done = [self.markers(stage).done for stage in read if stage.is_per_volume]
        sizes = {v: sum(d[v].n_bytes for d in done if v in d) for v in due.todo}
        return sorted(due.todo, key=lambda v: (-sizes[v], v))

    def survey(self, stage: Stage) -> Due:
        """Which volumes' parts a stage has to make, and why."""
        due = Due(stage, recipe_digest(stage.recipe(self.study.settings)))
        if stage.needs is None:
            return due
        needs = stage.needs(self)
        due.wanted = {v: marker_of(due.recipe, needs[v]) for v in sorted(needs)}
        done, missing = self.markers(stage).done, self._missing_files(stage)
        unmakeable = stage.unmakeable(self) if stage.unmakeable else {}
        for volume_id, marker in due.wanted.items():
            there = done.get(volume_id)
            if there and there.marker == marker and volume_id not in missing:
                continue
            if self.quarantine.holds(volume_id, stage.name, marker):
                due.held[volume_id] = marker
            elif volume_id in unmakeable:
                due.lost[volume_id] = unmakeable[volume_id]
            else:
                due.todo[volume_id] = self._reason(stage, volume_id, due.recipe, missing.get(volume_id, ""))
        self._changed[stage.name] = set(due.todo)
        return due

    def survey_population(self, stage: Stage) -> Due:
        """Whether a stage's part over the population is to be made, and why."""
        due = Due(stage, recipe_digest(stage.recipe(self.study.settings)))
        if stage.build_needs is None:
            return due
        n_changed = self.handed_in.n_changed
        marker = due.wanted[WHOLE] = marker_of(due.recipe, stage.build_needs(self))
        otherwise = "input changed" if self.handed_in.n_changed > n_changed else "other volumes"
        there = self.markers(stage).done.get(WHOLE)
        damage = self._damage(stage, there) if there and there.marker == marker else ""
        if there is None or there.marker != marker or damage:
            due.todo[WHOLE] = self._reason(stage, WHOLE, due.recipe, damage, otherwise)
            self._changed.setdefault(stage.name, set()).add(WHOLE)
        return due

    # -- what has come of it -------------------------------------------------------------------------------------

    def settle(self, due: Due, made: Mapping[str, Done]) -> None:
        """Take in what a run has made of a stage's volumes."""
        done = {**self.markers(due.stage).done, **made}
        self._markers[due.stage.name] = Markers(done, self.markers(due.stage).withdrawn)
        finished = {v: done[v] for v, m in due.wanted.items() if v in done and done[v].marker == m}
        self._finished[due.stage.name] = {v: d.marker for v, d in finished.items()}
        self._passing[due.stage.name] = {v: d.output for v, d in finished.items() if d.passes}

    def settle_population(self, stage: Stage, done: Done) -> None:
        """Take in what a run has made of the population."""
        self._population[stage.name] = done
        if stage.admitted is not None:
            admitted = set(stage.admitted(self.study))
            self._passing[stage.name] = {v: o for v, o in self._passing[stage.name].items() if v in admitted}

    def assume(self, due: Due) -> None:
        """Foresee what a stage would make of its volumes: they pass as they did, new ones do."""
        stage, done = due.stage, self.markers(due.stage).done
        by_settings = {v for v, why in due.todo.items() if why.startswith("setting ") and v in done}
        admitted = self._foresee_admitted(stage, bool(by_settings))
        finished = {v: m for v, m in due.wanted.items() if v not in due.held and v not in due.lost}
        passing = {}
        for volume_id, marker in finished.items():
            there = done.get(volume_id)
            if there and (volume_id in by_settings or volume_id not in due.todo):
                passes = there.passes if admitted is None else volume_id in admitted
                output = there.output if there.output != there.marker else marker
            else:
                passes, output = True, marker
            if passes:
                passing[volume_id] = output
        self._finished[stage.name] = finished
        self._passing[stage.name] = passing

    def _foresee_admitted(self, stage: Stage, has_new_rules: bool) -> set[str] | None:
        """Volumes known to be in the population; None where each volume's own part says it."""
        if stage.admitted is None or stage.foresee_admitted is None:
            return None
        done = self.markers(stage).done
        if WHOLE in done and not has_new_rules:
            return set(stage.admitted(self.study))
        return set(stage.foresee_admitted(self.study, [v for v in done if v != WHOLE]))

    def assume_population(self, due: Due) -> None:
        """Foresee what a stage would make of the population."""
        stage, there = due.stage, self.markers(due.stage).done.get(WHOLE)
        marker = due.wanted[WHOLE]
        output = marker
        if there and (not due.todo or self._keeps_content(stage, there)):
            output = there.output if there.output != there.marker else marker
        self._population[stage.name] = Done(marker, due.recipe, output, True, "", 0)

    def _keeps_content(self, stage: Stage, there: Done) -> bool:
        """Whether the population's part will hold the same as before: nobody came, went or has other input."""
        if stage.admitted is None or there.output == there.marker:
            return False
        done = self.markers(stage).done
        same = {v: done[v].output for v in stage.admitted(self.study) if v in done}
        return same == self._passing[stage.name]

    # -- why -----------------------------------------------------------------------------------------------------

    def _reason(self, stage: Stage, volume_id: str, recipe: str, missing: str, otherwise: str = "input changed") -> str:
        markers = self.markers(stage)
        if volume_id in markers.withdrawn:
            return f"damaged: {markers.withdrawn[volume_id]}"
        there = markers.done.get(volume_id)
        if there is None:
            return "new"
        if missing:
            return f"damaged: {missing}"
        if there.recipe != recipe:
            return self._what_changed(stage, there.recipe)
        for name in (*stage.reads, stage.name):
            changed = self._changed.get(name, set())
            if name != stage.name and (volume_id in changed or WHOLE in changed or (volume_id == WHOLE and changed)):
                return f"follows {name}"
        if volume_id == WHOLE and self._changed.get(stage.name):
            return f"follows {stage.name}"
        return otherwise

    def _what_changed(self, stage: Stage, recipe: str) -> str:
        before = self.study.read_recipe(recipe)
        if not before:
            return "recipe changed"
        if before["version"] != stage.version:
            return f"stage version raised from {before['version']} to {stage.version}"
        now = stage.recipe(self.study.settings)
        pairs = settings.changes(before["settings"], now["settings"])
        return "setting " + ", ".join(f"{name} changed from {a!r} to {b!r}" for name, a, b in pairs)

    def _missing_files(self, stage: Stage) -> dict[str, str]:
        """Volumes of which a file or folder of their finished part is gone; one listing per folder."""
        missing: dict[str, str] = {}
        for file in stage.files:
            folder, _, name = file.rpartition("/")
            there = set(storage.names(self.study.path(folder)))
            for volume_id, done in self.markers(stage).done.items():
                if volume_id != WHOLE and done.passes and name.format(volume_id=volume_id) not in there:
                    missing[volume_id] = f"{file.format(volume_id=volume_id)} is missing"
        return missing

    def _damage(self, stage: Stage, done: Done) -> str:
        """What is wrong with the population's part; empty where it is whole."""
        files = [*stage.results, f"records/{stage.name}/{WHOLE}.json"]
        n_bytes = storage.size_of(self.study.path(f) for f in files)
        if n_bytes == done.n_bytes and n_bytes > DIGEST_LIMIT_BYTES:
            return ""
        try:
            self.study.check_part(stage.name, WHOLE, stage.results)
        except DamagedError as error:
            return error.what
        return ""


def reasons(todo: Mapping[str, str]) -> dict[str, int]:
    """How many parts each reason accounts for, the most frequent first."""
    counts: dict[str, int] = {}
    for why in todo.values():
        counts[why] = counts.get(why, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
