"""The terms that are looked for: RadLex classes, or the built-in findings of the chest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from popclust.errors import InputError
from popclust.reports.concepts import LANGUAGES, Concept, Name
from popclust.reports.package_tables import read_table
from popclust.reports.radlex import read_radlex
from popclust.reports.text import alternatives, fold_phrase
from popclust.settings import TermsSettings

NOTICE = (
    "RadLex labels and identifiers: Copyright (c) The Radiological Society of North America (RSNA), "
    "all rights reserved. "
    "Licensed under RadLex License Version 2.0. You may obtain a copy of the license at: "
    'http://www.rsna.org/radlexdownloads/. This work is distributed under the above noted license on an "AS IS" basis, '
    "WITHOUT WARRANTIES OF ANY KIND, either express or implied. Please refer to the License for the specific language "
    "governing permissions and limitations under the license."
)
"""RSNA's notice; it goes wherever RadLex labels go."""
ROOTS = TermsSettings().roots
"""RadLex's clinical findings and imaging observations; a file need not have both."""
_OWN = "pc:"
"""How the identifiers begin of findings that RadLex has no class for."""


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Concepts, in the order of their identifiers, and the phrases that hold a name but are no finding.

    Equal, and hashed, by content, so that it can be the key of the matchers kept in each process.
    """

    concepts: tuple[Concept, ...]
    """What is looked for."""
    decoys: tuple[Name, ...] = ()
    """Phrases that are no finding although they hold the name of one."""
    ancestors: Mapping[str, tuple[str, ...]] | None = None
    """Every class above a concept, nearest first, whether the lexicon looks for it or not."""
    has_composed: bool = False
    """Whether findings that are described, not named, are looked for (:mod:`popclust.reports.composition`)."""
    notice: str = NOTICE
    """The licence notice of the labels."""

    @property
    def term_ids(self) -> tuple[str, ...]:
        """Identifiers, in order."""
        return tuple(c.term_id for c in self.concepts)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Label of every identifier."""
        return {c.term_id: c.label for c in self.concepts}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Place of every identifier among the concepts."""
        return {c.term_id: i for i, c in enumerate(self.concepts)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the content."""
        return hashlib.sha256(repr((self.concepts, self.decoys, self.has_composed)).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lexicon) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def rolled_up(self, to: Sequence[str]) -> dict[str, str]:
        """The identifier that each concept counts as.

        Parameters
        ----------
        to : sequence of str
            Classes that stand for everything below them. A concept below several counts as the nearest.

        Returns
        -------
        dict of str to str
            Each concept's identifier and what it counts as: itself when it is below none of `to`.
        """
        wanted, above = set(to), self.ancestors or {}
        return {i: i if i in wanted else next((a for a in above.get(i, ()) if a in wanted), i) for i in self.term_ids}


def load_lexicon(path: str = "", roots: Sequence[str] = ROOTS, *, builtin_synonyms: bool = True) -> Lexicon:
    """Read a lexicon.

    Parameters
    ----------
    path : str
        RadLex as OWL (``.owl``, ``.rdf``, ``.xml``), BioPortal's or label,RID,parent[,language] CSV, also as ``.gz``;
        empty: the built-in findings of the chest.
    roots : sequence of str
        Only the classes below these, and these themselves, are looked for. Not applied to the built-in lexicon.
    builtin_synonyms : bool
        Whether the names of the built-in lexicon are added to the same classes of the file, and its own findings
        (`pc:`) join where a class above them is below the roots.

    Raises
    ------
    InputError
        The file cannot be read, has nothing at or below one of the roots, has a cycle, or holds dangerous XML.
    """
    if not path:
        return builtin_lexicon()
    classes = read_radlex(path)
    if builtin_synonyms:
        classes = _joined(classes, builtin_lexicon())
    missing = [r for r in roots if r not in classes and not any(r in c.parents for c in classes.values())]
    if missing and (tuple(roots) != ROOTS or len(missing) == len(roots)):
        raise InputError(f"lexicon: no class below {', '.join(missing)}; check the setting `roots` of [terms]")
    below = _below(classes, roots)
    if not below:
        raise InputError(f"lexicon: no class below {', '.join(roots)}; check the setting `roots` of [terms]")
    concepts = [_with_names(classes[i]) for i in sorted(below, key=_by_number)]
    decoys = builtin_lexicon().decoys if builtin_synonyms else ()
    return Lexicon(tuple(c for c in concepts if c.names), decoys, _ancestors(classes, sorted(below)), builtin_synonyms)


def _joined(classes: Mapping[str, Concept], builtin: Lexicon) -> dict[str, Concept]:
    """The classes of a file with the built-in names and classes above; findings that RadLex lacks join."""
    joined = dict(classes)
    for own in builtin.concepts:
        if theirs := classes.get(own.term_id):
            parents = tuple(dict.fromkeys((*theirs.parents, *own.parents)))
            joined[own.term_id] = replace(theirs, parents=parents, names=(*theirs.names, *own.names))
        elif own.term_id.startswith(_OWN):
            joined[own.term_id] = own
    return joined


