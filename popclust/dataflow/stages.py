"""The stages, what each depends on, and the markers that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from popclust.errors import InputError
from popclust.settings import Settings
from popclust.study import marker_of


@dataclass(frozen=True)
class Stage:
    """One stage of the flow."""

    name: str
    """As on the command line."""
    version: int
    """Raised when the stage's results change for equal input and settings."""
    sections: tuple[str, ...]
    """Sections of study.toml that it depends on."""
    title: str
    """What it does, for the progress bar."""
    per_volume: bool = False
    """One task per volume, or one step over the population."""
    ignores: tuple[str, ...] = ()
    """Settings (``section.name``) that say where input lies or when to give up: they change no result."""

    def marker(self, settings: Settings, read: Iterable[str]) -> str:
        """The marker that the stage's part should have."""
        return marker_of(self.name, self.version, self._settings(settings), read)

    def _settings(self, settings: Settings) -> Mapping[str, Any]:
        chosen = {}
        for section in self.sections:
            values = dataclasses.asdict(getattr(settings, section))
            chosen[section] = {k: v for k, v in values.items() if f"{section}.{k}" not in self.ignores}
        return chosen


_NORMALIZE = ("normalize.timeout_s", "normalize.max_memory_mb", "normalize.given_folder", "masks.folder")

STAGES = (
    Stage("ingest", 2, ("ingest",), "read series", True, ("ingest.sources", "ingest.key_file")),
    Stage(
        "atlas",
        4,
        ("atlas", "masks", "normalize"),
        "build the atlas",
        ignores=("atlas.volume", "atlas.templates", *_NORMALIZE),
    ),
    Stage(
        "normalize",
        4,
        ("masks", "normalize"),
        "register to the atlas",
        True,
        _NORMALIZE,
    ),
    Stage("extract", 1, ("haralick", "sift", "extract"), "sample texture and shape", True),
    Stage("vocabulary", 1, ("vocabulary",), "learn visual words"),
    Stage("encode", 1, (), "count visual words", True),
    Stage("topics", 1, ("encode", "topics"), "learn topics"),
    Stage("cluster", 1, ("cluster",), "group volumes"),
    Stage("terms", 1, ("terms",), "find report terms", ignores=("terms.reports", "terms.lexicon")),
    Stage("associate", 1, ("associate",), "test associations"),
    Stage("summarize", 1, ("summarize",), "draw figures and page"),
)
"""In the order in which they run; no stage reads a later one's output."""

STAGE_NAMES = tuple(s.name for s in STAGES)


def stage_named(name: str) -> Stage:
    """A stage by its name.

    Raises
    ------
    InputError
        There is none of that name.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise InputError(f"stage {name!r}: there is none; the stages are {', '.join(STAGE_NAMES)}")
