"""Faults of what a picture is, and of how its stored values become Hounsfield units."""

from __future__ import annotations

import numpy as np
from dicom_faults import (
    N_SLICES,
    PIXEL_MM,
    SIZE,
    STEP_MM,
    Slices,
    chest,
    chest_slices,
    fault,
    on,
    others,
    set_stored,
    stored_of,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence


@fault("no_rescale")
def rescale_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleSlope=None, RescaleIntercept=None)


@fault("no_rescale")
def slope_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleSlope=None)


@fault("no_rescale")
def rescale_missing_in_one(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], RescaleSlope=None, RescaleIntercept=None)


@fault("split", range(N_SLICES - 1))
def rescale_missing_in_the_last(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[-1:], RescaleSlope=None, RescaleIntercept=None)


@fault("no_rescale")
def rescale_missing_in_most(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[3:], RescaleSlope="", RescaleIntercept="")


@fault("no_rescale")
def slope_of_zero(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleSlope=0)


@fault("no_rescale")
def slope_below_zero(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleSlope=-1, RescaleIntercept=1024)


@fault("no_rescale")
def slope_with_a_comma(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.RescaleSlope = 1
        ds["RescaleSlope"]._value = "1,0"


@fault("exact")
def slope_with_an_exponent(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleSlope="1.0E+00", RescaleIntercept="-1.024E+03")


@fault("mixed_rescale")
def one_intercept_lost(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], RescaleIntercept=0)


@fault("mixed_rescale")
def one_slope_doubled(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], RescaleSlope=2)


@fault("mixed_rescale")
def intercepts_of_the_upper_part_lost(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[8:], RescaleIntercept=0)


@fault("exact")
def a_rescale_for_each_slice(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        set_stored(ds, stored_of(ds) + 10 * index)
        ds.RescaleIntercept = -1024 - 10 * index


@fault("no_rescale")
def a_table_in_place_of_the_slope(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "HU"
        table.add_new(0x00283006, "US", [0, 1, 2, 3])
        ds.ModalityLUTSequence = Sequence([table])
    on(slices, RescaleSlope=None, RescaleIntercept=None)


@fault("not_hu")
def another_quantity(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleType="Z_EFF")


@fault("not_hu")
def another_quantity_after_the_first(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[:1], RescaleType="HU")
    on(slices[1:], RescaleType="MGML")


@fault("split")
def another_quantity_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, RescaleType="MGML")


@fault("exact")
def quantity_unspecified(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, RescaleType="US")


@fault("exact")
def display_inverted(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PhotometricInterpretation="MONOCHROME1")


@fault("exact")
def display_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PhotometricInterpretation=None, SamplesPerPixel=None, WindowCenter=None, WindowWidth=None)


def _typed(name: str, outcome: str, *values: str) -> None:
    def typed(slices: Slices, rng: np.random.Generator) -> None:
        on(slices, ImageType=list(values))

    typed.__name__ = name
    fault(outcome)(typed)


_typed("derived_images", "derived", "DERIVED", "SECONDARY", "OTHER")
_typed("derived_primary_images", "derived", "DERIVED", "PRIMARY", "AXIAL")
_typed("average_images", "derived", "DERIVED", "SECONDARY", "AXIAL", "AVERAGE")
_typed("average_images_called_original", "derived", "ORIGINAL", "PRIMARY", "AXIAL", "AVG_IP")
_typed("monoenergetic_images", "derived", "DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 MONOENERGETIC 70KEV")
_typed("rendered_images", "derived", "DERIVED", "SECONDARY", "AXIAL", "VRT")
_typed("subtracted_images", "derived", "DERIVED", "SECONDARY", "AXIAL", "SUBTRACTION")
_typed("maximum_projections", "maximum_intensity", "DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP")
_typed("maximum_projections_of_frames", "maximum_intensity", "DERIVED", "PRIMARY", "VOLUME", "MAXIMUM")
_typed("minimum_projections", "minimum_intensity", "DERIVED", "SECONDARY", "AXIAL", "MIN_IP")
_typed("reformatted_images", "reformatted", "DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MPR")
_typed("reformatted_images_of_another_vendor", "reformatted", "DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE")
_typed("virtual_unenhanced_images", "virtual_non_contrast", "DERIVED", "PRIMARY", "AXIAL", "CT_SOM7 VNC")
_typed("iodine_maps", "material_map", "DERIVED", "SECONDARY", "AXIAL", "IODINE")
_typed("material_density", "material_map", "DERIVED", "PRIMARY", "AXIAL", "MD_WATER_IODINE")
_typed("atomic_numbers", "material_map", "DERIVED", "SECONDARY", "AXIAL", "EFF_Z")
_typed("perfusion_maps", "material_map", "DERIVED", "PRIMARY", "PERFUSION", "RCBF")
_typed("screens_by_type", "secondary_capture", "DERIVED", "SECONDARY", "SCREEN SAVE")
_typed("dose_reports", "dose_report", "DERIVED", "SECONDARY", "DOSE_INFO")
_typed("two_values_of_the_type", "exact", "ORIGINAL", "PRIMARY")
_typed("secondary_but_original", "exact", "ORIGINAL", "SECONDARY", "AXIAL")
_typed("helix", "exact", "ORIGINAL", "PRIMARY", "AXIAL", "HELIX")


