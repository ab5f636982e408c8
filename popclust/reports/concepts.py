"""What a lexicon is made of: classes with their names in several languages."""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = ("en", "de")
"""Languages that reports and names may have."""


@dataclass(frozen=True)
class Name:
    """One way to write a concept."""

    text: str
    """The name; ``~`` before it marks a possible head of German compounds, ``=`` one that is not inflected."""
    language: str
    """``"en"`` or ``"de"``."""


@dataclass(frozen=True)
class Concept:
    """One class of the lexicon."""

    term_id: str
    """RadLex identifier, or one of this project's own (``pc:``)."""
    label: str
    """English label."""
    parents: tuple[str, ...]
    """Identifiers of the classes above."""
    names: tuple[Name, ...]
    """Label and synonyms."""
