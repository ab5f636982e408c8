"""Measure the reading of a source: the first scan, the second, and what the driver holds of it.

    python benchmarks/driver_scan.py --files 200000 --json

Header-only DICOM files are made, 250 to a series. The driver is a process of its own that lists and settles, as in a
run; the headers are read by another. `files_per_cpu_second` counts the processor time of both.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from popclust.imaging.header_index import HeaderIndex, SeriesTable, Survey

KEY = bytes(range(32))
FILES_PER_SERIES = 250
SERIES_PER_FOLDER = 4
_ROOT = "1.2.826.0.1.3680043.10.1338.55"
_opened: dict[str, Any] = {"n": 0, "below": ""}


def measure(n_files: int, folder: Path, scattered: bool = False) -> dict[str, Any]:
    """Make the files, scan them twice, and say what it took."""
    source = folder / "export"
    write_files(source, n_files, scattered)
    secret = str(folder / "study.secret" / "index")
    spawned = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as driver, ProcessPoolExecutor(1, mp_context=spawned) as worker:
        driver.submit(_start, str(source)).result()
        started = time.perf_counter()
        listed = driver.submit(_survey, secret, str(source)).result()
        read = worker.submit(_read, secret, listed["n_batches"]).result()
        settled = driver.submit(_settle, secret).result()
        first_s = time.perf_counter() - started
        cpu_s = listed["cpu_s"] + read["cpu_s"] + settled["cpu_s"]
        again = driver.submit(_again, secret, str(source)).result()
        growth_mb = driver.submit(_peak_growth_mb).result()
        series_ms = worker.submit(_series_ms, secret).result()
    return {
        "files": n_files,
        "series": settled["n_series"],
        "files_per_cpu_second": round(n_files / cpu_s),
        "first_scan_seconds": round(first_s, 2),
        "cpu_seconds": {
            "survey": round(listed["cpu_s"], 2),
            "read": round(read["cpu_s"], 2),
            "settle": round(settled["cpu_s"], 2),
        },
        "client_growth_mb": round(growth_mb, 1),
        "second_scan_seconds": round(again["seconds"], 2),
        "files_opened_again": again["n_opened"],
        "series_files_ms": round(series_ms, 1),
        "index_mb": round(sum(p.stat().st_size for p in Path(secret).rglob("*") if p.is_file()) / 2**20, 1),
    }


def write_files(folder: Path, n_files: int, scattered: bool = False) -> None:
    """Write header-only files, each with UIDs and a position of its own patched into the bytes of one."""
    series_uid, sop_uid, position = (f"{_ROOT}.1{'0' * 12}", f"{_ROOT}.2{'0' * 12}", "-10\\-20\\000000")
    content = _one_file(series_uid, sop_uid, position)
    if content.count(sop_uid.encode()) != 2 or content.count(position.encode()) != 1:
        raise RuntimeError("the file does not hold what is to be patched")
    for index in range(n_files):
        series, number = divmod(index, FILES_PER_SERIES)
        place = folder / f"{series // SERIES_PER_FOLDER:06}"
        if number == 0:
            place.mkdir(parents=True, exist_ok=True)
        patched = (
            content.replace(sop_uid.encode(), f"{_ROOT}.2{index:012}".encode())
            .replace(series_uid.encode(), f"{_ROOT}.1{series:012}".encode())
            .replace(position.encode(), f"-10\\-20\\{number:06}".encode())
        )
        name = f"S{series % SERIES_PER_FOLDER}I{(number * 7919) % 10007:05}.dcm"
        path = folder / f"{index * 2654435761 % 2**32:010}.dcm" if scattered else place / name
        path.write_bytes(patched)


def _one_file(series_uid: str, sop_uid: str, position: str) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, sop_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{_ROOT}.3", series_uid, f"{_ROOT}.4"
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID, ds.PatientName, ds.PatientSex, ds.PatientAge = "4711", "Doe^Jane", "F", "061Y"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = "20200229"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = "101112.345"
    ds.Manufacturer, ds.ManufacturerModelName, ds.ConvolutionKernel = "SIEMENS", "Sensation 10", "B70f"
    ds.StudyDescription, ds.SeriesDescription, ds.ProtocolName = "Thorax", "Lung 1.0 B70f", "Thorax routine"
    ds.InstitutionName, ds.StationName, ds.BodyPartExamined = "Hospital", "CT1", "CHEST"
    ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime, ds.SliceThickness = "120", "100", "500", "1.0"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 1, 1, 1
    ds.ImagePositionPatient = position.split("\\")
    ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.7]
    ds.Rows = ds.Columns = 512
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    with tempfile.NamedTemporaryFile() as file:
        ds.save_as(file.name, enforce_file_format=True)
        return Path(file.name).read_bytes().replace(b"-10\\-20\\0 ", position.encode())


def _start(source: str) -> None:
    """The driver as it is before it looks at a source: everything imported, and used once."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "few"), 10)
        index = HeaderIndex(str(Path(folder, "s.secret", "index")), KEY)
        for number in range(index.survey([str(Path(folder, "few"))]).n_batches):
            index.read_batch(number)
        index.settle()
    _opened["below"] = source
    sys.addaudithook(_note)
    gc.collect()
    pa.default_memory_pool().release_unused()
    _opened["start_kb"] = _resident_kb()


def _note(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and isinstance(args[0], str) and args[0].startswith(str(_opened["below"])):
        _opened["n"] = int(_opened["n"]) + 1


def _resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def _peak_growth_mb() -> float:
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - int(_opened["start_kb"])) / 1024


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


def _survey(secret: str, source: str) -> dict[str, Any]:
    found, cpu_s = _timed(lambda: HeaderIndex(secret, KEY).survey([source]))
    return {"n_batches": found.n_batches, "cpu_s": cpu_s}


def _read(secret: str, n_batches: int) -> dict[str, Any]:
    index = HeaderIndex(secret, KEY)
    _, cpu_s = _timed(lambda: [index.read_batch(number) for number in range(n_batches)])
    return {"cpu_s": cpu_s}


def _settle(secret: str) -> dict[str, Any]:
    table, cpu_s = _timed(HeaderIndex(secret, KEY).settle)
    return {"n_series": len(table), "cpu_s": cpu_s}


def _again(secret: str, source: str) -> dict[str, Any]:
    _opened["n"] = 0
    began = time.perf_counter()
    index = HeaderIndex(secret, KEY)
    found: Survey = index.survey([source])
    table: SeriesTable = index.settle()
    seconds = time.perf_counter() - began
    if found.n_batches or not len(table):
        raise RuntimeError("the second scan found something to read")
    return {"seconds": seconds, "n_opened": _opened["n"]}


def _series_ms(secret: str) -> float:
    index = HeaderIndex(secret, KEY)
    names = list(index.series().fingerprints())[:20]
    began = time.perf_counter()
    for name in names:
        index.series_files(name)
    return (time.perf_counter() - began) / len(names) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--folder", default="", help="where the files are made; a temporary folder")
    parser.add_argument("--scattered", action="store_true", help="one folder, names that tell nothing of the series")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="popclust-scan-", dir=given.folder or None))
    try:
        result = measure(given.files, folder, given.scattered)
    finally:
        shutil.rmtree(folder)
    if given.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name:>22}  {value}")


if __name__ == "__main__":
    main()
