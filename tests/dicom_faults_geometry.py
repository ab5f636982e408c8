"""Faults of geometry: where slices lie, how they are turned, and what is missing between them."""

from __future__ import annotations

import numpy as np
from dicom_faults import (
    N_SLICES,
    ORIGIN,
    PIXEL_MM,
    SIZE,
    STEP_MM,
    Slices,
    chest,
    fault,
    on,
    set_stored,
    slice_of,
)


def _turned(angle_deg: float) -> list[float]:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return [1, 0, 0, 0, round(float(c), 8), round(float(s), 8)]


@fault("exact")
def jitter_of_every_other_slice(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[1::2], ImageOrientationPatient=_turned(0.1))


@fault("exact")
def jitter_of_all_slices(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.ImageOrientationPatient = _turned((-1) ** index * float(rng.uniform(0.01, 0.2)))


@fault("exact")
def one_slice_turned_a_little(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[4:5], ImageOrientationPatient=_turned(0.4))


@fault("exact")
def directions_of_few_digits(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImageOrientationPatient=["1.0000", "-0.0001", "0.0", "0.0001", "1.000", "0"])
    on(slices[::2], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])


@fault("irregular_spacing")
def one_slice_of_another_direction(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])


@fault("irregular_spacing")
def one_slice_mirrored(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])


def _coronal(n: int, **values: object) -> Slices:
    hu = chest(seed=9)
    images = [slice_of(hu[index % N_SLICES], index) for index in range(n)]
    for index, ds in enumerate(images):
        ds.SOPInstanceUID = f"1.2.3.10.{index}"
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1] + index * STEP_MM, ORIGIN[2] + 300]
    on(images, **values)
    return images


@fault("exact")
def more_coronal_images_than_axial(slices: Slices, rng: np.random.Generator) -> Slices:
    return _coronal(40) + slices


@fault("exact")
def coronal_images_by_type(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + _coronal(20, ImageType=["DERIVED", "SECONDARY", "MPR"])


@fault("split", range(8))
def another_pixel_spacing_at_the_top(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[8:], PixelSpacing=[9.0, 9.0])


@fault("other_grid")
def another_pixel_spacing_in_the_middle(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], PixelSpacing=[9.0, 9.0])


@fault("split", range(8))
def another_matrix_at_the_top(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices[8:]:
        set_stored(ds, np.zeros((64, 64)))
        ds.Rows = ds.Columns = 64


@fault("other_grid")
def another_matrix_in_the_middle(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices[4:6]:
        set_stored(ds, np.zeros((64, 64)))
        ds.Rows = ds.Columns = 64


@fault("irregular_spacing")
def slice_missing(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices[:5] + slices[6:]


@fault("irregular_spacing")
def thirty_percent_missing(slices: Slices, rng: np.random.Generator) -> Slices:
    return [slices[i] for i in (0, 1, 3, 4, 5, 8, 9, 11)]


@fault("irregular_spacing")
def distances_of_two_kinds(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices[8:]):
        ds.ImagePositionPatient[2] = ORIGIN[2] + 7 * STEP_MM + (index + 1) * 5.0


@fault("position_unknown")
def one_position_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], ImagePositionPatient=None)


@fault("position_unknown")
def position_that_is_no_number(slices: Slices, rng: np.random.Generator) -> None:
    slices[5]["ImagePositionPatient"]._value = ["NaN", "0", "0"]


@fault("position_unknown")
def positions_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImagePositionPatient=None)


@fault("position_unknown")
def directions_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImageOrientationPatient=None)


@fault("position_unknown")
def directions_not_at_right_angles(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0])


@fault("position_unknown")
def pixel_spacing_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PixelSpacing=None)


@fault("position_unknown")
def pixel_spacing_of_zero(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PixelSpacing=[0, 0])


@fault("duplicate_positions")
def all_slices_at_one_place(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImagePositionPatient=list(ORIGIN))


@fault("irregular_spacing")
def one_slice_displaced(slices: Slices, rng: np.random.Generator) -> None:
    slices[5].ImagePositionPatient[0] += 40.0


@fault("gantry_tilt")
def slices_sheared(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.ImagePositionPatient[1] = ORIGIN[1] + 0.5 * index


@fault("gantry_tilt")
def tilt_in_the_tag_alone(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, GantryDetectorTilt=15.0)


@fault("gantry_tilt")
def tilt_with_slices_along_the_table(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, GantryDetectorTilt=15.0, ImageOrientationPatient=_turned(15.0))


@fault("exact")
def positions_rounded(slices: Slices, rng: np.random.Generator) -> None:
    for index, ds in enumerate(slices):
        ds.ImagePositionPatient[2] = round(ORIGIN[2] + index * STEP_MM + float(rng.uniform(-0.01, 0.01)), 2)


@fault("exact")
def scanned_feet_first(slices: Slices, rng: np.random.Generator) -> Slices:
    on(slices, PatientPosition="FFS")
    return slices[::-1]


@fault("exact")
def images_turned_round(slices: Slices, rng: np.random.Generator) -> None:
    far = (SIZE - 1) * PIXEL_MM
    for ds, plane in zip(slices, chest(), strict=True):
        set_stored(ds, plane[::-1, ::-1].astype(int) + 1024)
        ds.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        ds.ImagePositionPatient = [ORIGIN[0] + far, ORIGIN[1] + far, ds.ImagePositionPatient[2]]


@fault("exact")
def scouts_in_the_series(slices: Slices, rng: np.random.Generator) -> Slices:
    return slices + _coronal(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


@fault("localizer")
def scouts_alone(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"])
