"""Mutated real DICOM files: none may crash the reading, none may keep it waiting.

    python benchmarks/dicom_fuzz.py FOLDER --files 20000 [--seed 0] [--size 64] [--json]

FOLDER holds real files (searched at every depth). Each trial takes one of them, its picture cut to `--size` rows and
columns where it is not compressed (so that there are many trials, and the header is hit as often as the picture),
mutates it in one or several ways (bytes, elements, lengths, truncation, pieces of other files), and takes it in as the
flow does: header, stack, pixels. Whatever is raised beyond what the flow expects is a crash; a process of its own does
the work, so that one that dies of a signal is counted, and one that takes over `--limit` seconds is ended and counted.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydicom

from popclust.errors import VolumeError
from popclust.imaging.headers import scan_headers
from popclust.imaging.ingest import read_series
from popclust.imaging.pixels import read_stack
from popclust.imaging.series import group_series
from popclust.settings import IngestSettings
from popclust.settings_types import PictureKind

KEY = bytes(range(32))
RULES = IngestSettings(
    max_slice_thickness_mm=99,
    min_slices=1,
    kernel_pattern=".",
    accept_missing_kernel=True,
    min_lung_ml=0,
    let_in=get_args(PictureKind),
)
Random = np.random.Generator


def seeds_of(folder: Path, size: int, n: int, rng: Random) -> list[bytes]:
    """Real files, small: uncompressed pictures are cut."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = []
    for index in rng.permutation(len(paths))[: 4 * n]:
        try:
            ds = pydicom.dcmread(paths[index])
            if "PixelData" in ds and not ds.file_meta.TransferSyntaxUID.is_encapsulated and ds.BitsAllocated == 16:
                order = ">" if ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRBigEndian else "<"
                values = np.frombuffer(ds.PixelData, f"{order}u2").reshape(ds.Rows, ds.Columns)
                middle = [slice(max(0, (n_all - size) // 2), (n_all + size) // 2) for n_all in values.shape]
                part = np.ascontiguousarray(values[tuple(middle)])
                ds.Rows, ds.Columns, ds.PixelData = *part.shape, part.tobytes()
            content = io.BytesIO()
            ds.save_as(content)
        except Exception:  # noqa: BLE001 - what pydicom cannot write again is no seed
            continue
        found.append(content.getvalue())
        if len(found) == n:
            break
    return found


def flip(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """Other values of some bytes, most of them in the header."""
    end = len(content) if rng.random() < 0.3 else min(len(content), 4000)
    for place in rng.integers(0, end, rng.integers(1, 30)):
        content[place] = int(rng.integers(0, 256))


def cut(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """The end is lost."""
    del content[int(rng.integers(0, len(content))) :]


def zero(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """A block is lost."""
    begin = int(rng.integers(0, len(content)))
    end = min(len(content), begin + int(rng.integers(1, 4096)))
    content[begin:end] = bytes(end - begin)


def shift(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """Bytes too many, or too few."""
    place = int(rng.integers(0, len(content)))
    if rng.random() < 0.5:
        content[place:place] = rng.bytes(int(rng.integers(1, 64)))
    else:
        del content[place : place + int(rng.integers(1, 64))]


def splice(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """The end of another file."""
    other = others[int(rng.integers(0, len(others)))]
    place = int(rng.integers(0, min(len(content), len(other))))
    content[place:] = other[place:]


def lengths(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """Other lengths of elements, by what stands behind a value representation."""
    for _ in range(int(rng.integers(1, 4))):
        name = [b"UI", b"DS", b"US", b"OW", b"SQ", b"LO", b"IS", b"CS"][int(rng.integers(0, 8))]
        place = content.find(name, int(rng.integers(132, max(133, len(content) - 1))))
        if 0 <= place < len(content) - 8:
            content[place + 2 : place + 4] = rng.bytes(2)
            if name in (b"OW", b"SQ"):
                content[place + 4 : place + 8] = rng.bytes(4) if rng.random() < 0.5 else b"\xff\xff\xff\xff"


def elements(content: bytearray, rng: Random, others: list[bytes]) -> None:
    """Other values of elements that are read, or none."""
    try:
        ds = pydicom.dcmread(io.BytesIO(bytes(content)))
        for keyword in rng.choice(_READ, int(rng.integers(1, 6))):
            if keyword in ds and rng.random() < 0.3:
                delattr(ds, keyword)
            else:
                _set(ds, str(keyword), rng)
        saved = io.BytesIO()
        ds.save_as(saved)
    except Exception:  # noqa: BLE001 - what cannot be written is mutated as bytes
        flip(content, rng, others)
        return
    content[:] = saved.getvalue()


_WORDS = ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"]
_READ = [
    *_WORDS,
    "NumberOfFrames",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "SliceThickness",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "AcquisitionTime",
    "AcquisitionNumber",
    "ConvolutionKernel",
    "ImageType",
    "Modality",
    "PatientAge",
    "PatientBirthDate",
    "StudyDate",
    "AcquisitionDate",
    "SpecificCharacterSet",
    "GantryDetectorTilt",
    "SOPClassUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "PhotometricInterpretation",
    "SharedFunctionalGroupsSequence",
]
_TEXTS = (
    "",
    "0",
    "-1",
    "1e308",
    "NaN",
    "inf",
    "99999999999999999999",
    "1\\2\\3\\4\\5\\6\\7",
    "ISO_IR 192",
    "\\",
    "x" * 70,
)


def _set(ds: pydicom.Dataset, keyword: str, rng: Random) -> None:
    tag = pydicom.tag.Tag(keyword)
    if keyword in _WORDS:
        ds.add_new(tag, "US", int(rng.choice([0, 1, 2, 7, 8, 12, 15, 16, 32, 64, 512, 65535])))
    elif keyword == "SharedFunctionalGroupsSequence":
        ds.add_new(tag, "SQ", [pydicom.Dataset()])
    else:
        ds.add_new(tag, "LT", str(rng.choice(_TEXTS)))  # a text of any kind, whatever should stand there


MUTATIONS: tuple[Callable[[bytearray, Random, list[bytes]], None], ...] = (
    flip, cut, zero, shift, splice, lengths, elements,
)  # fmt: skip


def mutated(trial: int, seed: int, seeds: list[bytes]) -> bytes:
    """The file of one trial."""
    rng = np.random.default_rng([seed, trial])
    content = bytearray(seeds[int(rng.integers(0, len(seeds)))])
    for _ in range(int(rng.integers(1, 4))):
        MUTATIONS[int(rng.integers(0, len(MUTATIONS)))](content, rng, seeds)
        if not content:
            break
    return bytes(content)


def take_in(path: str) -> str:
    """The outcome: `taken`, or the first reason."""
    series = group_series(scan_headers([path]), RULES)
    if not series:
        return "no image"
    reasons = [code for one in series for code in read_series(one, RULES, KEY).record.reasons if code != "single_slice"]
    if not reasons and series[0].format == "dicom":  # a series of one slice is not read further
        try:
            read_stack(series[0].headers, series[0].twins)
        except VolumeError as error:
            reasons.append(error.code)
    return reasons[0] if reasons else "taken"


def _work(numbers: list[int], seed: int, seeds: list[bytes], answer: Connection) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "IM1")
        for trial in numbers:
            with pydicom.config.disable_value_validation():
                path.write_bytes(mutated(trial, seed, seeds))
            answer.send((trial, "begins", 0.0))
            begin = time.perf_counter()
            try:
                found = take_in(str(path))
            except Exception:  # noqa: BLE001 - that is what is looked for
                found = "crash: " + traceback.format_exc(limit=-2)
            answer.send((trial, found, time.perf_counter() - begin))


def main() -> None:
    """Mutate, take in, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="real DICOM files")
    parser.add_argument("--files", type=int, default=2000, help="how many are mutated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="rows and columns that are kept")
    parser.add_argument("--seeds", type=int, default=40, help="real files that are mutated")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a file may take")
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="stop after so many, and say how many files it were"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seeds = seeds_of(options.folder, options.size, options.seeds, np.random.default_rng(options.seed))
    outcomes, crashes, times = Counter[str](), list[dict[str, Any]](), list[float]()
    left, began = list(range(options.files)), time.monotonic()
    while left and time.monotonic() - began < 60 * options.minutes:
        here, there = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.Process(target=_work, args=(left, options.seed, seeds, there))
        child.start()
        there.close()
        trial, left = _follow(here, left, options, outcomes, crashes, times, began)
        child.kill()
        child.join()
        if trial is not None:
            crashes.append({"trial": trial, "what": "died or hung"})
            left = left[1:]
    result = {
        "n_files": len(times),
        "crashed": len(crashes),
        "seconds_median": float(np.median(times)),
        "seconds_p99": float(np.percentile(times, 99)),
        "seconds_max": float(np.max(times)),
        "outcomes": dict(outcomes.most_common()),
        "crashes": crashes[:20],
    }
    print(json.dumps(result, indent=1) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def _follow(
    here: Connection,
    left: list[int],
    options: argparse.Namespace,
    outcomes: Counter[str],
    crashes: list[dict[str, Any]],
    times: list[float],
    began: float,
) -> tuple[int | None, list[int]]:
    """Take a child's answers: gives the trial that it died or hung at, or None, and what is left."""
    trial = left[0]
    try:
        while left and here.poll(options.limit):
            trial, found, seconds = here.recv()
            if found == "begins":
                continue
            times.append(seconds)
            outcomes["crash" if found.startswith("crash") else found] += 1
            if found.startswith("crash"):
                crashes.append({"trial": trial, "what": found})
            left = left[1:]
            if time.monotonic() - began > 60 * options.minutes:
                return None, left
    except EOFError:
        pass
    return (trial if left else None), left


if __name__ == "__main__":
    main()
