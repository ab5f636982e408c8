"""Everything stored, declared once: tables and their columns, stores and their arrays, other files.

`schema_tables` and `schema_stores` hold the declarations. What is written is checked against them and described by
them, so a name or type that other people's scripts rely on cannot drift unnoticed. `python -m popclust.schema` prints
the page docs/outputs.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
import zarr
from numpy.typing import NDArray

from popclust import schema_stores, schema_tables

FORMAT_VERSION = 2
"""Version of the study folder. A folder of another version is refused, never guessed at."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: str
    """'string', 'bool', 'int64', 'Int64' and 'boolean' (may be missing), 'float64', 'list[float64]', 'list[string]'."""
    unit: str
    """Empty for none."""
    doc: str

    @property
    def is_list(self) -> bool:
        """Whether a value is a list."""
        return self.dtype.startswith("list[")

    @property
    def arrow(self) -> pa.DataType:
        """Type of the column in a parquet file."""
        element = self.dtype.removeprefix("list[").removesuffix("]")
        return pa.list_(_ARROW[element]) if self.is_list else _ARROW[element]


@dataclass(frozen=True)
class Array:
    """One array of a store."""

    name: str
    dtype: str
    """A numpy dtype, or 'string'."""
    dims: tuple[str, ...]
    unit: str
    """Empty for none."""
    doc: str

    @property
    def attrs(self) -> dict[str, str]:
        """Meaning and unit, under the names that xarray labels its plots with."""
        return {"long_name": self.doc} | ({"units": self.unit} if self.unit else {})

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(self.dims)})"


@dataclass(frozen=True)
class Table:
    """A parquet file."""

    doc: str
    """What a row is."""
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Store:
    """A zarr group."""

    path: str
    """Where it lies, where <...> stands for any name."""
    doc: str
    arrays: Mapping[str, Array]
    attrs: Mapping[str, str]
    """Meaning of the group's attributes."""


_ARROW = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
}


def _table(text: str) -> Table:
    doc, *lines = (line.strip() for line in text.splitlines() if line.strip())
    rows = (line.split(maxsplit=3) for line in lines)
    return Table(doc, tuple(Column(name, dtype, unit.strip("-"), meaning) for name, dtype, unit, meaning in rows))


def _store(text: str) -> Store:
    path, doc, *lines = (line.strip() for line in text.splitlines() if line.strip())
    rows = (line.split(maxsplit=4) for line in lines if not line.startswith("@"))
    arrays = {
        name: Array(name, dtype, tuple(dims.split(",")), unit.strip("-"), meaning)
        for name, dtype, dims, unit, meaning in rows
    }
    attrs = dict(line[1:].split(maxsplit=1) for line in lines if line.startswith("@"))
    return Store(path, doc, arrays, attrs)


DECLARED_TABLES: Mapping[str, Table] = {name: _table(text) for name, text in schema_tables.TABLES.items()}
"""By name; a table lies at its name with .parquet."""
TABLES: Mapping[str, tuple[Column, ...]] = {name: table.columns for name, table in DECLARED_TABLES.items()}
"""The columns of each table."""
STORES: Mapping[str, Store] = {name: _store(text) for name, text in schema_stores.STORES.items()}
"""By name."""
FILES: Mapping[str, str] = schema_stores.FILES
"""Meaning of the other files by their path."""


# -- tables ------------------------------------------------------------------------------------------------------


def names(table: str) -> list[str]:
    """Names of a table's columns, in their order.

    >>> names("duplicates")
    ['volume_a', 'volume_b', 'n_votes', 'n_matches', 'n_inliers']
    """
    return [column.name for column in TABLES[table]]


def empty_table(name: str) -> pd.DataFrame:
    """A declared table without rows."""
    return conform_table(name, pd.DataFrame({column: [] for column in names(name)}, dtype=object))


