"""Keyed pseudonyms: the study holds HMACs of the source's identifiers, the key stays outside the study.

The same identifier and key give the same pseudonym on every machine; without the key nobody can go back, nor test a
guessed identifier, as a plain hash would allow.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from popclust.errors import InputError

Kind = Literal["volume", "patient", "study", "accession"]

_PREFIX: dict[str, str] = {"volume": "v", "patient": "p", "study": "s", "accession": "a"}
_REPORT_COLUMNS: dict[str, Kind] = {
    "series_instance_uid": "volume",
    "study_instance_uid": "study",
    "accession_number": "accession",
}
_KEY_BYTES = 32
_NOBODY = re.compile(
    r"[\W_0X]*|([\W_]*(ANON(YM[A-Z]*)?|DE-?IDENTIFIED|UNKNOWN|UNBEKANNT|UNNAMED|NONE|NULL|NIL|NAN|N/?A|NO_?(ID|NAME)"
    r"|REMOVED|REDACTED|EMPTY|TEST|DUMMY|PATIENT|NAME|P?ID))+[\W_]*"
)
"""IDs that an anonymizer or a clerk gives to everybody. With a number behind it (ANON0042) it may be somebody's."""
_MAX_SHIFT_DAYS = 365


def create_key(path: str | os.PathLike[str]) -> bytes:
    """Make a new secret key for the owner's eyes alone.

    Raises
    ------
    InputError
        If there is a file already, or none can be written.
    """
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(
            f"key_file {path}: exists already; a new key would give every volume and patient another name"
        ) from None
    except OSError as error:
        raise InputError(f"key_file {path}: cannot be created ({error.strerror}); name a place you may write") from None
    key = secrets.token_bytes(_KEY_BYTES)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.hex() + "\n")
    return key


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Read the secret key; a missing one is never made anew.

    Parameters
    ----------
    path : str or os.PathLike
        File with 64 hexadecimal digits.

    Returns
    -------
    bytes
        The 32 bytes of the key.

    Raises
    ------
    InputError
        If the file is missing, can be read by group or others, or does not hold a key.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise InputError(
            f"key_file {path}: is missing; bring it back from where you keep it: under a new key every volume and "
            "patient would be another one"
        ) from None
    except OSError as error:
        raise InputError(f"key_file {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        text = ""
        mode = 0o600
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"key_file {path}: others can read it, which undoes the pseudonyms; run `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InputError(
            f"key_file {path}: must hold {2 * _KEY_BYTES} hexadecimal digits; bring back the key that you keep, or "
            "move the file away for a new one"
        )
    return key


def pseudonym(key: bytes, kind: Kind, value: str) -> str:
    """Pseudonym of an identifier: a letter for the kind and 16 hexadecimal digits of its HMAC-SHA256 (64 bits).

    Raises
    ------
    ValueError
        If `kind` is unknown or `value` is empty.

    Examples
    --------
    >>> pseudonym(bytes(32), "volume", "1.2.3")
    'v51995668526999be'
    """
    if kind not in _PREFIX:
        raise ValueError(f"kind: must be one of {', '.join(_PREFIX)}, got {kind!r}")
    if not value:
        raise ValueError(f"value: the {kind} has no identifier to make a pseudonym of")
    if kind == "accession":  # lists of reports and PACS differ in its case and spaces
        value = "".join(value.split()).upper()
    return _PREFIX[kind] + _digest(key, kind, value).hex()[:16]


def patient_pseudonym(key: bytes, issuer: str, patient_id: str, study_identity: str) -> str:
    """Pseudonym of a patient: of the issuer and the ID together, or of the study where there is no ID.

    Case, spaces and leading zeros of an ID play no part: scanners and PACS differ in them. What an anonymizer writes
    for everybody (ANONYMOUS, UNKNOWN, 0) is no ID.
    """
    number = one_way_of_writing(patient_id)
    # The separator cannot occur in a DICOM string.
    value = f"id\\{''.join(issuer.split()).upper()}\\{number}" if number else f"study\\{study_identity}"
    return pseudonym(key, "patient", value)


def one_way_of_writing(patient_id: str) -> str:
    """A patient's ID as it is compared; empty if it stands for nobody.

    Examples
    --------
    >>> one_way_of_writing(" 00 4711"), one_way_of_writing("pat-7a"), one_way_of_writing("Anonymous^Patient")
    ('4711', 'PAT-7A', '')
    """
    text = "".join(patient_id.split()).upper()
    return "" if _NOBODY.fullmatch(text) else text.lstrip("0")


def report_pseudonym(key: bytes, row: Mapping[str, object]) -> dict[str, str]:
    """Pseudonyms by which a report joins the cohort.

    Parameters
    ----------
    key : bytes
        The study's key.
    row : mapping
        One report; `series_instance_uid`, `study_instance_uid`, `accession_number` and `volume_id` are looked at.

    Returns
    -------
    dict of str to str
        Those of `volume_id`, `study_id`, `accession_id` that the row has an identifier for; a `volume_id` in the row is
        a pseudonym already.
    """
    found = {
        f"{kind}_id": pseudonym(key, kind, value)
        for column, kind in _REPORT_COLUMNS.items()
        if (value := _text(row.get(column)))
    }
    if volume_id := _text(row.get("volume_id")):
        found["volume_id"] = volume_id
    return found


def keyed_digest(key: bytes, kind: str, value: bytes | str) -> str:
    """Keyed fingerprint of anything: the HMAC-SHA256 of its kind and value, as 64 hexadecimal digits.

    Unlike a plain hash it tells nothing to somebody who guesses the value but has no key.

    Parameters
    ----------
    key : bytes
        The study's key.
    kind : str
        What is fingerprinted: equal values of two kinds have two digests.
    value : bytes or str
        The value; text is taken as UTF-8, with what is no text in a file's name kept as it is.
    """
    return _digest(key, kind, value).hex()


def shifted_date(key: bytes, patient_id: str, day: date) -> date:
    """Move a date by the patient's own number of days, 1 to 365 either way, so that intervals within a patient stay.

    Parameters
    ----------
    key : bytes
        The study's key.
    patient_id : str
        The patient's pseudonym.
    day : datetime.date
        The true date.
    """
    number = int.from_bytes(_digest(key, "date", patient_id)[:8], "big")
    sign = 1 if number % 2 else -1
    return day + timedelta(days=sign * (1 + number // 2 % _MAX_SHIFT_DAYS))


def _digest(key: bytes, kind: str, value: bytes | str) -> bytes:
    content = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    return hmac.digest(key, kind.encode() + b"\0" + content, "sha256")


def _text(value: object) -> str:
    # Empty cells come as None, '' or NaN; a UID or number read as text keeps its leading zeros.
    if value is None or value != value:
        return ""
    return str(value).strip()
