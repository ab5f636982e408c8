"""Faults of stored bits, of compressed streams and of files that came through in part."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from dicom_compression import SYNTAXES, compress
from dicom_faults import FAULTS, Slices, chest, fault, fault_in_files, on, others, set_stored, stored_of
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames


def edited(path: Path, **values: object) -> None:
    """Set elements of a file."""
    ds = pydicom.dcmread(path)
    on([ds], **values)
    with pydicom.config.disable_value_validation():
        ds.save_as(path)


def as_signed(slices: Slices, bits: int = 16) -> None:
    """Values are HU themselves, in two's complement."""
    mask = (1 << bits) - 1
    for ds, plane in zip(slices, chest(), strict=True):
        whole = plane.astype("<i2").view("<u2") if bits == 16 else plane.astype(np.int32) & mask
        set_stored(ds, whole)
    on(slices, RescaleIntercept=0, PixelRepresentation=1, BitsStored=bits, HighBit=bits - 1)


def in_stream(name: str, outcome: str, syntax: str, before: Callable[[Slices], None], **after: object) -> None:
    """Register a fault that is planted before and after the compression."""

    def in_files(paths: list[Path], rng: np.random.Generator) -> None:
        for path in paths:
            compress(path, syntax)
            if after:
                edited(path, **after)

    def edit(slices: Slices, rng: np.random.Generator) -> None:
        before(slices)

    edit.__name__ = name
    fault(outcome)(edit)
    FAULTS[-1] = replace(FAULTS[-1], in_files=in_files)


def _as_is(slices: Slices) -> None:
    pass


def _extended(slices: Slices) -> None:
    as_signed(slices, 16)


for _syntax in SYNTAXES:
    in_stream(f"{_syntax}_whole", "exact", _syntax, _as_is)
    # A JPEG 2000 stream tells its sign itself; of the others the voxels contradict the header, and nothing decides.
    _told = "exact" if _syntax == "jpeg_2000" else "wrong_sign"
    in_stream(f"{_syntax}_signed_declared_unsigned", _told, _syntax, _extended, PixelRepresentation=0)
    in_stream(f"{_syntax}_signed", "exact", _syntax, _extended)
in_stream("jpeg_2000_bits_declared_sixteen", "exact", "jpeg_2000", _as_is, BitsStored=16, HighBit=15)
in_stream("jpeg_ls_bits_declared_sixteen", "exact", "jpeg_ls", _as_is, BitsStored=16, HighBit=15)
in_stream("jpeg_ls_declared_of_another_size", "unreadable_pixels", "jpeg_ls", _as_is, Rows=16)
in_stream("jpeg_lossless_in_words_of_64_bits", "unreadable_pixels", "jpeg_lossless", _as_is, BitsAllocated=64)
in_stream("jpeg_2000_declared_of_another_size", "unreadable_pixels", "jpeg_2000", _as_is, Columns=64)


@fault_in_files("unreadable_pixels")
def jpeg_2000_of_which_tiles_are_missing(paths: list[Path], rng: np.random.Generator) -> None:
    """The stream says that it has more tiles than there are."""
    for path in paths:
        compress(path, "jpeg_2000")
        ds = pydicom.dcmread(path)
        body = bytearray(next(generate_frames(ds.PixelData, number_of_frames=1)))
        size = body.index(b"\xff\x4f\xff\x51") + 24
        body[size : size + 8] = struct.pack(">II", 8, 4)
        ds.PixelData = encapsulate([bytes(body)])
        ds.save_as(path)


@fault("exact")
def signed_values(slices: Slices, rng: np.random.Generator) -> None:
    as_signed(slices)


@fault("exact")
def signed_values_of_thirteen_bits(slices: Slices, rng: np.random.Generator) -> None:
    as_signed(slices)
    on(slices, BitsStored=13, HighBit=12)


@fault("exact")
def signed_values_without_their_high_bits(slices: Slices, rng: np.random.Generator) -> None:
    as_signed(slices, bits=12)


