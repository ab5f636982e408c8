"""Stored values as the numbers they are: bits that are none are masked, and a sign that headers tell wrong is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.errors import VolumeError

_DECISIVE = 1.25
"""An image that is less rough by this factor is the right reading of two."""

_SWAPPED = 8.0
"""By this factor values of swapped bytes are rougher."""


@dataclass(frozen=True)
class Stream:
    """What a compressed stream says of its own values."""

    bits: int
    """Bits per value."""
    is_signed: bool | None = None
    """None where the format does not say."""


@dataclass(frozen=True)
class Declared:
    """What a header says of its stored values."""

    bits: int
    """BitsStored."""
    high_bit: int
    """HighBit."""
    is_signed: bool
    """PixelRepresentation."""
    has_overlay: bool = False
    """Higher bits hold an overlay (OverlayBitPosition)."""


def settled(raw: NDArray, declared: Declared, stream: Stream | None = None) -> tuple[NDArray[np.int64], NDArray | None]:
    """Stored values from what a decoder gave.

    Higher bits are masked where that makes an image less rough than it is with them; a single value that needs them
    is padding. Where a stream and a header disagree on the sign, the reading that is by far less rough counts.

    Parameters
    ----------
    raw : ndarray of int
        Values of any integer type, as decoded.
    declared : Declared
        From the header.
    stream : Stream, optional
        From the compressed stream.

    Returns
    -------
    values : ndarray of int64
        Of the same shape.
    is_padding : ndarray of bool, or None
        Where a value that does not fit the declared bits stands for no voxel.

    Raises
    ------
    VolumeError
        `wrong_sign`, or `unreadable_pixels` if the higher bits can be neither values nor anything else.
    """
    width = raw.dtype.itemsize * 8
    bits = min(declared.bits or width, width, stream.bits if stream and stream.bits > 1 else width)
    pattern = raw.astype(np.int64) & ((1 << width) - 1)
    shift = declared.high_bit + 1 - bits
    if 0 < shift <= width - bits and stream is None and not (pattern & ((1 << shift) - 1)).any() and pattern.any():
        pattern >>= shift  # the values fill the word from above
    unsigned = pattern & ((1 << bits) - 1)
    if stream is None and width == 16 and _is_swapped(pattern):
        raise VolumeError("unreadable_pixels", "the bytes of the stored values are swapped")
    top = unsigned >= 1 << (bits - 1)
    signed = unsigned - (top.astype(np.int64) << bits)
    whole = signed & ((1 << width) - 1)
    is_dirty = (pattern != unsigned) & (pattern != whole)
    is_padding = None
    if is_dirty.any() and (pattern[is_dirty] == pattern[is_dirty].flat[0]).all():
        is_padding, top = is_dirty, top & ~is_dirty
    elif is_dirty.any() and not declared.has_overlay:
        as_is = pattern - ((pattern >= 1 << (width - 1)).astype(np.int64) << width) if declared.is_signed else pattern
        among = is_dirty | top
        if min(roughness(unsigned, among), roughness(signed, among)) > roughness(as_is, among):
            raise VolumeError("unreadable_pixels", "stored values have more bits than the header says")
    is_signed = _sign(unsigned, signed, top, declared, stream) if top.any() else declared.is_signed
    return (signed if is_signed else unsigned), is_padding


def _sign(
    unsigned: NDArray[np.int64], signed: NDArray[np.int64], top: NDArray, declared: Declared, stream: Stream | None
) -> bool:
    """Whether the values are signed."""
    said = {declared.is_signed} | ({stream.is_signed} if stream and stream.is_signed is not None else set())
    top = top & (signed != -1)  # text is drawn at the end of the range, and -1 tells little
    high = unsigned[top]
    if (high == high[:1]).all():  # one value alone is padding
        return declared.is_signed
    as_unsigned, as_signed = roughness(unsigned, top), roughness(signed, top)
    if max(as_unsigned, as_signed) < _DECISIVE * min(as_unsigned, as_signed):
        if len(said) > 1:
            raise VolumeError("wrong_sign", "header and stream disagree on the sign, and the voxels do not tell")
        return declared.is_signed
    found = bool(as_signed < as_unsigned)
    if found not in said:
        raise VolumeError("wrong_sign", "the voxels contradict the sign that the header declares")
    return found


def _is_swapped(pattern: NDArray[np.int64]) -> bool:
    """Whether an image is by far less rough if the two bytes of each value change places."""
    some = pattern.reshape(-1, pattern.shape[-1])[::4]
    if not (some >> 8).any():
        return False
    swapped = ((some & 0xFF) << 8) | (some >> 8)
    as_told, as_swapped = (float(np.abs(np.diff(one, axis=-1)).mean()) for one in (some, swapped))
    return as_told > _SWAPPED * max(as_swapped, 1.0)


def roughness(values: NDArray[np.int64], among: NDArray) -> float:
    """Sum of the steps between neighbours of which at least one is among those meant."""
    total = 0.0
    for axis in (-1, -2):
        steps = np.abs(np.diff(values, axis=axis))
        one = np.take(among, range(1, among.shape[axis]), axis=axis)
        other = np.take(among, range(among.shape[axis] - 1), axis=axis)
        total += float(steps[one | other].sum())
    return total
