"""Reading reports, what counts, the matrix, and the audit sheet."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from popclust.errors import InputError
from popclust.imaging.pseudonyms import pseudonym, report_pseudonym
from popclust.reports.audit import agreement, audit_sheet
from popclust.reports.input import read_reports
from popclust.reports.join import Join
from popclust.reports.lexicon import load_lexicon
from popclust.reports.terms import MENTION_COLUMNS, counted_terms, find_mentions, term_matrix
from popclust.settings import TermsSettings

SETTINGS = TermsSettings()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_in_any_encoding(tmp_path: Path, encoding: str, separator: str) -> None:
    path = tmp_path / "reports.csv"
    rows = [["Accession_Number", "text", "language"], ["0042", '"Erguß, ""klein"""', "de-DE"], ["7", "", ""]]
    path.write_bytes("\n".join(separator.join(row) for row in rows).encode(encoding))
    first, second = read_reports(path, SETTINGS)
    assert first == ('Erguß, "klein"', "de", {"accession_number": "0042"})
    assert second == ("", None, {"accession_number": "7"})


def test_text_decoded_twice_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text("volume_id,text\nv,PleuraergÃ¼sse\n", encoding="utf-8")
    assert [r.text for r in read_reports(path, SETTINGS)] == ["Pleuraergüsse"]


def test_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame({"volume_id": ["a", None], "text": ["x", None], "other": [1, 2]})
    table.to_parquet(tmp_path / "reports.parquet")
    reports = list(read_reports(tmp_path / "reports.parquet", TermsSettings(language="en")))
    assert reports == [("x", "en", {"volume_id": "a"}), ("", "en", {})]


def _structured_report(path: Path) -> None:
    def text(name: str, value: str) -> Dataset:
        item, code = Dataset(), Dataset()
        code.CodeMeaning, item.ValueType, item.TextValue = name, "TEXT", value
        item.ConceptNameCodeSequence = Sequence([code])
        return item

    def container(name: str, *children: Dataset) -> Dataset:
        item, code = Dataset(), Dataset()
        code.CodeMeaning, item.ValueType = name, "CONTAINER"
        item.ConceptNameCodeSequence, item.ContentSequence = Sequence([code]), Sequence(children)
        return item

    report = container(
        "Radiology Report",
        container("History", text("History", "Rule out pneumonia.")),
        container("Findings", text("Finding", "Small pleural effusion.")),
        container("Conclusions", text("Conclusion", "Emphysema.")),
    )
    report.file_meta = FileMetaDataset()
    report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID = generate_uid(entropy_srcs=["a"])
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.SOPClassUID, report.StudyInstanceUID, report.AccessionNumber = "1.2.840.10008.5.1.4.1.1.88.22", "1.2.3", "A1"
    report.save_as(path, enforce_file_format=True)


def test_folder_of_dicom_structured_reports(tmp_path: Path) -> None:
    _structured_report(tmp_path / "report")
    (tmp_path / "readme.md").write_text("not a report")
    reports = list(read_reports(tmp_path, SETTINGS))
    assert [r.keys for r in reports] == [{"study_instance_uid": "1.2.3", "accession_number": "A1"}]
    found = find_mentions([r.text for r in reports], None, load_lexicon(), SETTINGS)
    assert found["term"].tolist() == ["pneumonia", "pleural effusion", "emphysema"]
    assert found["section"].tolist() == ["indication", "findings", "impression"]


def _diagnostic_report() -> dict[str, object]:
    return {
        "resourceType": "DiagnosticReport",
        "identifier": [{"value": "x"}],
        "basedOn": [{"identifier": {"type": {"coding": [{"code": "ACSN"}]}, "value": "A7"}}],
        "imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}}],
        "presentedForm": [
            {"contentType": "text/plain", "data": base64.b64encode(b"FINDINGS: Small pleural effusion.").decode()},
            {"contentType": "application/pdf", "data": "AAAA"},
        ],
        "conclusion": "Emphysema.",
    }