@fault("wrong_sign")
def signed_declared_unsigned(slices: Slices, rng: np.random.Generator) -> None:
    as_signed(slices)
    on(slices, PixelRepresentation=0)


@fault("wrong_sign")
def signed_of_twelve_bits_declared_unsigned(slices: Slices, rng: np.random.Generator) -> None:
    as_signed(slices, bits=12)
    on(slices, PixelRepresentation=0)


@fault("wrong_sign")
def unsigned_declared_signed(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PixelRepresentation=1)


@fault("wrong_sign")
def one_slice_signed_declared_unsigned(slices: Slices, rng: np.random.Generator) -> None:
    set_stored(slices[5], chest()[5].astype("<i2").view("<u2"))
    on(slices[5:6], RescaleIntercept=0, BitsStored=16, HighBit=15)


@fault("exact")
def overlay_in_the_high_bits(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        drawn = np.zeros((ds.Rows, ds.Columns), dtype=np.int32)
        drawn[3:9, 4:20] = 1 << 12
        set_stored(ds, stored_of(ds) | drawn)
        for element, vr, value in ((0x10, "US", ds.Rows), (0x11, "US", ds.Columns), (0x40, "CS", "G")):
            ds.add_new((0x6000, element), vr, value)
        ds.add_new((0x6000, 0x0050), "SS", [1, 1])
        ds.add_new((0x6000, 0x0100), "US", 16)
        ds.add_new((0x6000, 0x0102), "US", 12)


@fault("exact")
def noise_in_the_high_bits(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        set_stored(ds, stored_of(ds) | (rng.integers(0, 16, (ds.Rows, ds.Columns)) << 12))


@fault("exact")
def one_high_bit_of_some_voxels(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        set_stored(ds, stored_of(ds) | ((rng.random((ds.Rows, ds.Columns)) < 0.1).astype(int) << 14))


@fault("unreadable_pixels")
def values_beyond_the_bits(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        stored = stored_of(ds)
        y, x = np.mgrid[:32, :32]
        stored += np.rint(4500 * np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 18)).astype(np.int32)
        set_stored(ds, stored)


@fault("exact")
def values_in_the_upper_bits(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        set_stored(ds, stored_of(ds) << 4)
    on(slices, HighBit=15)


@fault("exact")
def highest_bit_told_wrong(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, HighBit=15)


@fault("exact")
def bits_told_as_sixteen(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, BitsStored=16, HighBit=15)


@fault("exact")
def padding_that_equals_tissue(slices: Slices, rng: np.random.Generator) -> None:
    as_signed(slices)
    for ds in slices:
        ds.add_new("PixelPaddingValue", "SS", 0)


@fault("exact")
def padding_that_equals_tissue_unsigned(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.add_new("PixelPaddingValue", "US", 1024 + 50)


@fault("exact")
def padding_that_equals_lung(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.add_new("PixelPaddingValue", "US", 1024 - 860)
        ds.add_new("PixelPaddingRangeLimit", "US", 1024 - 855)


@fault("exact")
def padding_that_no_voxel_has(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.add_new("PixelPaddingValue", "US", 63536)


@fault("exact")
def padding_that_is_no_number(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.add_new("PixelPaddingValue", "US", [])


@fault("exact")
def photometric_of_another_spelling(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, PhotometricInterpretation="MONOCHROME2 ")


@fault("unreadable_pixels")
def lower_half_of_one_zeroed(slices: Slices, rng: np.random.Generator) -> None:
    stored = stored_of(slices[5])
    stored[16:] = 0
    set_stored(slices[5], stored)


@fault("unreadable_pixels")
def lower_half_of_all_zeroed(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        stored = stored_of(ds)
        stored[16:] = 0
        set_stored(ds, stored)


@fault("unreadable_pixels")
def a_block_in_the_middle_zeroed(slices: Slices, rng: np.random.Generator) -> None:
    stored = stored_of(slices[5])
    stored[12:18] = 0
    set_stored(slices[5], stored)


@fault("unreadable_pixels")
def one_slice_blank(slices: Slices, rng: np.random.Generator) -> None:
    set_stored(slices[5], np.zeros((32, 32)))


@fault("unreadable_pixels")
def last_slice_blank(slices: Slices, rng: np.random.Generator) -> None:
    set_stored(slices[-1], np.full((32, 32), 24))


@fault("unreadable_pixels")
def one_slice_in_the_place_of_the_next(slices: Slices, rng: np.random.Generator) -> None:
    slices[6].PixelData = slices[5].PixelData


@fault("unreadable_pixels")
def bytes_swapped(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        set_stored(ds, stored_of(ds).astype("<u2").byteswap())
    on(slices, BitsStored=16, HighBit=15)


@fault("unreadable_pixels")
def fewer_rows_told(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Rows=24)


@fault("unreadable_pixels")
def more_rows_told(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Rows=48)


@fault("unreadable_pixels")
def huge_dimensions(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Rows=65000, Columns=65000)


@fault("unreadable_pixels")
def dimensions_of_zero(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, Rows=0, Columns=0)


@fault("unreadable_header")
def a_million_frames(slices: Slices, rng: np.random.Generator) -> None:
    on(slices, NumberOfFrames=1_000_000_000)


@fault("unreadable_pixels")
def pixels_missing(slices: Slices, rng: np.random.Generator) -> None:
    on(slices[5:6], PixelData=None)


@fault("unreadable_pixels")
def pixels_empty(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices[5:6]:
        ds["PixelData"]._value = b""


@fault("unreadable_pixels")
def unknown_compression(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        ds.PixelData = encapsulate([ds.PixelData])


@fault("exact")
def one_byte_of_padding(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds["PixelData"]._value = ds.PixelData + b"\0\0"


@fault("exact")
def implicit_representation(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"


@fault("exact")
def deflated(slices: Slices, rng: np.random.Generator) -> None:
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"


@fault_in_files("exact")
def no_preamble(paths: list[Path], rng: np.random.Generator) -> None:
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[content.index(b"\x08\x00\x05\x00") :])


@fault_in_files("irregular_spacing")
def one_header_cut(paths: list[Path], rng: np.random.Generator) -> None:
    paths[5].write_bytes(paths[5].read_bytes()[:400])


@fault_in_files("unreadable_pixels")
def one_file_cut(paths: list[Path], rng: np.random.Generator) -> None:
    paths[5].write_bytes(paths[5].read_bytes()[:-600])


@fault_in_files("unreadable_pixels")
def all_files_cut_by_a_byte(paths: list[Path], rng: np.random.Generator) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-2])


@fault_in_files("exact")
def rubbish_behind_the_end(paths: list[Path], rng: np.random.Generator) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes() + b"\0" * 100)


def _shortened(ds: Dataset, with_end: bool) -> None:
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    cut = frame[: int(len(frame) * 0.6)]
    ds.PixelData = encapsulate([cut + b"\xff\xd9" if with_end else cut])


def _cut_stream(syntax: str, with_end: bool) -> None:
    def in_files(paths: list[Path], rng: np.random.Generator) -> None:
        for index, path in enumerate(paths):
            compress(path, syntax)
            if index == 5:
                ds = pydicom.dcmread(path)
                _shortened(ds, with_end)
                ds.save_as(path)

    in_files.__name__ = f"{syntax}_stream_cut{'_and_closed' if with_end else ''}"
    fault_in_files("unreadable_pixels")(in_files)


for _syntax in SYNTAXES:
    _cut_stream(_syntax, with_end=False)
    if _syntax != "run_lengths":
        _cut_stream(_syntax, with_end=True)


@fault("duplicate_positions")
def a_repaired_slice_beside_the_broken_one(slices: Slices, rng: np.random.Generator) -> Slices:
    again = others(slices[5:6], seed=None)
    stored = stored_of(slices[5])
    stored[16:] = 0
    set_stored(slices[5], stored)
    return slices + again