@fault("exact")
def type_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImageType=None)


@fault("secondary_capture")
def screens_by_class(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")


@fault("secondary_capture")
def screens_by_multi_frame_class(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3")


@fault("exact")
def a_dose_report_in_the_series(slices: Slices, rng: np.random.Generator) -> Slices:
    report = others(
        slices[:1], SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"]
    )
    on(report, ImagePositionPatient=None, ImageOrientationPatient=None, RescaleSlope=None)
    return slices + report


@fault("exact")
def slabs_of_maxima_at_the_same_places(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + others(slices, ImageType=["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"])


@fault("exact")
def more_projections_than_slices(slices: Slices, rng: np.random.Generator) -> Slices:
    kind = ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]
    first = others(slices, ImageType=kind)
    second = others(slices, seed=3, ImageType=kind, WindowCenter=1)
    for ds in second:
        ds.ImagePositionPatient[2] += STEP_MM / 2
    return slices + first + second


@fault("derived")
def one_slice_derived(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], ImageType=["DERIVED", "SECONDARY", "AXIAL"])


@fault("burned_in")
def text_in_the_images(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, BurnedInAnnotation="YES")


@fault("exact")
def no_text_in_the_images(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, BurnedInAnnotation="NO", LossyImageCompression="00")


@fault("lossy")
def lossy_once(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, LossyImageCompression="01", LossyImageCompressionRatio=12.5)


@fault("lossy")
def one_slice_lossy(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], LossyImageCompression="01")


@fault("eight_bits")
def windowed_to_eight_bits(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        grey = np.clip((stored_of(ds) - 400) / 8, 0, 255)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        set_stored(ds, grey, "u1")


@fault("eight_bits")
def eight_bits_in_words(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.BitsStored, ds.HighBit = 8, 7
        set_stored(ds, np.clip((stored_of(ds) - 400) / 8, 0, 255))


@fault("eight_bits")
def colours(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        grey = np.clip((stored_of(ds) - 400) / 8, 0, 255)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.SamplesPerPixel = 8, 8, 7, 3
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
        set_stored(ds, np.stack([grey] * 3, axis=-1), "u1")


def _enhanced(hu: np.ndarray, numbers: list[int]) -> Dataset:
    """One enhanced file with the slices of these numbers as frames."""
    ds = chest_slices()[0]
    on([ds], ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None)
    on([ds], RescaleSlope=None, RescaleIntercept=None, ConvolutionKernel=None, KVP=None, InstanceNumber=None)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.ImageType, ds.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(numbers)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[PIXEL_MM, PIXEL_MM], SliceThickness=STEP_MM)]
    shared.PixelValueTransformationSequence = [_item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]
    shared.CTReconstructionSequence = [_item(ConvolutionKernel="B70f")]
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    places = [one.ImagePositionPatient for one in chest_slices()]
    groups = []
    for number in numbers:
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=list(places[number]))]
        group.FrameContentSequence = [_item(FrameAcquisitionNumber=1)]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    set_stored(ds, hu.astype(np.int32) + 1024)
    return ds


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


@fault("exact")
def an_enhanced_file(slices: Slices, rng: np.random.Generator) -> Slices:
    order = [int(number) for number in rng.permutation(N_SLICES)]
    return [_enhanced(chest()[order], order)]


