"""Planted faults of DICOM exports: what becomes of each here, in SimpleITK and in dcm2niix.

    python benchmarks/dicom_fault_outcomes.py --json        # pip install SimpleITK dcm2niix

Every fault of the tests is planted in a small series. A reader is right if it hands on the undamaged volume (or the
stated part of it) voxel by voxel where that can be had, and none where it cannot. `silent`: it handed on another one.
`wrong_reason`: it handed on none where one was to be had, or (here alone: the others give no codes) for another reason.
Each reader works in a process of its own for each fault; one that dies or takes over a minute has crashed.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import dicom_faults_acquisition  # noqa: F401 - they register their faults
import dicom_faults_geometry  # noqa: F401
import dicom_faults_identity  # noqa: F401
import dicom_faults_pictures  # noqa: F401
import dicom_faults_pixels  # noqa: F401
from dicom_faults import FAULTS, RULES, Fault, is_part, outcome_of

from popclust.imaging.volume import Volume

LIMIT_S = 60.0
Reader = Callable[[Fault, Path], str]


def ours(fault: Fault, folder: Path) -> str:
    """The outcome, or codes of other reasons."""
    return str(outcome_of(fault, folder))


def simple_itk(fault: Fault, folder: Path) -> str:
    """Every series that GDCM finds, each read whole."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    volumes = []
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in map(str, folders):
        try:
            uids = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(place)
        except RuntimeError:  # told, not silent
            continue
        for uid in uids:
            try:
                names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(place, uid)
                image = SimpleITK.ReadImage(names)
                if image.GetDimension() == 3 and image.GetNumberOfComponentsPerPixel() == 1:
                    image = SimpleITK.DICOMOrient(image, "LPS")
                    values = np.clip(SimpleITK.GetArrayFromImage(image), -1024, 32767)
                    volumes.append(Volume(values, image.GetSpacing()[::-1], image.GetOrigin()[::-1]))
            except RuntimeError:
                continue
    return judged(fault, volumes)


def dcm2niix(fault: Fault, folder: Path) -> str:
    """Every NIfTI file that it writes."""
    import nibabel

    with tempfile.TemporaryDirectory() as out:
        command = ["dcm2niix", "-b", "n", "-z", "n", "-o", out, str(folder)]
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
        if done.returncode < 0:
            raise RuntimeError("it died")
        volumes = []
        for path in sorted(Path(out).rglob("*.nii")):
            loaded = nibabel.load(path)
            if loaded.get_data_dtype().fields is not None:  # colours
                continue
            try:
                image = nibabel.as_closest_canonical(loaded)
            except nibabel.orientations.OrientationError:  # axes that are none
                return "silent"
            if len(image.shape) == 3:
                # NIfTI counts to the right's left, the front and up; here it is left, back and up.
                values = np.asarray(image.dataobj).T[:, ::-1, ::-1]
                zyx = np.array(image.affine)[:3, :3] @ (np.array(image.shape) - 1) + image.affine[:3, 3]
                origin = (float(image.affine[2, 3]), float(-zyx[1]), float(-zyx[0]))
                x, y, z = map(float, image.header.get_zooms())
                volumes.append(Volume(np.clip(values, -1024, 32767), (z, y, x), origin))
    return judged(fault, volumes)


def judged(fault: Fault, volumes: list[Volume]) -> str:
    """What a reader without reasons made of a fault; scouts and captures are nobody's volume."""
    volumes = [volume for volume in volumes if len(volume.voxels) >= RULES.min_slices]
    if not volumes:
        return "none"
    right = len(volumes) == 1 and is_part(volumes[0], fault.keep) and fault.outcome in ("exact", "split")
    return fault.outcome if right else "silent"


def outcome(reader: Reader, fault: Fault, folder: Path) -> str:
    """A reader's outcome, in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(reader, fault, folder, there))
    child.start()
    there.close()
    found = "crashed"
    if here.poll(LIMIT_S):
        try:
            found = here.recv()
        except EOFError:
            found = "crashed"
    child.kill()
    child.join()
    return found


def _in_child(reader: Reader, fault: Fault, folder: Path, answer: Connection) -> None:
    warnings.simplefilter("ignore")
    answer.send(reader(fault, folder))


def kind(fault: Fault, found: str, has_reasons: bool) -> str:
    """The class of an outcome."""
    if found in ("silent", "crashed"):
        return found
    if found == fault.outcome or (found == "none" and not has_reasons and fault.outcome not in ("exact", "split")):
        return fault.outcome if fault.outcome in ("exact", "split") else "refused"
    return "wrong_reason"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--every", type=int, default=1, help="take each n-th fault alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is random in the faults")
    options = parser.parse_args()
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    readers = {"popclust": ours, "SimpleITK": simple_itk, "dcm2niix": dcm2niix}
    import SimpleITK  # noqa: F401 - once, not in every child

    rows: dict[str, dict[str, str]] = {}
    faults = FAULTS[:: options.every]
    for fault in faults:
        with tempfile.TemporaryDirectory() as folder:
            fault.plant(Path(folder, "in"), options.seed)
            rows[fault.name] = {name: outcome(reader, fault, Path(folder, "in")) for name, reader in readers.items()}
    counts = {
        name: Counter(kind(fault, rows[fault.name][name], name == "popclust") for fault in faults) for name in readers
    }
    names = ("silent", "crashed", "wrong_reason", "exact", "split", "refused")
    table = {name: {one: counts[name][one] for one in names} for name in readers}
    if options.json:
        wanted = {fault.name: {"right": fault.outcome, **rows[fault.name]} for fault in faults}
        print(json.dumps({"n_faults": len(faults), **table["popclust"], "readers": table, "faults": wanted}, indent=1))
        return
    print(f"{len(faults)} faults\n{'':12}" + "".join(f"{name:>14}" for name in names))
    for name, row in table.items():
        print(f"{name:12}" + "".join(f"{row[one]:>14}" for one in names))


if __name__ == "__main__":
    main()
