"""What a stage is: its declaration, what it may ask while it is planned, and what it may do while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import Client

from popclust import settings
from popclust.dataflow.window import Outcome
from popclust.imaging.series_table import SeriesTable
from popclust.parts import Made
from popclust.settings import Settings
from popclust.study import Study


class Known(Protocol):
    """What is known of the study when a stage says which parts should exist: in a run, or while one is planned."""

    @property
    def study(self) -> Study:
        """The study."""

    @property
    def key(self) -> bytes:
        """The key of the study's pseudonyms."""

    @property
    def series(self) -> SeriesTable:
        """The series of the sources, from the index beside the key."""

    def passing(self, stage: str) -> Mapping[str, str]:
        """Outputs of a stage's parts by sorted volume_id, of the volumes that go on to later stages."""

    def finished(self, stage: str) -> Mapping[str, str]:
        """Markers of a stage's finished parts by sorted volume_id, whether the volumes go on or not."""

    def marker(self, stage: str) -> str:
        """Marker of what a stage made of the population."""

    def output(self, stage: str) -> str:
        """What later stages depend on of what a stage made of the population."""

    def digest(self, path: str) -> str:
        """Keyed digest of a file or folder that a person hands in; read anew only where it has changed."""


class Work(Known, Protocol):
    """What a stage may do while it works."""

    @property
    def client(self) -> Client | None:
        """Where tasks run; None: in this process."""

    @property
    def rescan(self) -> bool:
        """Whether headers are read again, changed or not."""

    @property
    def run_card(self) -> Mapping[str, Any]:
        """The run card as far as it goes."""

    def line(self, text: str, style: str = "") -> None:
        """Say one line to a person."""

    def map(self, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Results of `function(*args)` by key, each a task on the cluster; a failure ends the run."""

    def once(self, function: Callable[..., Any], *args: Any) -> Any:
        """One call as a task on the cluster."""

    def outcomes(self, function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> list[Outcome]:
        """What came of each call, failures included, in the order of the calls."""


@dataclass(frozen=True)
class Stage:
    """One stage of the flow: a part for every volume, a part over the population, or both."""

    name: str
    """As on the command line."""
    version: int
    """Raised when the stage's results change for equal input and settings; CHANGELOG.md says why."""
    title: str
    """What it does, for the progress bar."""
    sections: tuple[str, ...] = ()
    """Sections of study.toml that shape its results."""
    reads: tuple[str, ...] = ()
    """Stages whose parts its tasks read."""

    needs: Callable[[Known], Mapping[str, Sequence[str]]] | None = None
    """The volumes that should have a part, each with the outputs that it is made from."""
    follows: str = ""
    """The stage from which a volume goes on to this one at once, while other volumes are still at that."""
    needs_after: Callable[[Known, str, str], Sequence[str]] | None = None
    """What its part of one volume is made from, given the output of the part of the stage that it follows."""
    unmakeable: Callable[[Known], Mapping[str, str]] | None = None
    """Volumes whose part cannot be made now, each with the reason: what is there of them stays."""
    task: Callable[[Study, str], Made] | None = None
    """Makes one volume's part."""
    files: tuple[str, ...] = ()
    """Files and folders of a volume's part, with ``{volume_id}``."""

    build_needs: Callable[[Known], Iterable[str]] | None = None
    """The outputs that the population's part is made from."""
    build: Callable[[Work], Made] | None = None
    """Makes the population's part."""
    results: tuple[str, ...] = ()
    """Files and folders of the population's part."""

    prepare: Callable[[Work], SeriesTable] | None = None
    """Looks at the sources before anything else is known; ingest's alone."""
    preview: Callable[[Known], SeriesTable] | None = None
    """The same without writing anything, for a plan."""
    last_seen: Callable[[Known], SeriesTable] | None = None
    """The same without looking, where another stage is run alone."""
    admitted: Callable[[Study], Iterable[str]] | None = None
    """Volumes that pass by the population's part, where that says more than each volume's own."""
    foresee_admitted: Callable[[Study, Iterable[str]], Iterable[str]] | None = None
    """Which volumes would be admitted under the present settings, from the records that they left; for a plan."""
    say: Callable[[Mapping[str, Any], Callable[..., None]], None] | None = None
    """Says to a person what the record of the population's part tells."""

    @property
    def is_per_volume(self) -> bool:
        """Whether volumes have parts of their own."""
        return self.needs is not None

    def recipe(self, chosen: Settings) -> dict[str, Any]:
        """What shapes the stage's results, beside what it reads."""
        shaping = settings.shaping(chosen, self.sections)
        return {"stage": self.name, "version": self.version, "settings": shaping}

    def files_of(self, volume_id: str) -> list[str]:
        """Files and folders of one volume's part."""
        return [f.format(volume_id=volume_id) for f in self.files]


def each(outputs: Mapping[str, str]) -> list[str]:
    """What a stage over the population reads of its volumes: every output, with the volume it is of."""
    return [f"{volume_id} {output}" for volume_id, output in outputs.items()]
