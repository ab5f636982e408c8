"""Headers as rows of a table: read from a batch of files, kept by the index, and made headers again."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from popclust.imaging.facts import comparable_id, read_back, written
from popclust.imaging.headers import FileHeader, scan_file, without_warnings
from popclust.imaging.joining import joint_of
from popclust.imaging.listing import Found
from popclust.imaging.places import companion_names, companions_stamp
from popclust.imaging.pseudonyms import keyed_digest, patient_pseudonym, pseudonym
from popclust.imaging.series import identity_of

WORK = pa.schema(
    [
        ("path", pa.binary()),
        ("identity", pa.string()),
        ("stamp", pa.int64()),
        ("problem", pa.string()),
        ("file", pa.int64()),
    ]
)
"""Files to read: as listed, with their numbers. Paths are bytes, since names of files need not be text."""

_OF_HEADER: dict[str, Any] = {
    "identity": pa.string(),
    "format": pa.string(),
    "problem": pa.string(),
    "series_uid": pa.string(),
    "study_uid": pa.string(),
    "sop_uid": pa.string(),
    "sop_class": pa.string(),
    "modality": pa.string(),
    "is_localizer": pa.bool_(),
    "position_mm": pa.list_(pa.float64()),
    "orientation": pa.list_(pa.float64()),
    "pixel_spacing_mm": pa.list_(pa.float64()),
    "rows": pa.int64(),
    "columns": pa.int64(),
    "acquisition": pa.int64(),
    "temporal_position": pa.int64(),
    "frame": pa.int64(),
    "instance": pa.int64(),
    "acquired_at_s": pa.float64(),
}
ROWS = pa.schema(
    [
        ("volume_id", pa.string()),
        ("patient_id", pa.string()),
        ("file", pa.int64()),
        ("stamp", pa.int64()),
        ("companions", pa.list_(pa.binary())),
        ("companions_stamp", pa.int64()),
        ("print_high", pa.int64()),
        ("print_low", pa.int64()),
        ("path", pa.binary()),
        *_OF_HEADER.items(),
        ("facts", pa.string()),
        ("person", pa.string()),
        ("joint", pa.string()),
    ]
)
"""One row per image, in the order of volume_id. `file` is the file's number, `stamp` tells whether it has changed, the
two halves of `print` are what the image adds to the fingerprint of its series. Without volume_id: no image. `facts` is
what it says of its series, `person` a keyed digest of its PatientID, `joint` what `joint_of` gives. With the format
`forgotten` nothing but number and stamp is there, so that the file is not read again."""

FORGOTTEN = "forgotten"
"""Format of a row of which only that it was read is kept."""

_READERS = 16
"""Files at URLs that are read at once: reading is waiting there."""


def file_number(key: bytes, path: str, identity: str) -> int:
    """Number that stands for a file, keyed: of five million files two share one with a chance below a millionth."""
    digest = blake2b(b"\0".join([os.fsencode(path), identity.encode()]), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def work_of(found: Iterable[tuple[Found, int]]) -> pa.Table:
    """A table of files to read, from what was listed and the files' numbers."""
    rows = [(os.fsencode(one.path), one.identity, one.stamp, one.problem, number) for one, number in found]
    columns = list(zip(*rows, strict=True)) or [()] * len(WORK)
    return pa.table(dict(zip(WORK.names, columns, strict=True)), schema=WORK)


def read_rows(work: pa.Table, key: bytes, forgotten: Collection[str] = ()) -> pa.Table:
    """Read the headers of a batch of files.

    Parameters
    ----------
    work : pyarrow.Table
        With the columns of `WORK`.
    key : bytes
        The study's key.
    forgotten : collection of str
        Digests, from `forgotten_digest`, of the volumes and patients that are not to be taken in.

    Returns
    -------
    pyarrow.Table
        With the columns of `ROWS`, sorted by volume_id and identity.
    """
    files = work.to_pylist()
    read = _row_maker(key, forgotten)
    with without_warnings():
        if any(b"://" in file["path"] for file in files):
            with ThreadPoolExecutor(_READERS) as pool:
                batches = list(pool.map(read, files))
        else:
            batches = [read(file) for file in files]
    rows = [row for batch in batches for row in batch]
    columns = {name: [row[name] for row in rows] for name in ROWS.names}
    return pa.table(columns, schema=ROWS).sort_by([("volume_id", "ascending"), ("identity", "ascending")])