@pytest.mark.parametrize("form", ["one", "bundle", "ndjson"])
def test_fhir(tmp_path: Path, form: str) -> None:
    report = _diagnostic_report()
    bundle = {"resourceType": "Bundle", "entry": [{"resource": report}, {"resource": {"resourceType": "Patient"}}]}
    text = {"one": json.dumps(report), "bundle": json.dumps(bundle), "ndjson": f"{json.dumps(report)}\n{{}}\n"}[form]
    (tmp_path / "r.json").write_text(text)
    reports = list(read_reports(tmp_path / "r.json", SETTINGS))
    assert [r.keys for r in reports] == [{"study_instance_uid": "1.2.3", "accession_number": "A7"}]
    found = find_mentions([r.text for r in reports], None, load_lexicon(), SETTINGS)
    assert dict(zip(found["term"], found["section"], strict=True)) == {
        "pleural effusion": "findings",
        "emphysema": "impression",
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"id,words\n1,x\n", "r.csv has no column `text`"),
        ("r.csv", b"text\nx\n", "needs one of the columns"),
        ("r.csv", b"", "has no column `text`"),
        ("r.csv", b"text,volume_id\n", "no report found"),
        ("r.csv", b'text,volume_id\n"x,1\n', "quotation marks that close"),
        ("r.csv", b'text,volume_id\n"x" y,1\n', "quotation marks that close"),
        ("r.csv", b"text,volume_id\nx,1\na, b,2\n", r"row 3 \(line 3\): 3 cells where the header has 2"),
        ("r.csv", b"volume_id,text,language\n1,first line\nsecond line,en\n", r"row 2 \(line 2\): 2 cells"),
        ("r.csv", b"text,Report Text,reporttext,volume_id\n", "no report found"),
        ("r.csv", b"Report Text,report_text,volume_id\n", "two columns are called `reporttext`"),
        ("r.csv.gz", gzip.compress(b"text,volume_id\n" + 9999 * b"x,1\n", mtime=0)[:-9], "cannot be read"),
        ("r.csv.gz", b"text,volume_id\nx,1\n", "cannot be read"),
        ("r.parquet", b"PAR1", "r.parquet is no Parquet file"),
        ("r.xlsx", b"PK", "r.xlsx is no Excel file"),
        ("r.json", b"{", "neither JSON nor NDJSON"),
        ("r.json", b"{}", "no report found"),
        ("r.bin", b"x", "none of CSV, Parquet, Excel, JSON and DICOM"),
    ],
)
def test_bad_reports_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_reports(tmp_path / name, SETTINGS))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("column", ["AccessionNumber", "Accession Number", "accession_number", "ACCESSION_NO"])
@pytest.mark.parametrize("text", ["Text", "report text", "Befund"])
def test_columns_are_called_as_hospitals_call_them(tmp_path: Path, column: str, text: str) -> None:
    (tmp_path / "r.csv").write_text(f"{column};{text}\nA1;x\n")
    assert list(read_reports(tmp_path / "r.csv", SETTINGS)) == [("x", None, {"accession_number": "A1"})]


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("12345.0", "12345"),
        ('"=""0012345"""', "0012345"),
        (" 0012 ", "0012"),
        ("1.20", "1.20"),
        ("", None),
        ("  ", None),
    ],
)
def test_keys_are_what_they_were_before_a_spreadsheet_had_them(tmp_path: Path, cell: str, key: str | None) -> None:
    (tmp_path / "r.csv").write_text(f"accession_number,text\n{cell},x\n")
    (report,) = read_reports(tmp_path / "r.csv", SETTINGS)
    assert report.keys.get("accession_number") == key


@pytest.mark.parametrize("column", [[7.0, None], [7, None], ["7", None], [b"7", None]])
def test_nulls_in_typed_parquet(tmp_path: Path, column: list[object]) -> None:
    table = pa.table({"accession_number": pa.array(column), "text": pa.array([b"x", None], pa.binary())})
    pq.write_table(table, tmp_path / "r.parquet")
    assert list(read_reports(tmp_path / "r.parquet", SETTINGS)) == [
        ("x", None, {"accession_number": "7"}),
        ("", None, {}),
    ]


