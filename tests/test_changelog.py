"""Whoever runs an old study again can read why parts are made anew."""

from __future__ import annotations

from pathlib import Path

from popclust.dataflow.stages import ORDER, stage_named

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"


def test_every_raised_stage_version_has_its_line():
    text = CHANGELOG.read_text()
    stages = [stage_named(name) for name in ORDER]
    missing = [
        f"{s.name} {s.version}"
        for s in stages
        if s.version > 1 and f"- stage {s.name} version {s.version}:" not in text
    ]
    assert missing == []