@fault("exact")
def maximum_frames_in_an_enhanced_file(slices: Slices, rng: np.random.Generator) -> Slices:
    ds = _enhanced(np.concatenate([chest(), chest(8)[:5]]), [*range(N_SLICES), *range(5)])
    ds.ImageType = ["MIXED", "PRIMARY", "VOLUME", "MIXED"]
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        kind = (
            ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
            if index < N_SLICES
            else ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"]
        )
        group.CTImageFrameTypeSequence = [_item(FrameType=kind)]
    return [ds]


@fault("maximum_intensity")
def an_enhanced_file_of_maxima(slices: Slices, rng: np.random.Generator) -> Slices:
    ds = _enhanced(chest(), list(range(N_SLICES)))
    ds.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"]
    return [ds]


@fault("split")
def two_phases_in_an_enhanced_file(slices: Slices, rng: np.random.Generator) -> Slices:
    ds = _enhanced(np.concatenate([chest(), chest(8)]), [*range(N_SLICES)] * 2)
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + index // N_SLICES
    return [ds]


@fault("split")
def two_kernels_in_an_enhanced_file(slices: Slices, rng: np.random.Generator) -> Slices:
    ds = _enhanced(np.concatenate([chest(8), chest()]), [*range(N_SLICES)] * 2)
    del ds.SharedFunctionalGroupsSequence[0].CTReconstructionSequence
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.CTReconstructionSequence = [_item(ConvolutionKernel="B70f" if index >= N_SLICES else "B40f")]
    return [ds]


@fault("no_rescale")
def no_rescale_in_an_enhanced_file(slices: Slices, rng: np.random.Generator) -> Slices:
    ds = _enhanced(chest(), list(range(N_SLICES)))
    del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    return [ds]


@fault("position_unknown")
def frames_without_places(slices: Slices, rng: np.random.Generator) -> Slices:
    ds = _enhanced(chest(), list(range(N_SLICES)))
    on([ds], PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None, RescaleSlope=1)
    on([ds], RescaleIntercept=-1024)
    return [ds]


_LETTERS = {
    "E": (7, 4, 6, 4, 7),
    "L": (4, 4, 4, 4, 7),
    "4": (5, 5, 7, 1, 1),
    "7": (7, 1, 1, 1, 1),
    "1": (2, 6, 2, 2, 7),
}


def _drawn(text: str) -> np.ndarray:
    """(row, column) where the ink of a text is, in letters of 5 by 3 pixels."""
    rows = [[f"{_LETTERS[letter][row]:03b}" for letter in text] for row in range(5)]
    return np.array([[digit == "1" for digit in "0".join(row)] for row in rows])


def _lettered(name: str, text: str, row: int, column: int, value: int, outcome: str = "text_in_border") -> None:
    """Text at a place of each slice, counted from the end where it is negative."""

    def lettered(slices: Slices, rng: np.random.Generator) -> None:
        ink = _drawn(text)
        top, left = row % (SIZE - ink.shape[0] + 1), column % (SIZE - ink.shape[1] + 1)
        for ds in slices:
            stored = stored_of(ds)
            stored[top : top + ink.shape[0], left : left + ink.shape[1]][ink] = value
            set_stored(ds, stored)

    lettered.__name__ = name
    fault(outcome)(lettered)


_lettered("text_at_the_top_left", "EL47", 1, 1, 4095)
_lettered("text_at_the_top_right", "7E1", 1, -2, 4095)
_lettered("text_at_the_bottom_left", "LE4", -2, 1, 4095)
_lettered("text_at_the_bottom_right", "EL47", -2, -2, 4095)
_lettered("text_as_of_eight_bits", "EL47", 1, 1, 255)
_lettered("text_as_grey_as_water", "EL471", 1, 3, 1024)


@fault("text_in_border")
def text_that_headers_deny(slices: Slices, rng: np.random.Generator) -> None:
    ink = _drawn("E47")
    on(slices, BurnedInAnnotation="NO")
    for ds in slices:
        stored = stored_of(ds)
        stored[1:6, 1 : 1 + ink.shape[1]][ink] = 4095
        set_stored(ds, stored)


@fault("text_in_border")
def text_with_a_number_that_counts(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ink = _drawn("EL" + "147"[index % 3])
        stored = stored_of(ds)
        stored[1:6, 1 : 1 + ink.shape[1]][ink] = 4095
        set_stored(ds, stored)