def test_excel(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["Study UID", "Befund", "Sprache"], ["1.2.3", "Kein Erguss.\nEmphysem.", "de"], [None] * 3, ["1.2.4"]):
        book.active.append(row)
    book.save(tmp_path / "r.xlsx")
    assert list(read_reports(tmp_path / "r.xlsx", SETTINGS)) == [
        ("Kein Erguss.\nEmphysem.", "de", {"study_instance_uid": "1.2.3"}),
        ("", None, {"study_instance_uid": "1.2.4"}),
    ]


def test_a_letter_that_is_no_utf8_may_come_late(tmp_path: Path) -> None:
    rows = b"".join(b"%d,kein Befund\n" % i for i in range(200_000))
    (tmp_path / "r.csv").write_bytes(b"accession_number,text\n" + rows + "x,Ergüsse\n".encode("cp1252"))
    *_, last = read_reports(tmp_path / "r.csv", SETTINGS)
    assert last.text == "Ergüsse"


def test_lines_within_quotation_marks_and_odd_separators_stay_one_report(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('volume_id,text\r\nv,"a\r\nb\x0bc\u2028d"\r\n', newline="", encoding="utf-8")
    assert [r.text for r in read_reports(tmp_path / "r.csv", SETTINGS)] == ["a\r\nb\x0bc\u2028d"]


def test_missing_reports(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(read_reports(tmp_path / "none.csv", SETTINGS))


def _cohort() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "volume_id": ["v1", "v2", "v3", "v4"],
            "study_id": ["s1", "s1", "s3", "s4"],
            "accession_id": ["a1", "a1", None, "a4"],
            "included": [True, True, True, False],
        }
    )


@pytest.mark.parametrize(
    ("pseudonyms", "volumes"),
    [
        ({"study_id": "s1"}, ["v1", "v2"]),
        ({"accession_id": "a1", "volume_id": "v1"}, ["v1", "v2"]),
        ({"volume_id": "v3"}, ["v3"]),
        ({"study_id": "s9", "accession_id": "a1"}, ["v1", "v2"]),
        ({"study_id": "s3", "accession_id": "a1"}, []),
        ({"study_id": "s4"}, []),
        ({}, []),
    ],
)
def test_a_report_is_of_all_of_its_examination(pseudonyms: dict[str, str], volumes: list[str]) -> None:
    join = Join.to_cohort(_cohort())
    assert join.volumes_of(pseudonyms, has_text=True) == volumes
    assert join.n_contradictory == (pseudonyms.get("study_id") == "s3" and "accession_id" in pseudonyms)
    assert join.volumes_of(pseudonyms, has_text=False) == []
    assert (join.n_reports, join.n_empty) == (1, 1)


def test_a_join_that_found_hardly_anything_stops_with_examples_of_both_sides() -> None:
    join = Join.to_cohort(_cohort())
    for number in range(9):
        join.volumes_of({"study_id": f"s10{number}"}, has_text=True)
    join.check(0.0)
    with pytest.raises(InputError, match=r"0 of 9 reports found a volume, 0 of 3 volumes a report") as caught:
        join.check(0.2)
    assert "s100, s101, s102; of volumes: a1, s1, s3;" in str(caught.value)
    join.volumes_of({"study_id": "s3"}, has_text=True)
    join.check(0.2)  # a third of the volumes has one, though the list of reports is the whole hospital's


def test_accession_numbers_join_in_any_case_and_with_any_spaces() -> None:
    wanted = pseudonym(bytes(32), "accession", "A 12b")
    assert report_pseudonym(bytes(32), {"accession_number": " a12B"}) == {"accession_id": wanted}


def test_unknown_language_is_refused() -> None:
    with pytest.raises(InputError, match="'fr' is not known"):
        find_mentions(["Pas de pneumothorax"], ["fr"], load_lexicon(), SETTINGS)