def conform_table(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the declared columns in their order and types; other columns are left out.

    Raises
    ------
    ValueError
        A declared column is missing, or holds what its type cannot.
    """
    if missing := [column for column in names(name) if column not in frame.columns]:
        raise ValueError(f"table {name!r}: columns {missing} are missing, got {list(frame.columns)}")
    rows = frame.reset_index(drop=True)
    return pd.DataFrame({c.name: _conformed(name, c, rows[c.name]) for c in TABLES[name]}, index=rows.index)


def arrow_schema(name: str) -> pa.Schema:
    """Types of a table's parquet file; each field carries its column's meaning and unit."""
    fields = [
        pa.field(c.name, c.arrow, metadata={"meaning": c.doc} | ({"unit": c.unit} if c.unit else {}))
        for c in TABLES[name]
    ]
    return pa.schema(fields)


def to_arrow(name: str, frame: pd.DataFrame) -> pa.Table:
    """A declared table as its parquet file holds it. Raises as `conform_table`."""
    return pa.Table.from_pandas(conform_table(name, frame), schema=arrow_schema(name), preserve_index=False)


def encode_table(name: str, frame: pd.DataFrame) -> bytes:
    """Parquet bytes of a declared table; equal frames give equal bytes. Raises as `conform_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(to_arrow(name, frame), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _conformed(table: str, column: Column, values: pd.Series) -> pd.Series:
    """Values in the column's type; a value that would change on the way is refused."""
    try:
        if column.is_list:
            lists = values.astype(object)
            pa.array(
                lists.where(~lists.map(lambda v: isinstance(v, str)), 0), column.arrow
            )  # text is no list of letters
            return lists
        out = values.astype(column.dtype)
        is_text = pd.api.types.infer_dtype(values, skipna=True) in ("string", "categorical", "empty")
        is_kept = {
            "string": lambda: is_text or bool(values.isna().all()),
            "int64": lambda: bool((out == values).all()),
            "bool": lambda: bool((out == values).all()),
        }.get(column.dtype, lambda: True)()
    except (TypeError, ValueError, pa.ArrowException):
        is_kept = False
    if is_kept:
        return out
    shown = ", ".join(sorted({type(value).__name__ for value in values}))
    raise ValueError(f"table {table!r}, column {column.name!r}: must be {column.dtype}, got {values.dtype} ({shown})")


# -- stores ------------------------------------------------------------------------------------------------------


def conform_dataset(name: str, dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with every array's declared meaning and unit as attributes, ready for `to_zarr`.

    Raises
    ------
    ValueError
        An array or attribute is missing or not declared, or an array has other dims or another dtype.
    """
    _check_names(name, [str(v) for v in dataset.variables], [str(a) for a in dataset.attrs])
    # zarr specifies text of variable length only
    text = {k: v.astype(object) for k, v in dataset.coords.items() if v.dtype.kind in "UT"}
    out = dataset.assign_coords(text)
    for array in STORES[name].arrays.values():
        _check_array(name, array, dataset[array.name].dtype, dataset[array.name].dims)
        out[array.name].attrs = dict(array.attrs)
    return out


def write_group(
    group: zarr.Group,
    store: str,
    arrays: Mapping[str, NDArray],
    attrs: Mapping[str, Any] | None = None,
    *,
    array_attrs: Mapping[str, Mapping[str, Any]] | None = None,
    chunks: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write a declared store into an empty zarr group; equal content gives equal bytes.

    Every array carries the names of its dimensions, its meaning and its unit, so that xarray opens the group.

    Parameters
    ----------
    group : zarr.Group
        Empty.
    store : str
        One of :data:`STORES`.
    arrays : mapping of str to ndarray
        All arrays of the store.
    attrs : mapping, optional
        All attributes of the store, as JSON values.
    array_attrs : mapping, optional
        More attributes of single arrays, the grid of a volume say.
    chunks : mapping, optional
        Chunks of single arrays; zarr chooses those of the others.

    Raises
    ------
    ValueError
        An array or attribute is missing or not declared, an array has another dtype or number of dimensions, or two
        arrays differ in the length of a dimension.
    """
    attrs, array_attrs, chunks = attrs or {}, array_attrs or {}, chunks or {}
    _check_names(store, arrays, attrs)
    length: dict[str, tuple[int, str]] = {}
    for name, array in STORES[store].arrays.items():
        shape = arrays[name].shape
        _check_array(store, array, arrays[name].dtype, array.dims if len(shape) == len(array.dims) else shape)
        for dim, n in zip(array.dims, shape, strict=True):
            first, of = length.setdefault(dim, (n, name))
            if first != n:
                raise ValueError(f"store {store!r}, array {name!r}: {dim} is {n} long, that of {of!r} {first}")
    for name, array in STORES[store].arrays.items():
        group.create_array(
            name,
            data=_storable(array, arrays[name]),
            chunks=chunks.get(name, "auto"),
            **metadata(store, name, array_attrs.get(name)),
        )
    group.attrs.update(dict(attrs))


def create_array(group: zarr.Group, store: str, name: str, shape: tuple[int, ...], **storage: Any) -> zarr.Array:
    """A declared array to be filled piece by piece; `storage` as of `zarr.Group.create_array`."""
    return group.create_array(
        name, shape=shape, dtype=STORES[store].arrays[name].dtype, **metadata(store, name), **storage
    )


def metadata(store: str, name: str, attrs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `zarr.Group.create_array` is told of a declared array besides its values."""
    array = STORES[store].arrays[name]
    return {"dimension_names": array.dims, "attributes": {**array.attrs, **(attrs or {})}}


def _storable(array: Array, values: NDArray) -> NDArray:
    return values.astype(np.dtypes.StringDType()) if array.dtype == "string" else np.ascontiguousarray(values)


def _check_names(store: str, arrays: Iterable[str], attrs: Iterable[str]) -> None:
    declared = STORES[store]
    for kind, given, wanted in (("arrays", arrays, declared.arrays), ("attributes", attrs, declared.attrs)):
        if set(given) != set(wanted):
            raise ValueError(f"store {store!r}: must have the {kind} {sorted(wanted)}, got {sorted(given)}")


def _check_array(store: str, array: Array, dtype: Any, dims: Iterable[object]) -> None:
    given = "string" if dtype.kind in "OUT" else str(dtype)
    if (given, tuple(dims)) != (array.dtype, array.dims):
        raise ValueError(
            f"store {store!r}, array {array.name!r}: must be {array}, got {given} ({', '.join(map(str, dims))})"
        )


# -- the study's files -------------------------------------------------------------------------------------------


def declared_as(path: str) -> str | None:
    """Where the table, store or file that a path of the study belongs to is declared to lie; None: nothing is.

    >>> declared_as("features/v1.zarr/sift/c/0/0")
    'features/<volume_id>.zarr'
    >>> declared_as("features/notes.txt") is None
    True
    """
    return next((entry for entry, pattern in _PATTERNS.items() if pattern.fullmatch(path)), None)


def _pattern(entry: str, inside: str = "") -> re.Pattern[str]:
    literal = (re.escape(part) for part in re.split(r"<\w+>", entry))
    copied = "(?:model/)?" if entry.startswith(("atlas/", "vocabulary/<")) else ""  # the frozen model has copies
    return re.compile(copied + "[^/]+".join(literal) + inside)


_PATTERNS = {
    **{f"{name}.parquet": _pattern(f"{name}.parquet") for name in TABLES},
    **{store.path: _pattern(store.path, "/.+") for store in STORES.values()},
    **{name: _pattern(name) for name in FILES},
}


# -- the page ----------------------------------------------------------------------------------------------------


def page() -> str:
    """The reference of everything a study holds, as Markdown."""
    parts = [_HEAD, "## Tables"]
    for name, table in DECLARED_TABLES.items():
        rows = [(f"`{c.name}`", c.dtype, c.unit, c.doc) for c in table.columns]
        parts += [f"### `{name}.parquet`", f"One row: {table.doc}.", _grid(("column", "type", "unit", "meaning"), rows)]
    parts.append("## Stores")
    for store in STORES.values():
        arrays = [(f"`{a.name}`", a.dtype, ", ".join(a.dims), a.unit, a.doc) for a in store.arrays.values()]
        parts += [f"### `{store.path}`", f"{store.doc[0].upper()}{store.doc[1:]}."]
        parts.append(_grid(("array", "dtype", "dimensions", "unit", "meaning"), arrays))
        if store.attrs:
            parts.append(_grid(("attribute", "meaning"), [(f"`{a}`", doc) for a, doc in store.attrs.items()]))
    parts += ["## Other files", _grid(("file", "meaning"), [(f"`{f}`", doc) for f, doc in FILES.items()])]
    return "\n\n".join(parts) + "\n"


_HEAD = f"""\
# What a study holds

Version {FORMAT_VERSION} of the folder. Tables are parquet, stores are zarr 3; both describe themselves: columns carry
`meaning` and `unit` as metadata of their field, arrays carry `long_name` and `units` as attributes. Read them with

```python
import pandas as pd
import xarray as xr

pd.read_parquet("study/associations.parquet")
xr.open_zarr("study/word_counts.zarr", consolidated=False)
```

Vectors and axes are in the order z, y, x; z points to the head, y to the back, x to the left. Arrays on a grid carry
`spacing_mm` and `origin_mm` as attributes. `<volume_id>` is the pseudonym of a series. This page is made by
`python -m popclust.schema > docs/outputs.md`."""


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
