"""Annotated points: read from 3D Slicer's files or a table, and paired by name."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popclust.errors import InputError
from popclust.imaging.volume import Vector

Landmarks = Mapping[str, Vector]
"""Name -> position, zyx mm, LPS."""


@dataclass(frozen=True)
class SharedLandmarks:
    """Landmarks annotated in both of two volumes, sorted by name."""

    names: tuple[str, ...]
    first_mm: NDArray[np.float64]
    """(n, 3) zyx in the first volume."""
    second_mm: NDArray[np.float64]
    """(n, 3) zyx in the second volume."""


def shared(first: Landmarks, second: Landmarks) -> SharedLandmarks:
    """Pair landmarks by name."""
    names = tuple(sorted(set(first) & set(second)))
    a, b = (np.array([points[n] for n in names], dtype=np.float64).reshape(-1, 3) for points in (first, second))
    return SharedLandmarks(names, a, b)


def read_landmarks(path: str | Path) -> dict[str, Vector]:
    """Read a point file.

    Parameters
    ----------
    path : str or Path
        3D Slicer's ``.fcsv`` or ``.mrk.json`` / ``.json``, or a ``.csv`` with the columns label (or name), x, y, z
        (or x_mm, y_mm, z_mm) and optionally ``coordinate_system`` (LPS, which is also the default, or RAS).

    Raises
    ------
    InputError
        Another format, a missing column, a point without a number, or two points of one name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as a text file of landmarks") from None
    readers = {".fcsv": _from_fcsv, ".json": _from_slicer_json, ".csv": _from_csv}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: landmarks must be .fcsv, .json or .csv")
    try:
        rows = readers[path.suffix.lower()](text)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InputError(f"{path}: not a landmark file: every point needs a name and x, y, z in mm") from None
    names = [name for name, _ in rows]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"{path}: landmarks {repeated} occur more than once")
    return dict(rows)


def _from_fcsv(text: str) -> list[tuple[str, Vector]]:
    """Slicer's older format: comments name the coordinate system (0 or RAS, 1 or LPS) and the columns."""
    lines = text.splitlines()
    comments = [line.lstrip("# ").partition("=") for line in lines if line.startswith("#")]
    header = {key.strip(): value.strip() for key, _, value in comments}
    system = {"0": "RAS", "1": "LPS"}.get(header.get("CoordinateSystem", "RAS"), header.get("CoordinateSystem", "RAS"))
    columns = header.get("columns", "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc").split(",")
    rows = [dict(zip(columns, r, strict=False)) for r in csv.reader(line for line in lines if line and line[0] != "#")]
    return [(row.get("label") or row["id"], _position(row, system)) for row in rows]


def _from_slicer_json(text: str) -> list[tuple[str, Vector]]:
    document: Any = json.loads(text)
    rows = []
    for markup in document["markups"]:
        system = str(markup.get("coordinateSystem", "LPS"))
        for point in markup["controlPoints"]:
            x, y, z = point["position"]
            rows.append((str(point.get("label") or point["id"]), _position({"x": x, "y": y, "z": z}, system)))
    return rows


def _from_csv(text: str) -> list[tuple[str, Vector]]:
    rows = [
        {str(column).strip().removesuffix("_mm"): value for column, value in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]
    return [(row.get("label") or row["name"], _position(row, row.get("coordinate_system") or "LPS")) for row in rows]


def _position(row: Mapping[str, Any], system: str) -> Vector:
    """Position in zyx LPS of a point with x, y, z in LPS or RAS."""
    sign = {"LPS": 1.0, "RAS": -1.0}[system.upper()]
    x, y, z = (float(row[axis]) for axis in "xyz")
    if not np.isfinite([x, y, z]).all():
        raise ValueError("row: a position must be finite")
    return z, sign * y, sign * x
