"""Free text of headers: kept where it is of a known shape, else replaced by a keyed hash.

Technicians may write anything into the names of a scanner, its maker and a kernel, and anonymizers do not look there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from popclust.imaging.pseudonyms import keyed_digest

TextKind = Literal["manufacturer", "model", "kernel"]

HASHED = "unlisted-"
"""How a replaced value begins; 16 hexadecimal digits follow, equal for equal values of one kind under one key."""

_MAX_CHARACTERS = 48
_MAX_WORDS = 7


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_MAKERS = _set(
    "siemens ge philips pnms toshiba canon hitachi fujifilm uih neusoft samsung neurologica shimadzu varian elekta adac"
    " cms picker marconi elscint imatron accuray tomotherapy raysearch brainlab nucletron pinnacle mim tomtec vital"
    " terarecon agfa carestream sectra analogic shinva minfound wandong popclust cmr planmed xoran curvebeam"
    " mediso spectrum arineta"
)
_MAKERS_OF_TWO = frozenset({"general electric", "united imaging", "imaging sciences", "vital images"})
_COMPANY = _set(
    "medical system systems healthcare healthineers health technologies technology technologie solutions imaging"
    " corporation corp company co inc incorporated ltd limited gmbh ag bv nv sa mec medizintechnik medsys group"
    " intl international dicom ct radiotherapy radiation oncology shanghai shenyang beijing nederland deutschland"
    " of and the electric sciences dynamics diagnostic diagnostics computed tomography"
)

_FAMILIES = _set(
    "somatom sensation emotion definition naeotom biograph volume spirit balance esprit scope perspective confidence"
    " drive force symbia lightspeed brightspeed hispeed optima discovery revolution frontier cardiographe apex"
    " brilliance ingenuity ict iqon mx incisive spectral gemini vereos access tomoscan precedence essenta"
    " aquilion asteion alexion activion astelion lightning auklet tsx scenaria supria eclos presto radix pratico"
    " uct umi atlas neuviz epoch ceretom bodytom omnitom elite xpress cte pq pqs acq acqsim xio pinnacle eclipse"
    " monaco raystation focal tomotherapy hiart cyberknife oncentra iplan mim halcyon truebeam scintron infinix allura"
    " artis zeego axiom phantom simulated synergy ethos radixact quantum anatom scintcare precision cardiograph"
)
_QUALIFIERS = _set(
    "as as+ open plus pro edge flash go all now top up sim cite ceed alpha peak prime alpha ct pet spect vct st ste rx"
    " iq hd evo gsi ultra xt xte xtra select power plus zoom qx qxi rt dual duo quad idt exp elite core big bore air"
    " large lb one vision genesis prism sp se cx rxl super multi slice slices series spect tf tof xl mct mmr"
    " truepoint truev horizon hirez spectral cz rs helix maxima ascend advance expert optima es cardiac"
    " advantage performance light speed phase system systems medical siemens philips toshiba canon planning"
    " treatment station workstation virtual private motion excel fusion experience smart dt dti mi it ir dr vr nx"
    " flow insight classic essence extreme express ii iii iv twin definitionas scanner edition digital gemstone"
    " 2007 2010 8000 6000 5000 4000 2000"
)

# Letters of a vendor's own, two digits, and what tells apart a scanner's generations.
_KERNEL = re.compile(
    r"""(?ix)
    ( [BHUITJDQS][a-z]?\d\d[a-z]{0,2}                         # Siemens: B70f, Br40d, Hr64h
    | F[CL]\d\d(-?[A-Z])?                                     # Canon: FC52, FC08-H
    | X?[A-Z][A-E] | [A-L] | IMR\d? | Y-?Sharp                # Philips: B, YA, XCB
    | [A-Z]{1,2}_V?(SHARP|SOFT|SMOOTH|STANDARD|NORMAL)(_[A-Z])?  # United Imaging: B_VSHARP_C
    | ((HD|FIRST|AICE|ASIR|DLIR|AIDR|SUPER)[ _-]?)?
      (LUNG|BONE|EDGE|ULTRA|STANDARD|STND|SOFT|SOFT[ _]?TISSUE|BODY|DETAIL|CHEST|CHST|BRAIN|HEAD|ABDOMEN|CARDIAC
      |INNER[ _]?EAR|SHARP|SMOOTH|FLAT|NORMAL|MEDIASTINUM|PARENCHYMA|HRES|HIGH[ _]?RES(OLUTION)?|ANGIO|VASCULAR|ROUTINE)
      ([ _-]?(PLUS|\+|[A-F]|[1-9]|STANDARD|SHARP|MILD|STRONG))?
    )
    ([ /\\_-]?\(?[1-9]\)?)?                                    # a strength of iteration
    """
)


def plain_text(key: bytes, kind: TextKind, text: str | None, known: Collection[str] = ()) -> str | None:
    """A header's free text as it may stand in the study.

    Parameters
    ----------
    key : bytes
        The study's key.
    kind : {'manufacturer', 'model', 'kernel'}
        What the text names.
    text : str or None
        As it stands in the header.
    known : collection of str
        Values that the site vouches for, whatever their shape.

    Returns
    -------
    str or None
        The text itself if it is of a known shape (see :func:`is_plain`), else a keyed hash; None for nothing.
    """
    if not text or text in known or is_plain(kind, text):
        return text or None
    return HASHED + keyed_digest(key, kind, text)[:16]


def is_plain(kind: TextKind, text: str) -> bool:
    """Whether a text can name nothing but a maker, a scanner's model or a kernel.

    A maker's name begins with a maker that is known, followed by words of companies alone. A model has at most seven
    words: one of a family of scanners, others that go with such, and beside these a single letter and three digits. A
    kernel is of a vendor's shape or a word for a tissue, with a strength of at most one digit.

    Examples
    --------
    >>> is_plain("model", "SOMATOM Definition AS+"), is_plain("model", "Sensation Mueller"), is_plain("kernel", "Br40f")
    (True, False, True)
    """
    if len(text) > _MAX_CHARACTERS or not text.isascii():
        return False
    if kind == "kernel":
        return _KERNEL.fullmatch(text) is not None
    if not re.fullmatch(r"[\w .,/+()&-]+", text):
        return False
    words = re.findall(r"[a-z]+\+?|\d+", text.lower())
    return len(words) <= _MAX_WORDS and (_is_maker(words) if kind == "manufacturer" else _is_model(words))


def _is_maker(words: list[str]) -> bool:
    n_known = 1 if words[:1] and words[0] in _MAKERS else 2 if " ".join(words[:2]) in _MAKERS_OF_TWO else 0
    return n_known > 0 and all(word in _COMPANY or word in _MAKERS for word in words[n_known:])


def _is_model(words: list[str]) -> bool:
    others = [word for word in words if word not in _FAMILIES and word not in _QUALIFIERS]
    letters, digits = (re.findall(pattern, "".join(others)) for pattern in ("[a-z]", r"\d"))
    return any(word in _FAMILIES for word in words) and len(letters) <= 1 and len(digits) <= 3
