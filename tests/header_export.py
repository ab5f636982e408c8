"""A small PACS export, the index of its headers, and what is asked of both in tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
from dicom_writer import KEY, numbered, save, series_datasets, uid
from pydicom.dataset import Dataset

from popclust.imaging.header_index import HeaderIndex, SeriesTable, Survey
from popclust.imaging.pseudonyms import pseudonym

opened: list[str] = []
"""Every file that this process has opened since the list was last cleared."""


def _note(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and isinstance(args[0], str):
        opened.append(args[0])


sys.addaudithook(_note)


def make_export(folder: Path) -> Path:
    """Two DICOM series of one patient, one of another, and two volume files."""
    save(series_datasets(numbered((5, 2, 2))), folder / "a")
    save(series_datasets(numbered((3, 2, 2)), series=2), folder / "a", stem="S")
    save(series_datasets(numbered((4, 2, 2)), study=2), folder / "b", edit=somebody_else)
    (folder / "c").mkdir()
    (folder / "c" / "ct.nii.gz").write_bytes(b"not opened by the scan")
    write_mhd(folder / "c" / "ct.mhd", "ct.raw")
    (folder / "c" / "ct.raw").write_bytes(bytes(16))
    return folder


def somebody_else(index: int, ds: Dataset) -> None:
    ds.PatientID, ds.IssuerOfPatientID = "Other-1", "Clinic"


def write_mhd(path: Path, data_file: str) -> None:
    lines = ("ObjectType = Image", "NDims = 3", "DimSize = 2 2 2", "ElementType = MET_SHORT")
    path.write_text("\n".join([*lines, f"ElementDataFile = {data_file}\n"]))


def index_in(tmp_path: Path, name: str = "study") -> HeaderIndex:
    return HeaderIndex(str(tmp_path / f"{name}.secret" / "index"), KEY)


def run(index: HeaderIndex, *sources: Path | str, rescan: bool = False) -> tuple[Survey, SeriesTable]:
    found = index.survey([str(one) for one in sources], rescan)
    for number in reversed(range(found.n_batches)):
        index.read_batch(number)
    return found, index.settle()


def prints(tmp_path: Path, *sources: Path | str, name: str = "study") -> dict[str, str]:
    return run(index_in(tmp_path, name), *sources)[1].fingerprints()


def volume_id(identity: str) -> str:
    return pseudonym(KEY, "volume", identity)


FIRST, SECOND, OTHER = (volume_id(uid(*parts)) for parts in ((1, 1), (1, 2), (2, 1)))


def identities(table: SeriesTable) -> dict[str, str]:
    frame = table.frame()
    return dict(zip(frame["series_instance_uid"], frame["folder"], strict=True))


def holding(folder: Path, *texts: str) -> list[str]:
    """Files whose columns hold one of the texts."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text()
            found += [path.name for text in texts if text in content]
    return found
