"""RadLex from a file of the user's own: OWL (4.1 to 4.3), BioPortal's CSV, or label,RID,parent[,language] CSV.

RadLex itself is not part of popclust; https://radlex.org hands it out under its own licence.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast
from xml.parsers import expat

from popclust.errors import InputError
from popclust.reports.concepts import LANGUAGES, Concept, Name
from popclust.reports.encoding import encoding_of

_RID = re.compile(r"RID\d+\Z")
_OWN = re.compile(r"[A-Za-z][\w:.-]*\Z")
_NOT_TRANSLATED = " (EN)"
_CHUNK = 1 << 16
_MAX_ENTITY = 500
_MAX_ENTITIES = 100
_TRUE = frozenset({"true", "1", "yes"})


@dataclass
class _Class:
    """What has been read of one class; the same class may come in several parts."""

    names: dict[Name, None] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    parents: dict[str, None] = field(default_factory=dict)
    is_obsolete: bool = False


def read_radlex(path: str | Path) -> dict[str, Concept]:
    """All classes of a RadLex file that are not obsolete, by their identifiers.

    Parameters
    ----------
    path : str or Path
        ``.owl``, ``.rdf``, ``.xml`` or ``.csv``, each also as ``.gz``. The kind of a CSV is told from its first line.

    Returns
    -------
    dict of str to Concept
        The label is the English one; the names hold the labels and synonyms of both languages.

    Raises
    ------
    InputError
        The file cannot be read, is no RadLex, or holds entities that could be an attack.
    """
    path = Path(path)
    name = path.name.lower().removesuffix(".gz")
    try:
        with _open(path) as stream:
            if name.endswith(".csv"):
                encoding = encoding_of(iter(lambda: stream.read(_CHUNK), b""))
                stream.seek(0)
                with io.TextIOWrapper(stream, encoding, errors="replace", newline="") as lines:
                    classes = _read_csv(lines)
            elif name.endswith((".owl", ".rdf", ".xml")):
                classes = _OwlReader().read(stream)
            else:
                raise InputError("lexicon: wanted a file that ends in .owl, .rdf, .xml or .csv (or these with .gz)")
    except FileNotFoundError:
        raise InputError("lexicon: the file that the setting `lexicon` of [terms] names does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"lexicon: the file cannot be read ({type(error).__name__})") from None
    concepts = {i: concept for i, c in classes.items() if (concept := _concept(i, c)) is not None}
    if not concepts:
        raise InputError(
            "lexicon: no class with a RadLex identifier found; wanted OWL, BioPortal CSV or label,RID,parent"
        )
    return concepts


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb"))


def _concept(term_id: str, read: _Class) -> Concept | None:
    """A class as it was put together from its parts; None when it is obsolete or has no name."""
    english = [n.text for n in read.names if n.language == "en"]
    label = next((text for text in (*read.labels, *english) if not _RID.match(text)), None)
    label = label or next((n.text for n in read.names), None)
    if read.is_obsolete or label is None:
        return None
    return Concept(term_id, label, tuple(p for p in read.parents if p != term_id), tuple(read.names))


def _add_name(into: _Class, text: str, language: str) -> None:
    """A name, unless it is an identifier or an English name that waits for its translation."""
    text = " ".join(text.split())
    if text and language in LANGUAGES and not _RID.match(text) and not text.endswith(_NOT_TRANSLATED):
        into.names.setdefault(Name(text, language))


def _identifier(iri: str) -> str:
    """The identifier at the end of ``http://www.radlex.org/RID/#RID1``, ``http://radlex.org/RID/RID1`` or ``RID1``."""
    last = re.split(r"[/#]", iri.strip())[-1]
    return last if _RID.match(last) else ""