def test_no_mentions_keep_the_columns() -> None:
    found = find_mentions([], None, load_lexicon(), SETTINGS)
    assert tuple(found.columns) == MENTION_COLUMNS and found["start"].dtype == np.int64


def _mentions() -> pd.DataFrame:
    texts = [
        "FINDINGS: No effusion.\n\nIMPRESSION: Small effusion. Possible pneumonia.",
        "No emphysema.",
        "INDICATION: Emphysema.\n\nFINDINGS: Centrilobular emphysema.",
    ]
    found = find_mentions(texts, None, load_lexicon(), SETTINGS)
    return found.assign(volume_id=found["report"].map({0: "a", 1: "b", 2: "b"}))


def _pairs(settings: TermsSettings) -> list[list[str]]:
    return counted_terms(_mentions(), settings, load_lexicon()).to_numpy().tolist()


def test_a_negation_elsewhere_does_not_take_a_finding_away() -> None:
    assert _pairs(SETTINGS) == [["a", "RID34539"], ["b", "RID28504"]]


def test_counting_rule_follows_the_settings() -> None:
    assert ["a", "RID5350"] in _pairs(TermsSettings(count_uncertain=True))
    assert _pairs(TermsSettings(sections=("indication",))) == [["b", "RID4799"]]
    assert ["b", "RID4799"] in _pairs(TermsSettings(roll_up=("RID4799",)))
    with pytest.raises(ValueError, match="lexicon"):
        counted_terms(_mentions(), TermsSettings(roll_up=("RID4799",)))


def test_term_matrix() -> None:
    counted = pd.DataFrame({"volume_id": ["a", "b", "a", "x"], "term_id": ["RID1", "RID1", "RID2", "RID2"]})
    matrix = term_matrix(counted, ["a", "b", "c"])
    assert matrix.dims == ("volume", "term") and matrix.dtype == bool
    assert matrix.sel(term="RID1").values.tolist() == [True, True, False]
    assert matrix.sel(term="RID2").values.tolist() == [True, False, False]
    assert term_matrix(counted, ["a", "b", "c"], 2)["term"].values.tolist() == ["RID1"]
    assert term_matrix(counted.iloc[:0], ["a"]).shape == (1, 0)
    with pytest.raises(ValueError, match="repeat"):
        term_matrix(counted, ["a", "a"])


def test_audit_sheet_is_balanced_seeded_and_shows_the_words() -> None:
    texts = ["Small effusion. " * 50 + "No pneumothorax. Possible pneumonia."]
    found = find_mentions(texts, None, load_lexicon(), SETTINGS)
    sheet = audit_sheet(found, texts, n=10, seed=3)
    assert sheet["status"].value_counts().to_dict() == {"affirmed": 8, "negated": 1, "uncertain": 1}
    assert set(sheet["words"]) == {"effusion", "pneumothorax", "pneumonia"}
    pd.testing.assert_frame_equal(sheet, audit_sheet(found, texts, n=10, seed=3))
    assert len(audit_sheet(found.iloc[:0], texts)) == 0


def test_agreement_counts_what_a_person_filled_in() -> None:
    sheet = pd.DataFrame(
        {
            "status": ["affirmed", "affirmed", "negated", "negated", "affirmed", "uncertain"],
            "checked": ["affirmed", "negated", " Negated ", "negated", "wrong_term", None],
        }
    )
    result = agreement(sheet)
    assert (result.n_checked, result.n_wrong_term, result.accuracy) == (5, 1, 0.75)
    assert result.kappa == pytest.approx(0.5)
    assert result.per_status.loc["negated", ["precision", "recall", "n"]].tolist() == [1.0, pytest.approx(2 / 3), 3]


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ({"status": ["affirmed"]}, "`checked` is missing"),
        ({"status": ["affirmed"], "checked": [""]}, "is empty"),
        ({"status": ["affirmed"], "checked": ["yes"]}, "'yes' in `checked`"),
    ],
)
def test_bad_sheets_are_refused(sheet: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        agreement(pd.DataFrame(sheet))
