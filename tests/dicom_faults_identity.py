"""Faults of whose images they are, what belongs together, and what else lies in the folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from dicom_faults import N_SLICES, Slices, chest, fault, fault_in_files, on, others, set_stored
from pydicom.dataset import Dataset

EVERY_OTHER = range(0, N_SLICES, 2)


@fault("exact")
def nothing(slices: Slices, rng: np.random.Generator) -> None:
    """The undamaged series itself."""


@fault("several_patients")
def two_patients_in_halves(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[6:], PatientID="P0008899", PatientName="Schmidt^Hans", PatientBirthDate="19330101")


@fault("several_patients")
def two_patients_interleaved(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[::2], PatientID="P0008899", PatientName="Schmidt^Hans")


@fault("several_patients")
def two_patients_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, PatientID="P0008899")


@fault("several_patients")
def one_foreign_slice(slices: Slices, rng: np.random.Generator) -> None:
    on([slices[5]], PatientID="P0008899")


@fault("several_patients")
def one_foreign_slice_at_the_end(slices: Slices, rng: np.random.Generator) -> None:
    on([slices[-1]], PatientID="P0008899")


@fault("several_patients")
def two_patients_without_uid_in_one_folder(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SeriesInstanceUID=None, StudyInstanceUID=None)
    on(slices[6:], PatientID="P0008899")


@fault("several_patients")
def one_number_two_birth_dates(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PatientID="ANONYMOUS")
    on(slices[6:], PatientBirthDate="19330101")


@fault("exact")
def number_in_another_case(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[3:], PatientID="p0004711 ")


@fault("exact")
def number_with_leading_zeros(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PatientID="4711")
    on(slices[3:], PatientID="0004711")


@fault("exact")
def number_missing_in_some(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[::3], PatientID="")


@fault("exact")
def number_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PatientID=None)


@fault("exact")
def name_in_mixed_character_sets(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PatientName="Müller^Erika")
    on(slices[::2], SpecificCharacterSet="ISO_IR 192")


@fault("exact")
def unknown_character_set(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SpecificCharacterSet="ISO 2022 IR 999")


@fault("several_studies")
def two_studies_in_halves(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[6:], StudyInstanceUID="1.2.3.4")


@fault("several_studies")
def two_studies_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, StudyInstanceUID="1.2.3.4")


@fault("exact")
def study_uid_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, StudyInstanceUID=None)


@fault("exact")
def series_uid_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SeriesInstanceUID=None)


@fault("exact")
def one_image_uid_for_all(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SOPInstanceUID="1.2.3.5")


@fault("exact")
def exported_twice(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + slices[3:]


@fault("exact")
def exported_twice_under_other_uids(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, seed=None)


@fault("exact")
def some_slices_twice_with_other_numbers(slices: Slices, rng: np.random.Generator) -> Slices:
    again = others(slices[3:6], seed=None)
    for index, ds in enumerate(again):
        ds.InstanceNumber = 100 + index
    return slices + again


@fault("duplicate_positions")
def twice_with_other_voxels(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices)


@fault("duplicate_positions")
def one_slice_twice_with_other_voxels(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices[4:5])


@fault("duplicate_positions")
def one_uid_for_two_images_of_one_place(slices: Slices, rng: np.random.Generator) -> Slices:
    (again,) = others(slices[4:5])
    again.SOPInstanceUID = slices[4].SOPInstanceUID
    return [*slices, again]


@fault("exact")
def numbers_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, InstanceNumber=None)


@fault("exact")
def numbers_shuffled(slices: Slices, rng: np.random.Generator) -> None:
    for ds, number in zip(slices, rng.permutation(N_SLICES), strict=True):
        ds.InstanceNumber = int(number)


@fault("exact")
def numbers_all_alike(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, InstanceNumber=1)


@fault("exact")
def image_class_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SOPClassUID=None)
    for ds in slices:
        ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


@fault("exact")
def modality_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Modality=None)


@fault("exact")
def modality_in_small_letters(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Modality="ct")


@fault("not_ct")
def magnetic_resonance_in_the_ct_class(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Modality="MR")


@fault("exact")
def pet_slices_under_the_same_uid(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")


def _plan(kind: str, sop_class: str, slices: Slices) -> Dataset:
    ds = others(slices[:1])[0]
    on([ds], Modality=kind, SOPClassUID=sop_class, SOPInstanceUID=f"1.2.3.{len(kind)}.{sop_class[-1]}")
    return ds


@fault("exact")
def radiotherapy_objects_in_the_folder(slices: Slices, rng: np.random.Generator) -> Slices:
    objects = [
        _plan("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", slices),
        _plan("RTPLAN", "1.2.840.10008.5.1.4.1.1.481.5", slices),
        _plan("RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", slices),
    ]
    on(objects[:2], Rows=None, Columns=None, PixelData=None, SeriesInstanceUID="1.2.3.6")
    on(objects[2:], SeriesInstanceUID="1.2.3.7", BitsAllocated=32, DoseUnits="GY")
    set_stored(objects[2], chest()[0], "<u4")
    return slices + objects


@fault("exact")
def a_dose_under_the_same_uid(slices: Slices, rng: np.random.Generator) -> Slices:
    return [*slices, _plan("RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", slices)]


@fault("exact")
def a_dose_in_a_folder_without_uids(slices: Slices, rng: np.random.Generator) -> Slices:
    found = [*slices, _plan("RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", slices)]
    on(found, SeriesInstanceUID=None)
    return found


@fault("exact")
def reports_and_key_objects_under_the_same_uid(slices: Slices, rng: np.random.Generator) -> Slices:
    objects = [
        _plan("SR", "1.2.840.10008.5.1.4.1.1.88.11", slices),
        _plan("PR", "1.2.840.10008.5.1.4.1.1.11.1", slices),
    ]
    on(objects, Rows=None, Columns=None, PixelData=None)
    return slices + objects


@fault("exact")
def dates_that_cannot_be(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, StudyDate="00010101", SeriesDate="99991231", AcquisitionDate="20201399", PatientBirthDate="30000101")


@fault("exact")
def last_day_of_all(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, StudyDate="99991231", SeriesDate="99991231", AcquisitionDate="99991231")


@fault("exact")
def no_dates(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, StudyDate="", SeriesDate=None, AcquisitionDate=None, PatientAge="", PatientBirthDate="")


@fault("exact")
def nonsense_of_age_and_sex(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PatientAge="ABCY", PatientSex="X", SeriesNumber=None)


@fault("exact")
def private_elements_of_junk(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", rng.bytes(500))


@fault("exact")
def one_uid_for_each_slice(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.SeriesInstanceUID = f"1.2.3.8.{index}"


@fault_in_files("exact")
def other_files_in_the_folder(paths: list[Path], rng: np.random.Generator) -> None:
    folder = paths[0].parent
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "report.pdf").write_bytes(b"%PDF-1.4")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.txt").write_text("nothing")


@fault_in_files("exact")
def packed_files(paths: list[Path], rng: np.random.Generator) -> None:
    for path in paths:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()


@fault_in_files("exact")
def files_in_folders_of_their_own(paths: list[Path], rng: np.random.Generator) -> None:
    for path in paths:
        (path.parent / path.stem).mkdir()
        path.rename(path.parent / path.stem / "IM")


@fault_in_files("irregular_spacing")
def one_file_empty(paths: list[Path], rng: np.random.Generator) -> None:
    paths[5].write_bytes(b"")


@fault_in_files("irregular_spacing")
def one_file_of_noise(paths: list[Path], rng: np.random.Generator) -> None:
    paths[5].write_bytes(rng.bytes(3000))


@fault_in_files("exact")
def a_cut_copy_beside(paths: list[Path], rng: np.random.Generator) -> None:
    for path in paths[3:6]:
        (path.parent / f"copy-{path.name}").write_bytes(path.read_bytes()[:-700])
