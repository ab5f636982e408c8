"""Reading reports, what counts, the matrix, and the audit sheet."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from popclust.errors import InputError
from popclust.reports.audit import agreement, audit_sheet
from popclust.reports.input import read_reports
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
    frame = read_reports(path, SETTINGS)
    assert frame["text"].tolist() == ['Erguß, "klein"', ""]
    assert frame["language"].tolist() == ["de", None]
    assert frame["accession_number"].tolist() == ["0042", "7"]


def test_text_decoded_twice_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text("volume_id,text\nv,PleuraergÃ¼sse\n", encoding="utf-8")
    assert read_reports(path, SETTINGS)["text"].tolist() == ["Pleuraergüsse"]


def test_parquet(tmp_path: Path) -> None:
    table = pd.DataFrame({"volume_id": ["a", None], "text": ["x", None], "other": [1, 2]})
    table.to_parquet(tmp_path / "reports.parquet")
    frame = read_reports(tmp_path / "reports.parquet", TermsSettings(language="en"))
    assert frame.to_dict("list") == {"text": ["x", ""], "language": ["en", "en"], "volume_id": ["a", None]}


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
    frame = read_reports(tmp_path, SETTINGS)
    assert frame[["study_instance_uid", "accession_number"]].to_numpy().tolist() == [["1.2.3", "A1"]]
    found = find_mentions(list(frame["text"]), None, load_lexicon(), SETTINGS)
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
    frame = read_reports(tmp_path / "r.json", SETTINGS)
    assert frame[["study_instance_uid", "accession_number"]].to_numpy().tolist() == [["1.2.3", "A7"]]
    found = find_mentions(list(frame["text"]), None, load_lexicon(), SETTINGS)
    assert dict(zip(found["term"], found["section"], strict=True)) == {
        "pleural effusion": "findings",
        "emphysema": "impression",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.csv", "id,report\n1,x\n", "no column `text`"),
        ("r.csv", "text\nx\n", "needs one of the columns"),
        ("r.csv", 'text,volume_id\n"x,1\n', "cannot be read"),
        ("r.json", "{", "neither JSON nor NDJSON"),
        ("r.json", "{}", "no report found"),
        ("r.bin", "x", "none of CSV, Parquet, JSON and DICOM"),
    ],
)
def test_bad_reports_are_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_reports(tmp_path / name, SETTINGS)
    assert str(tmp_path) not in str(caught.value)


def test_missing_reports(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_reports(tmp_path / "none.csv", SETTINGS)


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
