"""The settings of a study: study.toml read, checked and written, and what of it others may see.

Each setting is declared once, in :mod:`popclust.settings_sections` or :mod:`popclust.settings_learning`; everything
here follows from the declarations.
"""

from __future__ import annotations

import difflib
import inspect
import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from popclust.errors import InputError
from popclust.schema import FORMAT_VERSION
from popclust.settings_check import check
from popclust.settings_declared import ALL, SECTIONS, Declaration, field_docs
from popclust.settings_learning import (
    AssociateSettings,
    ClusterSettings,
    EncodeSettings,
    FreezeSettings,
    RepeatSettings,
    TermsSettings,
    TopicsSettings,
    VocabularySettings,
)
from popclust.settings_sections import (
    AtlasSettings,
    ComputeSettings,
    ExtractSettings,
    HaralickSettings,
    IngestSettings,
    MaskSettings,
    NormalizeSettings,
    Settings,
    SiftSettings,
    SummarizeSettings,
)
from popclust.settings_types import Kind

__all__ = [
    "ALL",
    "SECTIONS",
    "AssociateSettings",
    "AtlasSettings",
    "ClusterSettings",
    "ComputeSettings",
    "Declaration",
    "EncodeSettings",
    "ExtractSettings",
    "FreezeSettings",
    "HaralickSettings",
    "IngestSettings",
    "Kind",
    "MaskSettings",
    "NormalizeSettings",
    "RepeatSettings",
    "Settings",
    "SiftSettings",
    "SummarizeSettings",
    "TermsSettings",
    "TopicsSettings",
    "VocabularySettings",
    "changes",
    "check",
    "check_format",
    "decode",
    "field_docs",
    "from_dict",
    "loads",
    "printable",
    "reference",
    "shaping",
    "template",
    "to_dict",
]


def decode(data: bytes, where: str = "study.toml") -> str:
    """Text of a file of settings.

    Raises
    ------
    InputError
        Not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}: line {line} is not UTF-8; save the file in that encoding") from None


def check_format(text: str, where: str = "study.toml") -> None:
    """Refuse a study of another format.

    Raises
    ------
    InputError
        Of another format version than this popclust reads.
    """
    try:
        version = tomllib.loads(text).get("format_version")
    except tomllib.TOMLDecodeError:
        return  # `loads` says it better
    if version != FORMAT_VERSION:
        raise InputError(
            f"{where}: study format {version}, this popclust reads format {FORMAT_VERSION}; "
            "run it with the popclust that made it, or start a new study"
        )


def loads(text: str, where: str = "study.toml") -> Settings:
    """Read settings from TOML text.

    Raises
    ------
    InputError
        Not TOML, an unknown section or name (with the nearest known one), a value that is not what is wanted, or
        settings that contradict each other.
    """
    try:
        document = tomllib.loads(text.removeprefix("\ufeff"))  # some editors on Windows begin a file with it
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not valid TOML: {error}") from None
    document.pop("format_version", None)
    return from_dict(document, where)


def from_dict(document: Mapping[str, Any], where: str = "settings") -> Settings:
    """Build settings from nested dictionaries, as TOML or JSON gives them; raises as `loads` does."""
    _refuse_unknown(document, SECTIONS, where, "section")
    settings = Settings(**{name: _section(name, document.get(name, {}), where) for name in SECTIONS})
    check(settings, where)
    return settings


def to_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """Nested dictionaries, ready for JSON (tuples become lists)."""
    document: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for d in ALL:
        value = _value(settings, d)
        document[d.section][d.name] = list(value) if isinstance(value, tuple) else value
    return document


def shaping(settings: Settings, sections: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of these sections, the settings that shape results, ready for JSON: what markers hash."""
    values, shapes = to_dict(settings), {(d.section, d.name) for d in ALL if d.kind is Kind.RESULT}
    return {s: {name: v for name, v in values[s].items() if (s, name) in shapes} for s in sections}


def printable(settings: Settings) -> dict[str, dict[str, Any]]:
    """What a page or a run card may print: of a place only whether it is given, for it may hold names."""
    values = to_dict(settings)
    for d in ALL:
        if d.kind is Kind.PLACE:
            values[d.section][d.name] = "given" if values[d.section][d.name] else "not given"
    return values


def changes(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Any, Any]]:
    """What differs between two results of `shaping`, sorted by name.

    Returns
    -------
    list
        ``("haralick.n_levels", 16, 32)``: the full name, the value before and after; None where it was not there.
    """
    old, new = ({f"{s}.{name}": v for s, values in d.items() for name, v in values.items()} for d in (before, after))
    names = sorted(old.keys() | new.keys())
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def template(overrides: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Text of a study.toml in which every setting stands, commented; the overridden ones are set.

    Raises
    ------
    InputError
        Overrides that `loads` would refuse.
    """
    chosen = overrides or {}
    values = to_dict(from_dict(chosen, "study.toml"))
    lines = [
        "# Settings of a popclust study. What is commented out is the default.",
        f"format_version = {FORMAT_VERSION}",
    ]
    for section, cls in SECTIONS.items():
        lines += ["", f"# {inspect.getdoc(cls)}", f"[{section}]"]
        for d in (d for d in ALL if d.section == section):
            unit = f"{d.unit}: " if d.unit else ""
            sign = "" if d.name in chosen.get(section, {}) else "# "
            lines += [f"# {d.meaning} [{unit}{d.wanted}]", f"{sign}{d.name} = {_toml(values[section][d.name])}"]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """Text of docs/settings.md: every setting with default, unit, range and meaning."""
    lines = [
        "# Settings of a study",
        "",
        "Written from the declarations in `popclust/settings_sections.py` and `settings_learning.py`; `popclust init`",
        "writes a `study.toml` with all of it as comments. A *place* says where input lies: results depend on what is",
        "there, not on the place, and no page or run card shows it. A *limit* says when to give up or how to compute.",
        "All other settings shape results: changing one makes anew what depends on it.",
    ]
    for section, cls in SECTIONS.items():
        lines += ["", f"## [{section}]", "", str(inspect.getdoc(cls)), ""]
        lines += ["| name | default | unit | wanted | meaning |", "|---|---|---|---|---|"]
        for d in (d for d in ALL if d.section == section):
            kind = "" if d.kind is Kind.RESULT else f" *({d.kind.value})*"
            cells = (f"`{d.name}`{kind}", f"`{_toml(d.default)}`", d.unit, d.wanted, d.meaning)
            lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |")
    return "\n".join(lines) + "\n"


def _section(name: str, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: [{name}] must be a section, got {values!r}")
    declared = {d.name: d for d in ALL if d.section == name}
    _refuse_unknown(values, declared, f"{where} [{name}]", "setting")
    return SECTIONS[name](**{k: declared[k].read(v, where) for k, v in values.items()})


def _value(settings: Settings, declaration: Declaration) -> Any:
    return getattr(getattr(settings, declaration.section), declaration.name)


def _refuse_unknown(given: Iterable[str], known: Iterable[str], where: str, kind: str) -> None:
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{where}: unknown {kind} {name!r}; {hint}")


def _toml(value: Any) -> str:
    """A value as TOML: its numbers, lists and escapes are those of JSON, but for DEL."""
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"  # a regular expression stays readable
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
