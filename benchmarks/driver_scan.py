"""What looking at the sources costs the driver: the first scan, its memory, and a second one with nothing changed.

    python benchmarks/driver_scan.py [--files 200000] --json

Files are headers of CT slices without pixels, 500 to a series. Batches are read in a child process, as workers do; what
grows, and what is opened the second time, is measured in the process that surveys.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from popclust.imaging.header_index import HeaderIndex

KEY = bytes(range(32))
SERIES_FILES = 500
_PATIENT, _SERIES, _IMAGE, _PLACE = "1.2.3.4.500000001", "1.2.3.4.600000001", "1.2.3.4.700000000001", "-100000.25"
"""Stand in the first file for what differs between files, in equal numbers of bytes."""


def write_headers(folder: Path, n_files: int) -> None:
    """Header-only DICOM files: the bytes of one, with other numbers in it."""
    data = _first()
    for number in range(n_files):
        series, image = divmod(number, SERIES_FILES)
        target = folder / f"P{series // 4:05}" / f"S{series:06}"
        if not image:
            target.mkdir(parents=True)
        text = data.replace(_PATIENT.encode(), f"1.2.3.4.5{series // 4:08}".encode())
        text = text.replace(_SERIES.encode(), f"1.2.3.4.6{series:08}".encode())
        text = text.replace(_IMAGE.encode(), f"1.2.3.4.7{number:011}".encode())
        text = text.replace(_PLACE.encode(), f"{image - 100000:07d}.25".encode())
        (target / f"IM{image:04}.dcm").write_bytes(text)


def _first() -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, _IMAGE
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, _IMAGE
    image.StudyInstanceUID, image.SeriesInstanceUID = _PATIENT, _SERIES
    image.PatientID, image.PatientName, image.Modality = _PATIENT, "Nobody", "CT"
    image.Manufacturer, image.ManufacturerModelName, image.ConvolutionKernel = "Maker", "Model", "B70f"
    image.ImageType, image.SliceThickness = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    image.StudyDate, image.PatientAge, image.PatientSex = "20200101", "060Y", "O"
    image.AcquisitionNumber, image.InstanceNumber, image.SeriesNumber = 1, 1, 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, _PLACE], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.Rows, image.Columns = [1, 1], 512, 512
    image.RescaleSlope, image.RescaleIntercept, image.BitsAllocated = 1, -1024, 16
    with tempfile.NamedTemporaryFile() as file:
        image.save_as(file.name, enforce_file_format=True)
        return Path(file.name).read_bytes()


def read_batches(folder: str, first: int, last: int) -> float:
    """Read batches as a worker does; CPU seconds."""
    index, started = HeaderIndex(folder, KEY), time.process_time()
    for number in range(first, last):
        index.read_batch(number)
    return time.process_time() - started


def measure_scan(folder: Path, n_files: int) -> dict[str, float]:
    """Write the files, look at them twice."""
    source, place = folder / "source", str(folder / "study.secret" / "index")
    write_headers(source, n_files)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(read_batches, place, 0, 0).result()  # imports are no part of the rate
        first = pool.submit(_drive, str(source), place, n_files).result()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        second = pool.submit(_again, str(source), place).result()
    return {**first, **second}


def _drive(source: str, place: str, n_files: int) -> dict[str, float]:
    """The first look, in a fresh process: its peak above where it began is the driver's growth."""
    index = HeaderIndex(place, KEY)
    before, cpu = psutil.Process().memory_info().rss, time.process_time()
    survey = index.survey([source])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        reading = pool.submit(read_batches, place, 0, survey.n_batches).result()
    table = index.settle()
    cpu = time.process_time() - cpu + reading
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if len(table) != -(-n_files // SERIES_FILES) or table.n_images != n_files:
        raise RuntimeError(f"{len(table)} series of {table.n_images} images in {n_files} files")
    return {"files_per_cpu_second": n_files / cpu, "client_growth_mb": (peak - before) / 1e6}


def _again(source: str, place: str) -> dict[str, float]:
    """The second look: how long, and how many files of the source are opened."""
    opened: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes) and os.fsdecode(arguments[0]).startswith(source):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(watch)
    index, started = HeaderIndex(place, KEY), time.perf_counter()
    survey = index.survey([source])
    index.settle()
    seconds = time.perf_counter() - started
    if survey.n_batches:
        raise RuntimeError(f"{survey.n_batches} batches to read though nothing changed")
    return {"second_scan_seconds": seconds, "files_opened_again": float(len(opened))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {k: round(v, 3) for k, v in measure_scan(Path(folder), arguments.files).items()}
    print(json.dumps(found) if arguments.json else "\n".join(f"{k:<24} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
