"""Every setting as a declaration, read off the sections: what a value must be, said and checked in one place."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import msgspec

from popclust.errors import InputError
from popclust.settings_sections import Settings
from popclust.settings_types import Kind, Rule, Unit

_NOUNS = {
    bool: ("true or false", "true or false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
}


@dataclass(frozen=True)
class Declaration:
    """One setting of study.toml."""

    section: str
    name: str
    hint: Any
    """Its type, with all that is annotated."""
    default: Any
    meaning: str
    """The docstring under the field, on one line."""

    @property
    def full_name(self) -> str:
        """As ``haralick.n_levels``."""
        return f"{self.section}.{self.name}"

    @property
    def kind(self) -> Kind:
        """Whether it shapes results, is a place or a limit."""
        return next(_marks(self.hint, Kind), Kind.RESULT)

    @property
    def unit(self) -> str:
        """Unit of the value or of each of its values; empty without one."""
        return next((u.name for u in _marks(self.hint, Unit)), "")

    @property
    def wanted(self) -> str:
        """What a value must be, as ``an integer from 2 to 256``."""
        return _phrase(self.hint)

    def read(self, value: Any, where: str) -> Any:
        """The value as TOML or JSON gives it, in the field's type.

        Raises
        ------
        InputError
            It is not what is wanted.
        """
        try:
            found = msgspec.convert(value, self.hint)
            flaw = _flaw(found)
        except msgspec.ValidationError:
            flaw = self.wanted
        if not flaw and all(rule.holds(found) for rule in _marks(self.hint, Rule)):
            return found
        unit = f" ({self.unit})" if self.unit else ""
        raise InputError(
            f"{where} [{self.section}] {self.name}: must be {flaw or self.wanted}{unit}, got {_shown(value)}"
        )


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    docs: dict[str, str] = {}
    for before, after in itertools.pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[ast.unparse(before.target)] = " ".join(str(after.value.value).split())
    return docs


def _declared() -> Iterator[Declaration]:
    for section, cls in SECTIONS.items():
        hints, docs = typing.get_type_hints(cls, include_extras=True), field_docs(cls)
        for f in dataclasses.fields(cls):
            yield Declaration(section, f.name, hints[f.name], f.default, docs[f.name])


SECTIONS: dict[str, type] = typing.get_type_hints(Settings)
"""The dataclass of each section, in the order of study.toml."""
ALL: tuple[Declaration, ...] = tuple(_declared())
"""Every setting, in the order of study.toml."""


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations, and these."""
    return (hint.__origin__, hint.__metadata__) if typing.get_origin(hint) is Annotated else (hint, ())


def _marks(hint: Any, mark: type) -> Iterator[Any]:
    """Annotations of one sort on a type or on that of its items."""
    base, marks = _parts(hint)
    yield from (m for m in reversed(marks) if isinstance(m, mark))
    if typing.get_origin(base) is tuple:
        yield from _marks(typing.get_args(base)[0], mark)


def _phrase(hint: Any, *, many: bool = False) -> str:
    """A type in words."""
    base, marks = _parts(hint)
    metas = [m for m in marks if isinstance(m, msgspec.Meta)]
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin is Literal:
        noun = f"{'values' if many else 'one'} of {', '.join(map(repr, args))}"
    elif origin is tuple and args[-1] is Ellipsis:
        at_least = "one or more " if any(m.min_length for m in metas) else ""
        noun = f"a list of {at_least}{_phrase(args[0], many=True)}"
    elif origin is tuple:
        noun = f"a list of {len(args)} {_phrase(args[0], many=True)}"
    else:
        noun = ("non-empty " if any(m.min_length for m in metas) else "") + _NOUNS[base][many]
    says = [m.says for m in marks if isinstance(m, Rule)]
    return " ".join([noun, *filter(None, map(_range, metas)), *says])


def _range(meta: msgspec.Meta) -> str:
    """Limits in words, as ``from 2 to 256``.

    >>> _range(msgspec.Meta(ge=2, le=256)), _range(msgspec.Meta(gt=0, lt=1)), _range(msgspec.Meta(ge=1))
    ('from 2 to 256', 'above 0 and below 1', 'from 1 up')
    """
    low = f"from {meta.ge}" if meta.ge is not None else f"above {meta.gt}" if meta.gt is not None else ""
    high = f"to {meta.le}" if meta.le is not None else f"and below {meta.lt}" if meta.lt is not None else ""
    return f"{low} {high}".strip() if high or meta.ge is None else f"{low} up"


def _flaw(value: Any) -> str:
    """What a value must be instead that is of the right type and yet can be of no use; empty for a sound one."""
    if isinstance(value, tuple):
        repeats = len(set(value)) < len(value)
        return next(filter(None, map(_flaw, value)), "a list without repeats" if repeats else "")
    if isinstance(value, float):
        return "" if math.isfinite(value) else "finite"
    if isinstance(value, str):
        # neither a file name nor TOML can hold these
        return "text without NUL and halves of characters" if any(_is_lost(c) for c in value) else ""
    return ""


def _is_lost(character: str) -> bool:
    return character == "\0" or "\ud800" <= character <= "\udfff"


def _shown(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