def _row_maker(key: bytes, forgotten: Collection[str]) -> Callable[[Mapping[str, Any]], list[dict[str, Any]]]:
    """The function from a file to its rows; what many images of a batch share is worked out once."""
    volume_id = lru_cache(1024)(lambda identity: pseudonym(key, "volume", identity))
    patient_id = lru_cache(1024)(lambda *told: patient_pseudonym(key, *told))
    person = lru_cache(1024)(lambda number: keyed_digest(key, "person", number)[:16])
    is_forgotten = lru_cache(4096)(lambda name: bool(forgotten) and forgotten_digest(key, name) in forgotten)

    def read(file: Mapping[str, Any]) -> list[dict[str, Any]]:
        path = os.fsdecode(file["path"])
        if file["problem"]:
            headers = [FileHeader(path, file["identity"], "none", file["problem"])]
        else:
            headers = scan_file(path, file["identity"])
        shared = {"file": file["file"], "stamp": file["stamp"], "path": file["path"]}
        shared |= {"volume_id": None, "patient_id": None, "companions": None, "companions_stamp": None}
        if headers[0].format == "volume":
            headers[0], companions = _with_companions(headers[0])
            shared |= companions
        if (identity := identity_of(headers[0])) and headers[0].problem != "not_an_image":
            first = headers[0]
            shared["volume_id"] = volume_id(identity)
            shared["patient_id"] = patient_id(first.patient_issuer, first.patient_id, first.study_uid or identity)
            if is_forgotten(shared["volume_id"]) or is_forgotten(shared["patient_id"]):
                return [blank(file["file"], file["stamp"])]
        shared["person"] = person(header_id) if (header_id := comparable_id(headers[0].patient_id)) else None
        return [_row(header, shared) for header in headers]

    return read


def _with_companions(header: FileHeader) -> tuple[FileHeader, dict[str, Any]]:
    """A volume file with the files it names; one that names a pipe or a device would keep its reader waiting."""
    try:
        names = companion_names(header.path)
    except OSError:
        return replace(header, format="none", problem="unreadable_file"), {}
    if not names:
        return header, {}
    stamp, are_plain = companions_stamp(header.path, names)
    if not are_plain:
        header = replace(header, format="none", problem="unreadable_file")
    return header, {"companions": [os.fsencode(name) for name in names], "companions_stamp": stamp}


def _row(header: FileHeader, shared: Mapping[str, Any]) -> dict[str, Any]:
    image = (header.sop_uid or header.identity, header.frame, shared["stamp"], shared["companions_stamp"])
    digest = blake2b(repr((*image, header.problem)).encode(), digest_size=16).digest()
    high, low = (int.from_bytes(half, "little", signed=True) for half in (digest[:8], digest[8:]))
    values = {name: getattr(header, name) for name in _OF_HEADER}
    told = {"facts": written(header.facts), "joint": joint_of(header) or None}
    return {**shared, "print_high": high, "print_low": low, **values, **told}


def blank(file: int, stamp: int) -> dict[str, Any]:
    """The row of a file that is forgotten."""
    return {**dict.fromkeys(ROWS.names), "file": file, "stamp": stamp, "format": FORGOTTEN}


def forgotten_digest(key: bytes, name: str) -> str:
    """By what a forgotten volume or patient is known again: a digest of its pseudonym."""
    return keyed_digest(key, "forgotten", name)


def headers_of(rows: pa.Table) -> list[FileHeader]:
    """Rows as headers again, without the patient's name and number, which the rows do not hold."""
    headers = []
    for row in rows.to_pylist():
        values: dict[str, Any] = {name: tuple(v) if isinstance(v := row[name], list) else v for name in _OF_HEADER}
        facts, person = read_back(row["facts"] or "{}"), row["person"] or ""
        headers.append(FileHeader(os.fsdecode(row["path"]), **values, facts=facts, person=person))
    return headers
