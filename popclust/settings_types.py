"""What the fields of :mod:`popclust.settings_sections` are declared with: types with range, unit, kind and rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta


class Kind(Enum):
    """What hangs on a setting."""

    RESULT = "result"
    """It shapes results: it belongs to the markers of the stages that read its section."""
    PLACE = "place"
    """Where input lies: what is there shapes results, the place does not. It may hold names, so it is never shown."""
    LIMIT = "limit"
    """When to give up, or how to compute: no result changes with it."""


PLACE, LIMIT = Kind.PLACE, Kind.LIMIT


@dataclass(frozen=True)
class Unit:
    """The unit of a setting's value."""

    name: str


@dataclass(frozen=True)
class Rule:
    """What a value must obey beyond its type and range."""

    says: str
    """Goes on after "text" or "a list of 2 numbers"."""
    holds: Callable[[Any], bool]


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


REGULAR_EXPRESSION = Rule("that is a regular expression", _compiles)
LOWER_FIRST = Rule("with the lower one first", lambda pair: pair[0] < pair[1])

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
CountOrNone = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=2**31 - 2)]  # what NumPy, scikit-learn and elastix (which gets seed + 1) all take
Millimetres = Annotated[float, Meta(gt=0), Unit("mm")]
Share = Annotated[float, Meta(ge=0, le=1)]
Level = Annotated[float, Meta(gt=0, lt=1)]
ErrorRate = Annotated[float, Meta(ge=0, lt=1)]
Correlation = Annotated[float, Meta(ge=-1, le=1)]
Weight = Annotated[float, Meta(ge=0)]
Prior = Annotated[float, Meta(gt=0)]

Descriptor = Literal["haralick", "sift", "concatenated", "lda"]
ReportSection = Literal["findings", "impression", "indication", "comparison", "technique", "recommendation"]
CohortColumn = Literal[
    "manufacturer",
    "model",
    "kernel",
    "slice_thickness_mm",
    "slice_distance_mm",
    "n_slices",
    "age_years",
    "sex",
    "acquired_on",
    "contrast",
]
PictureKind = Literal[
    "derived",
    "maximum_intensity",
    "minimum_intensity",
    "reformatted",
    "virtual_non_contrast",
    "secondary_capture",
    "burned_in",
    "text_in_border",
    "eight_bits",
    "lossy",
]
ChosenBy = Literal["prediction", "Q"]
Acquired = Literal["scanner", "kernel", "slice_thickness_mm", "noise_hu", "edge_mm", "contrast", "coverage"]
Personal = Literal["age_years", "sex"]
Technical = Literal[Acquired, "ncc", "lung_dice", Personal, "acquired_on"]
TECHNICAL: tuple[Technical, ...] = get_args(Acquired)
"""What a scanner or field of view may explain. Not ncc: disease itself lowers the correlation with the atlas."""
PERSONAL: tuple[Personal, ...] = get_args(Personal)
"""What lies in the patient and may drive groups and reports alike."""
