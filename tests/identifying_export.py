"""An export whose identifying headers, names and private tags all carry secrets, and the search for these."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ahocorasick
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import zarr
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

MARK = "Zwiebelfisch"
"""Part of every secret that is text."""
ROOT = "1.2.840.987123987"
"""Root of every UID."""
_ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha512", "blake2b", "blake2s")
_N_HEX, _N_BYTES, _N_BASE64 = 12, 8, 12
"""How much of an unkeyed digest counts as found, as hexadecimal digits, bytes, or base64."""


@dataclass
class Secrets:
    """What was planted."""

    texts: set[str] = field(default_factory=set)
    """To be found nowhere."""
    guessed: set[str] = field(default_factory=set)
    """Of which no digest without a key may be found either."""

    def text(self, value: str) -> str:
        """Plant a text."""
        self.texts.add(value)
        self.guessed.add(value)
        return value


def plant(population: Path, folder: Path) -> Secrets:
    """Copy a simulated population under headers, folders, files, reports and dates that all identify.

    DICOM files lie in `folder/<secret>`, reports in reports.csv, transforms in `transforms`.
    """
    secrets, uids = Secrets(), dict[str, str]()
    target = folder / secrets.text(f"Export_{MARK}")
    for number, series in enumerate(sorted({p.parent for p in (population / "DICOM").rglob("*") if p.is_file()})):
        into = target / secrets.text(f"{MARK}^Erika{number}") / secrets.text(f"19470812_{MARK}{number}")
        into.mkdir(parents=True)
        for index, path in enumerate(sorted(series.iterdir())):
            ds = pydicom.dcmread(path)
            _identify(ds, number, uids, secrets)
            name = f"{MARK}_{number}_{index}.dcm"
            ds.save_as(into / name)
            secrets.guessed |= {name, str(into / name), str((into / name).relative_to(target))}
            secrets.guessed |= {f"{target.name}/{(into / name).relative_to(target)}", str(into)}
    (target / f"{MARK}_letter.txt").write_text("no image")
    (target / f"{MARK}_broken.dcm").write_bytes(next(target.rglob("*.dcm")).read_bytes()[:700])
    secrets.guessed |= {f"{MARK}_letter.txt", f"{MARK}_broken.dcm"}
    reports = pd.read_csv(population / "reports.csv", dtype=str)
    for column in ("study_instance_uid", "series_instance_uid"):
        reports[column] = reports[column].map(lambda uid: _uid(uids, uid, secrets))
    reports["accession_number"] = reports["accession_number"].map(lambda n: secrets.text(f"{MARK}-{n}"))
    reports["text"] = f"Frau Erika {MARK}, geb. 12.08.1947, wohnhaft in {MARK}hausen.\n" + reports["text"]
    reports.to_csv(folder / "reports.csv", index=False)
    (folder / "transforms").mkdir()
    for path in (population / "transforms").glob("*.npz"):
        shutil.copy(path, folder / "transforms" / f"{_uid(uids, path.stem, secrets)}.npz")
    secrets.texts |= {MARK, ROOT}
    return secrets


def _uid(uids: dict[str, str], uid: str, secrets: Secrets) -> str:
    return uids.setdefault(uid, secrets.text(f"{ROOT}.{len(uids) + 1}.7"))


def _identify(ds: Dataset, number: int, uids: dict[str, str], secrets: Secrets) -> None:
    """Put a secret into everything that may name somebody."""
    say = secrets.text
    who = str(ds.PatientID)
    ds.PatientID, ds.IssuerOfPatientID = say(f"{MARK}-{who}"), say(f"Klinik {MARK}")
    ds.PatientName, ds.OtherPatientNames = f"{MARK}^{who}", say(f"{MARK}^Rufname")
    ds.AccessionNumber = say(f"{MARK}-{ds.AccessionNumber}")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, keyword, _uid(uids, str(ds[keyword].value), secrets))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.SourceApplicationEntityTitle = f"AE_{MARK}"[:16]
    for keyword in (
        *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
        *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "StudyID"),
        *("StudyDescription", "SeriesDescription", "ProtocolName", "BodyPartExamined", "PatientComments"),
        *("ImageComments", "AdditionalPatientHistory", "PatientAddress", "Occupation", "RequestingPhysician"),
        *("ContrastBolusAgent", "FilterType", "SoftwareVersions", "RequestedProcedureDescription"),
    ):
        if keyword != "ContrastBolusAgent" or keyword in ds:
            setattr(ds, keyword, say(f"{MARK} {keyword[:3]}"))
    if number % 3 == 0:
        ds.Manufacturer, ds.ManufacturerModelName = say(f"SIEMENS {MARK}"), say(f"Sensation {MARK}")
    if number % 4 == 1:
        ds.ConvolutionKernel = say(f"{ds.ConvolutionKernel} {MARK}")
    ds.PatientBirthDate, ds.SeriesNumber = "19470812", 98712398
    item = Dataset()
    item.RequestedProcedureID = f"{MARK}"
    ds.RequestAttributesSequence = Sequence([item])
    block = ds.private_block(0x0029, f"{MARK} CSA", create=True)
    block.add_new(0x10, "LO", f"{MARK} privately")
    # Days of examination are not among them: one person's, shifted, may be another's.
    secrets.texts |= {"19470812", "1947-08-12", "98712398"}


def found_in(folder: Path, secrets: Secrets, but: tuple[str, ...] = ()) -> list[str]:
    """Files of a folder in whose bytes, as they are or unpacked, a secret or an unkeyed digest of one stands."""
    search = Search(secrets)
    hits = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if found := search(name.encode()):
            hits.append(f"name {name}: {found}")
        if path.is_file() and name not in but:
            hits += [f"{name}: {found}" for view in _views(path) if (found := search(view))]
    return hits


class Search:
    """Looks for secrets, in any case and in three encodings, and for their digests."""

    def __init__(self, secrets: Secrets) -> None:
        self._folded, self._exact = ahocorasick.Automaton(), ahocorasick.Automaton()
        for text in secrets.texts:
            for coding in ("utf-8", "latin-1", "utf-16-le"):
                self._folded.add_word(text.lower().encode(coding).decode("latin-1"), text)
        for text in secrets.guessed:
            for name in _ALGORITHMS:
                digest = hashlib.new(name, text.encode()).digest()
                self._add_digest(digest, f"{name} of {text}")
            for size in (8, 16, 32):
                self._add_digest(hashlib.blake2b(text.encode(), digest_size=size).digest(), f"blake2b of {text}")
        self._folded.make_automaton()
        self._exact.make_automaton()

    def _add_digest(self, digest: bytes, what: str) -> None:
        self._folded.add_word(digest.hex()[:_N_HEX], what)
        self._exact.add_word(digest[:_N_BYTES].decode("latin-1"), what)
        self._exact.add_word(base64.b64encode(digest)[:_N_BASE64].decode(), what)

    def __call__(self, data: bytes) -> str:
        """What is found first, else nothing."""
        hits = (
            next((what for _, what in automaton.iter(text)), "")
            for automaton, text in (
                (self._folded, data.lower().decode("latin-1")),
                (self._exact, data.decode("latin-1")),
            )
        )
        return next(filter(None, hits), "")


def _views(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what is packed in them."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield f"{table.schema}".encode() + table.to_pandas().to_csv().encode()
    elif path.name == "zarr.json" and b'"node_type":"array"' in re.sub(rb"\s", b"", data):
        values = np.asarray(zarr.open_array(path.parent, mode="r")[...])
        yield "\n".join(map(str, values.ravel())).encode() if values.dtype.kind in "OTUS" else values.tobytes()
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    elif path.suffix in (".html", ".svg", ".json", ".jsonl"):
        for text in re.findall(rb"base64,([A-Za-z0-9+/=]{16,})", data):
            yield base64.b64decode(text)