@cache
def builtin_lexicon() -> Lexicon:
    """The built-in findings of the chest, in English and German."""
    concepts: dict[str, Concept] = {}
    decoys: list[Name] = []
    for row in read_table("lexicon_chest.csv"):
        names = _abbreviated(n for language in LANGUAGES for n in _expanded(row[language], language))
        if row["term_id"]:
            concepts[row["term_id"]] = Concept(row["term_id"], row["label"], (row["parent"],), names)
        else:
            decoys += names
    ordered = tuple(concepts[i] for i in sorted(concepts, key=_by_number))
    return Lexicon(ordered, tuple(decoys), _ancestors(concepts), has_composed=True)


def _expanded(names: str, language: str) -> Iterable[Name]:
    """The names of one cell: parted by semicolons, with alternatives in braces."""
    for name in names.split(";"):
        for text in alternatives(name):
            if text:
                yield Name(text, language)


def _with_names(concept: Concept) -> Concept:
    """A class with its abbreviations, without function words."""
    return replace(concept, names=tuple(n for n in _abbreviated(concept.names) if not is_function_word(n)))


def _abbreviated(names: Iterable[Name]) -> tuple[Name, ...]:
    """Names once each, followed by their common abbreviations."""
    known = dict.fromkeys(names)
    for name in tuple(known):
        known.update(dict.fromkeys(_abbreviations().get((name.language, fold_phrase(name.text)), ())))
    return tuple(known)


@cache
def _abbreviations() -> dict[tuple[str, str], tuple[Name, ...]]:
    """Abbreviations of each language and folded name."""
    found: dict[tuple[str, str], tuple[Name, ...]] = {}
    for row in read_table("abbreviations.csv"):
        key = row["language"], fold_phrase(row["expansion"])
        found[key] = (*found.get(key, ()), Name(row["abbreviation"], row["language"]))
    return found


def is_function_word(name: Name) -> bool:
    """Whether a name is a word that carries no finding (RadLex has classes such as `no` and `kein`)."""
    return len(name.text) < 2 or name.text.lower() in function_words(name.language)


@cache
def function_words(language: str) -> frozenset[str]:
    """Words that any text of a language is full of."""
    rows = [row for row in read_table("function_words.csv") if row["language"] == language]
    return frozenset(word for row in rows for word in row["words"].split())


def _below(classes: Mapping[str, Concept], roots: Sequence[str]) -> set[str]:
    """The roots and all classes below them."""
    children: dict[str, list[str]] = {}
    for concept in classes.values():
        for parent in concept.parents:
            children.setdefault(parent, []).append(concept.term_id)
    found, waiting = set(), [r for r in roots if r in classes or r in children]
    while waiting:
        term_id = waiting.pop()
        if term_id not in found:
            found.add(term_id)
            waiting += children.get(term_id, [])
    # A root that has children is a heading ("clinical finding"), one without is a finding.
    return {i for i in found if i in classes and not (i in roots and i in children)}


def _ancestors(classes: Mapping[str, Concept], of: Iterable[str] | None = None) -> dict[str, tuple[str, ...]]:
    """All classes above each class, nearest first."""
    _refuse_cycles(classes)
    found = {}
    for term_id in classes if of is None else of:
        above: dict[str, None] = {}
        level: Sequence[str] = classes[term_id].parents
        while level:
            new = [p for p in level if p and p not in above]
            above.update(dict.fromkeys(new))
            level = [q for p in new if p in classes for q in classes[p].parents]
        found[term_id] = tuple(above)
    return found


def _refuse_cycles(classes: Mapping[str, Concept]) -> None:
    """Take away classes whose parents are gone until none is left: what remains runs in a circle."""
    n_parents = {i: sum(p in classes for p in set(c.parents)) for i, c in classes.items()}
    children: dict[str, list[str]] = {}
    for i, c in classes.items():
        for p in set(c.parents):
            children.setdefault(p, []).append(i)
    free = [i for i, n in n_parents.items() if n == 0]
    n_freed = 0
    while free:
        n_freed += 1
        for child in children.get(free.pop(), []):
            n_parents[child] -= 1
            if n_parents[child] == 0:
                free.append(child)
    if n_freed < len(classes):
        circle = min((i for i, n in n_parents.items() if n > 0), key=_by_number)
        raise InputError(f"lexicon: {circle} lies above itself or below a class that does; mend the cycle in the file")


def _by_number(term_id: str) -> tuple[str, int, str]:
    """Order of identifiers: RID5 before RID34."""
    letters = term_id.rstrip("0123456789")
    digits = term_id[len(letters) :]
    return letters, int(digits) if digits else -1, term_id
