"""Reports as FHIR DiagnosticReport resources, R4 and R5."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from popclust.errors import InputError
from popclust.reports.encoding import decoded
from popclust.reports.tables import Row

_STUDY_UID_PREFIX = "urn:oid:"


def fhir_rows(text: str, name: str) -> list[Row]:
    """The reports of a DiagnosticReport, a Bundle, a list or NDJSON."""
    try:
        resources = [json.loads(text)]
    except json.JSONDecodeError:
        try:
            resources = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise InputError(f"reports: {name} is neither JSON nor NDJSON") from None
    return [_fhir_report(r) for r in _diagnostic_reports(resources)]


def _diagnostic_reports(value: Any) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            continue
        kind = item.get("resourceType")
        if kind == "DiagnosticReport":
            yield item
        elif kind == "Bundle":
            yield from _diagnostic_reports([e.get("resource") for e in item.get("entry", []) if isinstance(e, dict)])


def _fhir_report(report: dict[str, Any]) -> dict[str, str]:
    """Text and identifiers of one DiagnosticReport (FHIR R4 and R5).

    The text is that of `presentedForm`, or the narrative, with the conclusion.
    """
    parts = [_attachment(a) for a in report.get("presentedForm", []) if isinstance(a, dict)]
    if not any(parts) and isinstance(report.get("text"), dict):
        parts = [str(report["text"].get("div", ""))]
    if isinstance(report.get("conclusion"), str):
        parts.append("\n\nIMPRESSION:\n" + report["conclusion"])
    row = {"text": "\n\n".join(p for p in parts if p)}
    if isinstance(report.get("language"), str):
        row["language"] = report["language"]
    # R4 says imagingStudy, R5 study; accession numbers stand with the order (basedOn) or the study, as identifiers of
    # type ACSN.
    references = [report, *_references(report, "imagingStudy"), *_references(report, "study")]
    references += _references(report, "basedOn")
    for identifier in (i for r in references for i in _identifiers(r)):
        column = _identifier_column(identifier)
        if column and isinstance(identifier.get("value"), str):
            row.setdefault(column, identifier["value"].removeprefix(_STUDY_UID_PREFIX))
    return row


def _references(report: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = report.get(name, [])
    return [r for r in (value if isinstance(value, list) else [value]) if isinstance(r, dict)]


def _identifiers(resource: dict[str, Any]) -> list[dict[str, Any]]:
    value = resource.get("identifier", [])
    return [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, dict)]


def _identifier_column(identifier: dict[str, Any]) -> str | None:
    kind = identifier.get("type")
    codings = kind.get("coding", []) if isinstance(kind, dict) else []
    if any(isinstance(c, dict) and c.get("code") == "ACSN" for c in codings):
        return "accession_number"
    is_uid = identifier.get("system") == "urn:dicom:uid" or str(identifier.get("value", "")).startswith("urn:oid:")
    return "study_instance_uid" if is_uid else None


def _attachment(attachment: dict[str, Any]) -> str:
    """Text of an attachment that is text."""
    if not str(attachment.get("contentType", "text/plain")).startswith("text/"):
        return ""
    try:
        return decoded(base64.b64decode(str(attachment.get("data", "")), validate=False))
    except (binascii.Error, ValueError):
        return ""
