"""Compressed frames: whether they are whole, and what they say of their values themselves."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from popclust.imaging.bits import Stream

_END = b"\xff\xd9"
"""Ends a JPEG, a JPEG-LS and a JPEG 2000 stream."""
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (*range(50, 71), 80, 81))
# Start of frame of each process; C4, C8 and CC are tables.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def stream_of(dataset: Dataset, syntax: str) -> Stream | None:
    """What the stream of the first frame says; all frames are looked at whether they are whole.

    Parameters
    ----------
    dataset : pydicom.Dataset
        With its pixel data.
    syntax : str
        Its transfer syntax.

    Raises
    ------
    ValueError
        A frame ends before its end, or is of another size than the header says.
    """
    if syntax not in _JPEG | _JPEG_2000:
        return None
    bits = int(dataset.BitsAllocated)
    # gdcm ends the whole process where the sizes of words or the number of colours make no sense.
    if bits not in (8, 16) or not 0 <= int(dataset.get("HighBit") or 0) < bits or int(dataset.SamplesPerPixel) != 1:
        raise ValueError("no words of 8 or 16 bits")
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    found = None
    for frame in generate_frames(dataset.PixelData, number_of_frames=n_frames):
        body = frame.rstrip(b"\0")
        if syntax in _JPEG and not body.endswith(_END):
            raise ValueError("a frame has no end")
        stream, rows, columns = _jpeg_2000(body) if syntax in _JPEG_2000 else _jpeg(body)
        if (rows, columns) != (dataset.Rows, dataset.Columns):
            raise ValueError("a frame is of another size than the header says")
        if stream.bits > bits:
            raise ValueError("a frame has more bits than its words")
        found = found or stream
    return found


def _jpeg(body: bytes) -> tuple[Stream, int, int]:
    for marker, segment in _segments(body):
        if marker in _FRAMES:
            bits, rows, columns, n_colours = struct.unpack_from(">BHHB", segment)
            if n_colours != 1:
                raise ValueError("a frame has colours")
            return Stream(bits), rows, columns
    raise ValueError("a frame has no header")


def _segments(body: bytes) -> Iterator[tuple[int, bytes]]:
    place = 2
    while place + 4 <= len(body) and body[place] == 0xFF:
        marker = body[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        length = int.from_bytes(body[place + 2 : place + 4], "big")
        yield marker, body[place + 4 : place + 2 + length]
        place += 2 + length


def _jpeg_2000(body: bytes) -> tuple[Stream, int, int]:
    start = body.index(b"\xff\x4f\xff\x51")  # behind the boxes of a JP2 file, which some writers keep
    (width, height, left, top) = struct.unpack_from(">IIII", body, start + 8)
    depth = body[start + 42]
    if body[start + 40 : start + 42] != b"\x00\x01":
        raise ValueError("a frame has colours")
    _check_tiles(body, start)
    return Stream((depth & 0x7F) + 1, bool(depth >> 7)), height - top, width - left


def _check_tiles(body: bytes, start: int) -> None:
    """Follow the lengths of the tile parts: every tile must be there, and the last end within the stream.

    Decoders leave out what is missing, or go through millions of tiles of a pixel each for a long time.
    """
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", body, start + 8)
    n_tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
    place = body.find(b"\xff\x90", start)
    seen = set[int]()
    while body[place : place + 2] == b"\xff\x90":
        tile, length = struct.unpack_from(">HI", body, place + 4)
        seen.add(tile)
        if length == 0:  # up to the end
            if not body.endswith(_END):
                raise ValueError("a frame has no end")
            place = len(body)
            break
        place += length
    if len(seen) != n_tiles or max(seen) >= n_tiles:
        raise ValueError("a frame lacks tiles")
    if place > len(body) or body[place : place + 2] not in (_END, b""):
        raise ValueError("a tile ends before its end")
