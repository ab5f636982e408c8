"""What the name of a reconstruction kernel says of its sharpness, by vendor, and where it leaves the question open."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Side = Literal["sharp", "soft", "unknown"]


@dataclass(frozen=True)
class KernelName:
    """What a name says."""

    side: Side
    """`unknown`: the voxels have to tell."""
    why: str
    """The rule that says so."""


# The first that matches the whole name counts. Siemens' numbers rise with sharpness: up to 45 for soft tissue, from 56
# (B60 of older scanners) for lung and bone; what is between is called medium and lies on neither side.
_NAMES: tuple[tuple[str, Side, str], ...] = (
    (r"[BIUHT]([0-3]\d|4[0-5])[a-z]*", "soft", "Siemens: number up to 45, soft tissue"),
    (r"[BIU](4[6-9]|5\d)[a-z]*", "unknown", "Siemens: number from 46 to 59, medium"),
    (r"[BIU][6-9]\d[a-z]*", "sharp", "Siemens: number from 60, lung and bone"),
    (r"[BIQHU]l[5-9]\d[a-z]*", "sharp", "Siemens Bl: made for lung, number from 50"),
    (r"[BIQHUST][a-z](5[6-9]|[6-9]\d)[a-z]*", "sharp", "Siemens: number from 56, lung and bone"),
    (r"[BIQHUST][a-z]([0-3]\d|4[0-5])[a-z]*", "soft", "Siemens: number up to 45, soft tissue"),
    (r"[BIQHUST][a-z](4[6-9]|5[0-5])[a-z]*", "unknown", "Siemens: number from 46 to 55, medium"),
    (r"FC[58]\d", "sharp", "Canon FC5x, FC8x: lung and bone"),
    (r"FC3\d", "unknown", "Canon FC3x: bone and inner ear by site"),
    (r"FC\d+", "soft", "Canon FC0x to FC2x, FC4x: body and head"),
    (r"Y[A-E]", "sharp", "Philips YA to YE: lung, high resolution"),
    (r"E[A-C]", "sharp", "Philips (PNMS) EA to EC: high resolution"),
    (r"LUNG[ _]?[A-E]", "sharp", "Philips (PNMS): made for lung"),
    (r"[DEL]", "sharp", "Philips D, E: bone and detail; L: lung"),
    (r"[ABC]", "soft", "Philips A, B, C: smooth to standard, body"),
    (r"[US][A-C]", "soft", "Philips UA to UC, SA to SC: smooth to standard, head and body"),
    (r"((HD|FIRST|AICE)[ _]?)?(LUNG|BONE( ?PLUS)?|EDGE|ULTRA)", "sharp", "GE, Canon: made for lung, bone or edges"),
    (r"((HD|FIRST|AICE)[ _]?)?(STANDARD|STND|SOFT|SOFT TISSUE|BODY)", "soft", "GE, Canon: standard or soft tissue"),
    (r"((HD|FIRST|AICE)[ _]?)?(DETAIL|CHST|CHEST)", "unknown", "GE: between standard and bone"),
    (r"[BL]_V?SHARP\w*", "sharp", "United Imaging: sharp"),
    (r"[BL]_V?SOFT\w*", "soft", "United Imaging: soft"),
)
_DESCRIPTIONS: tuple[tuple[str, Side, str], ...] = (
    (r"\bhrct+\b|high.?res", "sharp", "described as high resolution"),
    (r"\blung(e|en)?\b|\bparan[kc]h?[iy]m|\bpulm", "sharp", "described as of the lung"),
    (r"\bkemik\b|\bbone\b|\bknochen\b", "sharp", "described as of bone"),
    (r"\bmediast|\bsoft\b|\bweichteil", "soft", "described as of the mediastinum or soft tissue"),
)


def explain_kernel(kernel: str | None, description: str | None = None) -> KernelName:
    """What a kernel's name says, else what the series' description does.

    Parameters
    ----------
    kernel : str or None
        ConvolutionKernel, its first value; what stands after a space or slash (a strength of iteration) plays no part.
    description : str or None
        SeriesDescription, which counts only where the kernel says nothing.

    Examples
    --------
    >>> explain_kernel("Br40f").side, explain_kernel("YA").side, explain_kernel("B50f").side
    ('soft', 'sharp', 'unknown')
    """
    name = (kernel or "").strip()
    for pattern, side, why in _NAMES:
        if re.fullmatch(rf"(?i)(?:{pattern})(?:[ /].*)?", name):
            return KernelName(side, why)
    unknown = f"the name {'is in no list' if name else 'is missing'}"
    for pattern, side, why in _DESCRIPTIONS:
        if description and re.search(pattern, description, re.IGNORECASE):
            return KernelName(side, f"{unknown}; {why}")
    return KernelName("unknown", unknown)
