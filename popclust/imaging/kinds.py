"""What a picture is: a slice as it was reconstructed, or something made of such slices."""

from __future__ import annotations

import re
from functools import lru_cache

from popclust.imaging.facts import Facts
from popclust.imaging.headers import FileHeader

CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.2.2",
    }
)
"""SOP classes of CT images: plain, enhanced, and legacy converted enhanced."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# "US" (unspecified) is what several scanners write for plain HU.
_HU_TYPES = frozenset({"", "HU", "HU_MOD", "US", "NONE"})


def _words(words: str) -> re.Pattern[str]:
    """Any of some words, in which a space may be an underscore, with no letter before or behind."""
    return re.compile(rf"(?<![A-Z])({'|'.join(words.split()).replace('~', '[ _]')})(?![A-Z])")


# In this order: a MIP of an iodine map is an iodine map. A tilde stands for a space or an underscore.
_TYPES = (
    ("localizer", _words("LOCALI[ZS]ER SCOUT TOPOGRAM SURVIEW SCANOGRAM")),
    ("dose_report", _words(r"DOSE~?(INFO|REPORT|RECORD)\w* PATIENT~PROTOCOL PROT")),
    ("secondary_capture", _words("SCREEN~?(SAVE|SHOT|CAPTURE) SECONDARY~CAPTURE PRINT")),
    ("virtual_non_contrast", _words("VNC VUE TNC VIRTUAL~?(NON|UN)~?(CONTRAST|ENHANCED)")),
    (
        "material_map",
        _words(
            r"IODINE\w* MD~\w+ MATERIAL\w* WATER CALCIUM URIC~ACID VNCA PBV Z~?EFF EFF\w*~Z ELECTRON~DENSITY"
            r" RHO R?CB[FV] MTT TTP TMAX PERFUSION\w* QUANTITY"
        ),
    ),
    ("maximum_intensity", _words(r"MIP MAX~?IP MAXIMUM MAXIMUM~\w+")),
    ("minimum_intensity", _words(r"MIN~?IP MNIP MINIMUM MINIMUM~\w+")),
    ("reformatted", _words("MPR CPR REFORMATTED REFORMAT CURVED RESAMPLED CSAPARALLEL")),
    (
        "derived",
        _words(
            r"DERIVED AVERAGE\w* AVG AIP MEAN VRT VR SSD VOLUME~RENDER(ED|ING) VOLREN SUBTRACT\w* ADDITION DIVISION"
            r" MULTIPLICATION FILTERED MONO\w* \d+KEV PROJECTION~IMAGE ENERGY_PROP_WT MASKED STD_DEVIATION"
        ),
    ),
)


def kind_of(header: FileHeader) -> str:
    """What a picture is, as a code among the reasons; empty for a slice as it was reconstructed.

    Parameters
    ----------
    header : FileHeader
        Of a DICOM image.

    Returns
    -------
    str
        `not_ct`, `localizer`, `dose_report`, `secondary_capture`, `virtual_non_contrast`, `material_map`,
        `maximum_intensity`, `minimum_intensity`, `reformatted`, `derived` or nothing.
    """
    if not (header.modality == "CT" or (not header.modality and header.sop_class in CT_CLASSES)):
        return "not_ct"
    if header.is_localizer:
        return "localizer"
    told = _kind_of_type(header.facts.image_type)
    # A capture of a dose report is a dose report, one of a MIP a capture.
    if f"{header.sop_class}.".startswith(f"{_SECONDARY_CAPTURE}."):
        return told if told == "dose_report" else "secondary_capture"
    return told


@lru_cache(1024)
def _kind_of_type(image_type: str) -> str:
    return next((code for code, pattern in _TYPES if pattern.search(image_type)), "")


@lru_cache(1024)
def flaw_of(facts: Facts) -> str:
    """What is wrong with a picture's grey levels, as its header says; empty for nothing.

    Returns
    -------
    str
        `no_rescale`, `not_hu`, `eight_bits`, `burned_in`, `lossy` or nothing.
    """
    if facts.rescale_type not in _HU_TYPES:
        return "not_hu"
    if facts.has_lut or not facts.slope or facts.slope < 0 or facts.intercept is None:
        return "no_rescale"
    if facts.n_samples != 1 or min(facts.bits_stored or 16, facts.bits_allocated or 16) <= 8:
        return "eight_bits"
    if facts.is_burned_in:
        return "burned_in"
    return "lossy" if facts.is_lossy else ""
