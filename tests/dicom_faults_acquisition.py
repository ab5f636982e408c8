"""Faults of acquisition: phases, kernels, energies and slabs under one UID."""

from __future__ import annotations

import numpy as np
from dicom_faults import N_SLICES, STEP_MM, Slices, fault, on, others

EVERY_OTHER = range(0, N_SLICES, 2)


@fault("split")
def phases_interleaved_by_acquisition(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, AcquisitionNumber=3)


@fault("split")
def phases_interleaved_by_temporal_position(slices: Slices, rng: np.random.Generator) -> Slices:
    on(slices, TemporalPositionIdentifier=1)
    return slices + others(slices, TemporalPositionIdentifier=2)


@fault("split")
def cardiac_phases_interleaved(slices: Slices, rng: np.random.Generator) -> Slices:
    on(slices, NominalPercentageOfCardiacPhase=40.0)
    return slices + others(slices, NominalPercentageOfCardiacPhase=75.0)


@fault("split")
def contrast_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, ContrastBolusAgent="Ultravist 370")


@fault("split")
def phases_interleaved_by_time(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, AcquisitionTime="173650.100000")


@fault("split", range(7))
def phases_abutting(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], AcquisitionNumber=3, AcquisitionTime="173650.100000", ContentTime="173650.100000")


@fault("split", range(7))
def phases_abutting_by_number_alone(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], AcquisitionNumber=3)


@fault("split", range(7))
def phases_abutting_by_time_alone(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], AcquisitionTime="173650.100000")


@fault("split", range(7))
def contrast_in_the_upper_part(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], ContrastBolusAgent="Ultravist 370")


@fault("several_acquisitions")
def one_slice_of_another_acquisition(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], AcquisitionNumber=7)


@fault("several_phases")
def phases_mixed_without_order(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.TemporalPositionIdentifier = 1 + (index in (1, 2, 5, 9, 10))


@fault("exact")
def a_number_for_each_rotation(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.AcquisitionNumber = index


@fault("exact")
def a_number_for_each_second_rotation(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.AcquisitionNumber = index // 2


@fault("exact")
def scanned_over_midnight(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[:5], AcquisitionTime="235958.500000")
    on(slices[5:], AcquisitionTime="000001.200000", AcquisitionDate="20100318")


@fault("exact")
def scanned_over_midnight_of_one_date(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[:5], AcquisitionTime="235958.500000")
    on(slices[5:], AcquisitionTime="000001.200000")


@fault("exact")
def times_missing_in_some(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[::4], AcquisitionTime=None)


@fault("exact")
def reconstructed_with_a_pause(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[6:], ContentTime="174800.000000")


@fault("split")
def kernels_interleaved_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, ConvolutionKernel="B40f")


@fault("split")
def soft_kernel_before_the_sharp_one(slices: Slices, rng: np.random.Generator) -> Slices:
    return others(slices, ConvolutionKernel="B31f") + slices


@fault("split", EVERY_OTHER)
def kernels_alternating(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[1::2], ConvolutionKernel="B40f")


@fault("split", range(7))
def kernels_abutting(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], ConvolutionKernel="B75f")


@fault("several_kernels")
def kernels_mixed(slices: Slices, rng: np.random.Generator) -> None:
    on([slices[i] for i in (1, 2, 6, 9)], ConvolutionKernel="B60f")


@fault("several_kernels")
def one_slice_of_another_kernel(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], ConvolutionKernel="B40f")


@fault("split", range(N_SLICES - 1))
def last_slice_of_another_kernel(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[-1:], ConvolutionKernel="B40f")


@fault("several_kernels")
def another_kernel_for_each_slice(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.ConvolutionKernel = f"B7{index % 10}{'fs'[index // 10]}"


@fault("split", range(1, N_SLICES))
def first_slice_of_another_thickness(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[:1], SliceThickness=1.0)


@fault("several_thicknesses")
def thicknesses_mixed(slices: Slices, rng: np.random.Generator) -> None:
    on([slices[i] for i in (1, 2, 6, 9)], SliceThickness=1.0)


@fault("split")
def thick_slices_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, SliceThickness=8.0)


@fault("exact")
def thickness_missing_in_some(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[::3], SliceThickness=None)


@fault("split")
def two_energies_interleaved(slices: Slices, rng: np.random.Generator) -> Slices:
    return others(slices, KVP=140) + slices


@fault("split", range(7))
def two_series_under_one_uid(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], SeriesNumber=5)


@fault("split", range(7))
def two_descriptions_under_one_uid(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], SeriesDescription="ABDOMEN PV")


@fault("split")
def two_kernels_in_a_folder_without_uids(slices: Slices, rng: np.random.Generator) -> Slices:
    found = slices + others(slices, ConvolutionKernel="B31f", SeriesNumber=3)
    on(found, SeriesInstanceUID=None)
    return found


@fault("split", range(7))
def slabs_overlapping(slices: Slices, rng: np.random.Generator) -> Slices:
    slab = others(slices[5:10], AcquisitionNumber=3)
    for ds in slab:
        ds.ImagePositionPatient[2] += STEP_MM / 2
    return slices[:7] + slab


@fault("split", range(7))
def slabs_overlapping_by_numbers_alone(slices: Slices, rng: np.random.Generator) -> Slices:
    slab = others(slices[5:10])
    for index, ds in enumerate(slab):
        ds.ImagePositionPatient[2] += STEP_MM / 2
        ds.InstanceNumber = 8 + index
    return slices[:7] + slab


@fault("split", range(7))
def two_frames_of_reference(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[7:], FrameOfReferenceUID="1.2.3.9")


@fault("split", EVERY_OTHER)
def frames_of_reference_interleaved(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[1::2], FrameOfReferenceUID="1.9.3.9")


@fault("several_frames_of_reference")
def one_slice_in_another_frame_of_reference(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], FrameOfReferenceUID="1.2.3.9")


@fault("exact")
def frame_of_reference_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, FrameOfReferenceUID=None)