class _OwlReader:
    """Reads RDF/XML as a stream of elements; memory grows with the classes only, not with the file.

    RadLex gives a class in several elements (``owl:Class``, then ``rdf:Description``) and, between its versions, in two
    namespaces: everything about one RID is merged.
    """

    def __init__(self) -> None:
        self.classes: dict[str, _Class] = {}
        self._current: _Class | None = None
        self._depth = self._class_depth = 0
        self._tag = ""
        self._language: str | None = None
        self._text: list[str] = []
        self._n_entities = 0

    def read(self, stream: BinaryIO) -> dict[str, _Class]:
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._entity
        parser.ExternalEntityRefHandler = self._external
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        try:
            while chunk := stream.read(_CHUNK):
                parser.Parse(chunk, False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise InputError(f"lexicon: the XML is broken at line {error.lineno}: {reason}; load it again") from None
        return self.classes

    def _entity(
        self, name: str, is_parameter: bool, value: str | None, base: str | None, system_id: str | None, *_: object
    ) -> None:
        """Let the plain abbreviations of namespaces pass that ontology editors write, and nothing else."""
        self._n_entities += 1
        is_plain = value is not None and not is_parameter and system_id is None
        if not is_plain or "&" in str(value) or "%" in str(value) or len(str(value)) > _MAX_ENTITY:
            raise InputError("lexicon: the XML declares external or nested entities, which is refused as an attack")
        if self._n_entities > _MAX_ENTITIES:
            raise InputError("lexicon: the XML declares too many entities, which is refused as an attack")

    def _external(self, *_: object) -> int:
        raise InputError("lexicon: the XML refers to an external entity, which is refused as an attack")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._current is None:
            about = attributes.get(_RDF + "about") or attributes.get(_RDF + "ID") or ""
            term_id = _identifier(about)
            if term_id:
                self._current, self._class_depth = self.classes.setdefault(term_id, _Class()), self._depth
        elif self._depth == self._class_depth + 1:
            self._tag, self._text = tag.rpartition(" ")[2].rpartition("}")[2], []
            self._language = attributes.get(_XML_LANGUAGE)
            if self._tag in _PARENT_TAGS:
                parent = _identifier(attributes.get(_RDF + "resource", ""))
                if parent:
                    self._current.parents.setdefault(parent)

    def _characters(self, text: str) -> None:
        if self._current is not None and self._depth == self._class_depth + 1:
            self._text.append(text)

    def _end(self, _: str) -> None:
        if self._current is not None:
            if self._depth == self._class_depth + 1:
                self._property("".join(self._text).strip())
            elif self._depth == self._class_depth:
                self._current = None
        self._depth -= 1

    def _property(self, value: str) -> None:
        current, tag = cast(_Class, self._current), self._tag
        if tag in _OBSOLETE_TAGS:
            current.is_obsolete |= value.lower() in _TRUE or tag == "Preferred_Name_for_Obsolete"
        elif value and tag in _NAME_TAGS:
            language = (self._language or _NAME_TAGS[tag]).lower()[:2]
            if tag in _LABEL_TAGS and language == "en":
                current.labels.append(" ".join(value.split()))
            _add_name(current, value, language)
        elif tag == "Is_A" and (parent := _identifier(value)):
            current.parents.setdefault(parent)


_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_XML_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_PARENT_TAGS = frozenset({"subClassOf", "Is_A"})
_LABEL_TAGS = frozenset({"label", "prefLabel", "Preferred_name"})
_NAME_TAGS = {
    "label": "en",
    "prefLabel": "en",
    "altLabel": "en",
    "Preferred_name": "en",
    "Synonym": "en",
    "Preferred_name_German": "de",
    "Synonym_German": "de",
    "Acronym": "en",
}
_OBSOLETE_TAGS = frozenset({"deprecated", "Obsolete", "Preferred_Name_for_Obsolete"})


def _read_csv(stream: Iterable[str]) -> dict[str, _Class]:
    """BioPortal's export, told by its header, or rows of label, identifier, parent and, if given, language."""
    rows = csv.reader(stream)
    classes: dict[str, _Class] = {}
    try:
        first = next(rows, [])
        is_bioportal = "Class ID" in [c.strip() for c in first]
        add = _bioportal_row(first) if is_bioportal else _plain_row
        for row in rows if is_bioportal else _chain(first, rows):
            add(row, classes)
    except csv.Error:
        raise InputError("lexicon: the CSV cannot be read; wanted BioPortal's export or label,RID,parent") from None
    return classes


def _chain(first: list[str], rows: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rows


def _plain_row(row: list[str], classes: dict[str, _Class]) -> None:
    """Add one row of label, identifier, parent, language; the same identifier in several rows is merged."""
    if len(row) < 2 or not (_RID.match(row[1].strip()) or (_OWN.match(row[1].strip()) and ":" in row[1])):
        return
    into = classes.setdefault(row[1].strip(), _Class())
    language = row[3].strip().lower()[:2] if len(row) > 3 and row[3].strip() else "en"
    if language == "en":
        into.labels.append(" ".join(row[0].split()))
    _add_name(into, row[0], language)
    if len(row) > 2 and row[2].strip():
        into.parents.setdefault(row[2].strip())


def _bioportal_row(header: list[str]) -> Callable[[list[str], dict[str, _Class]], None]:
    columns = {name.strip().rsplit("/", 1)[-1]: i for i, name in enumerate(header)}

    def cell(row: list[str], column: str) -> str:
        i = columns.get(column, len(row))
        return row[i] if i < len(row) else ""

    def add(row: list[str], classes: dict[str, _Class]) -> None:
        term_id = _identifier(cell(row, "Class ID"))
        if not term_id:
            return
        into = classes.setdefault(term_id, _Class())
        into.is_obsolete |= cell(row, "Obsolete").strip().lower() in _TRUE
        into.labels.append(" ".join(cell(row, "Preferred Label").split()))
        for column, language in _BIOPORTAL_NAMES.items():
            for text in cell(row, column).split("|"):
                _add_name(into, text, _guessed(text) if column == "Synonyms" else language)
        for parent in cell(row, "Parents").split("|"):
            if _identifier(parent):
                into.parents.setdefault(_identifier(parent))

    return add


_BIOPORTAL_NAMES = {
    "Preferred Label": "en",
    "Preferred_name": "en",
    "Synonyms": "",
    "Synonym": "en",
    "Preferred_name_German": "de",
    "Synonym_German": "de",
}
_GERMAN = re.compile(
    r"[äöüÄÖÜß]|ung\b|heit\b|keit\b|\b(?:der|die|das|des|und|mit|im|am|von|bei)\b|\w+(?:knochen|krankheit|entzündung)\b"
)


def _guessed(text: str) -> str:
    """The language of a synonym: BioPortal mixes them without a tag."""
    words = text.split()
    return "de" if _GERMAN.search(text) or any(w[:1].isupper() and w[1:].islower() for w in words[1:]) else "en"
