"""Keyed pseudonyms."""

from __future__ import annotations

import hashlib
import hmac
import math
import stat
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popclust.errors import InputError
from popclust.imaging.pseudonyms import (
    create_key,
    keyed_digest,
    load_key,
    patient_pseudonym,
    pseudonym,
    report_pseudonym,
    shifted_date,
)

KEY = bytes(range(32))


def test_key_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.secret" / "key"
    key = create_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key
    assert create_key(tmp_path / "other") != key


def test_key_that_is_missing_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "study.secret" / "key"
    with pytest.raises(InputError, match="is missing"):
        load_key(path)
    assert not path.exists()
    key = create_key(path)
    assert load_key(path) == key
    with pytest.raises(InputError, match="exists already"):
        create_key(path)


def test_keyed_digest() -> None:
    assert keyed_digest(KEY, "file", "a/b") == hmac.new(KEY, b"file\x00a/b", hashlib.sha256).hexdigest()
    assert keyed_digest(KEY, "file", b"a/b") == keyed_digest(KEY, "file", "a/b")
    assert keyed_digest(KEY, "file", "a\udcff") == keyed_digest(KEY, "file", b"a\xff")
    others = {keyed_digest(bytes(32), "file", "a/b"), keyed_digest(KEY, "series", "a/b"), keyed_digest(KEY, "file", "")}
    assert len(others | {keyed_digest(KEY, "file", "a/b")}) == 4


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_key_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(InputError, match="others can read it") as caught:
        load_key(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "00" * 31, "\u00e4" * 64])
def test_file_that_is_no_key_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        load_key(path)


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="key_file"):
        create_key(tmp_path / "file" / "key")


def test_pseudonym_is_the_hmac_of_kind_and_value() -> None:
    expected = hmac.new(KEY, b"study\x001.2.3", hashlib.sha256).hexdigest()[:16]
    assert pseudonym(KEY, "study", "1.2.3") == "s" + expected


@given(st.text(min_size=1), st.text(min_size=1))
def test_pseudonyms_tell_values_kinds_and_keys_apart(a: str, b: str) -> None:
    assert (pseudonym(KEY, "volume", a) == pseudonym(KEY, "volume", b)) == (a == b)
    assert pseudonym(KEY, "volume", a)[1:] != pseudonym(KEY, "study", a)[1:]
    assert pseudonym(KEY, "volume", a) != pseudonym(bytes(32), "volume", a)


def test_pseudonym_of_nothing() -> None:
    with pytest.raises(ValueError, match="value"):
        pseudonym(KEY, "volume", "")
    with pytest.raises(ValueError, match="kind"):
        pseudonym(KEY, "doctor", "x")  # type: ignore[arg-type]


def test_patients_of_two_hospitals_with_the_same_number() -> None:
    assert patient_pseudonym(KEY, "A", "1", "s") != patient_pseudonym(KEY, "B", "1", "s")
    assert patient_pseudonym(KEY, "A", "1", "s") == patient_pseudonym(KEY, "A", "1", "t")
    assert patient_pseudonym(KEY, "", "", "s") != patient_pseudonym(KEY, "", "", "t")


def test_one_patient_whose_number_is_written_in_several_ways() -> None:
    ways = ["4711a", " 4711A ", "004711A", "47 11a"]
    assert len({patient_pseudonym(KEY, "Clinic", way, way) for way in ways}) == 1
    assert patient_pseudonym(KEY, " clinic", "4711a", "s") == patient_pseudonym(KEY, "CLINIC", "4711a", "s")


@pytest.mark.parametrize(
    "nobody", ["ANONYMOUS", "anon", "Unknown", "0000", " ", "N/A", "Patient^Anonymous", "XXX", "Test"]
)
def test_who_has_everybodys_number_is_not_merged(nobody: str) -> None:
    assert patient_pseudonym(KEY, "", nobody, "s") != patient_pseudonym(KEY, "", nobody, "t")
    assert patient_pseudonym(KEY, "", nobody, "s") == patient_pseudonym(KEY, "", "", "s")


@pytest.mark.parametrize("somebody", ["ANON0042", "Nancy1", "Nullmeier", "TEST-17", "X1", "10", "IDA"])
def test_numbers_that_only_look_like_nobodys(somebody: str) -> None:
    assert patient_pseudonym(KEY, "", somebody, "s") == patient_pseudonym(KEY, "", somebody, "t")


@given(st.dates(date(1990, 1, 1), date(2030, 1, 1)), st.integers(0, 4000), st.text(min_size=1))
def test_shifted_dates_keep_intervals(day: date, later: int, patient_id: str) -> None:
    first = shifted_date(KEY, patient_id, day)
    assert 1 <= abs((first - day).days) <= 365
    assert shifted_date(KEY, patient_id, day + timedelta(days=later)) - first == timedelta(days=later)


def test_shifts_are_spread_evenly() -> None:
    day = date(2020, 1, 1)
    shifts = [(shifted_date(KEY, f"p{i}", day) - day).days for i in range(4000)]
    assert len(set(shifts)) > 700
    assert abs(sum(shift > 0 for shift in shifts) - 2000) < 200
    assert abs(sum(map(abs, shifts)) / 4000 - 183) < 10


def test_report_joins_by_what_it_has() -> None:
    row = {"series_instance_uid": "1.2", "study_instance_uid": math.nan, "accession_number": " 007 ", "text": "..."}
    assert report_pseudonym(KEY, row) == {
        "volume_id": pseudonym(KEY, "volume", "1.2"),
        "accession_id": pseudonym(KEY, "accession", "007"),
    }
    assert report_pseudonym(KEY, {"study_instance_uid": "1.9"}) == {"study_id": pseudonym(KEY, "study", "1.9")}
    assert report_pseudonym(KEY, {"volume_id": "v00"}) == {"volume_id": "v00"}
    assert report_pseudonym(KEY, {"text": "no identifier", "accession_number": None}) == {}
