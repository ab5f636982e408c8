"""Reports without markup and control characters, each piece in the place of what it stands for.

What is cleaned has the length of the report, so that positions in it are positions in the report.
"""

from __future__ import annotations

import html
import re
from itertools import pairwise

LINE_BREAK, PARAGRAPH_BREAK = "\x0b", "\x0c"
"""Tokens of a line break that ends a sentence, and of a blank line."""
INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
"""Characters that are dropped when a text is folded."""

_TAG = re.compile(r"<(?P<end>/?)(?P<name>[a-zA-Z][\w.:-]{0,40})\b[^<>]{0,500}>|<[?!][^<>]{0,500}>")
_INLINE_TAG = re.compile("span|b|i|u|em|strong|font|a|su[bp]|html|body|head|t(?:body|head|d|h)|pre")
_PARAGRAPH_TAG = re.compile("p|div|li|[uo]l|table|tr|hr|title|h[1-6]")
_CHARACTER = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z]{2,10});")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ODD = re.compile(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_RTF = re.compile(
    r"(?P<group>\{\\(?:\*|fonttbl|colortbl|stylesheet|info|pict)(?:[^{}]|\{[^{}]*\})*\})"
    r"|(?P<hex>\\'[0-9a-fA-F]{2})|(?P<code>\\u\d{1,5} ?\??)|(?P<end>\\(?:par|line|row|cell|sect)\b ?)"
    r"|\\[a-z]+-?\d* ?|\\[^a-z]|[{}]"
)
_HL7 = re.compile(r"\\(?P<escape>\.br|\.sp|\.in|\.ti|X0[AD]|[FSTREHN])\\|(?P<end>[~|])")
_HL7_TEXT = {"T": "&", "F": ";", "S": " ", "R": "\n", "E": " ", "H": "", "N": ""}
_BOX = re.compile(r"(?:\[(?=.?\])|\((?=.\)))(?P<mark>[ xX*_✓]?)[\])]|(?P<empty>[□◻])|[☒✓✔]")
_BOXES = ("[", "( )", "(x)", *"□◻☒✓✔")
_DASHES = "-–—"
_NO = (
    r"no|none|nil|not? (?:seen|present|identified|visualized|detected|evident)|neg|negative|absent|n|0"
    r"|nein|keine?[rsn]?|negativ|o\.? ?b\.?"
)
_YES = r"yes|present|pos|positive|y|ja|vorhanden|positiv|j|x"
_ANSWER = re.compile(
    r"[:=|\t([?+–—-](?:"
    r"(?:(?<=[:=\t([?])|(?<=\|)\|?|(?<=[ \t][–—-]))[ \t]{0,40}"
    rf"(?:(?P<no>(?:{_NO})\b|[–—-])|(?:{_YES})\b|\+{{1,3}})(?=[ \t]{{0,40}}(?:[].,;)\n|~]|$)|[ \t]+\w[\w ]{{1,25}}:)"
    r"|(?<=[ \t][+–—-])\+{0,2}(?=[ \t]{0,40}(?:\n|$)))",
    re.IGNORECASE,
)
"""An answer to what stands before it: ``: no``, ``(-)``, ``= yes``, `` +`` at the end of a line."""
_LEADERS = re.compile(rf"(?:\.{{3,}}|_{{3,}}|…)(?=[ \t]{{0,40}}(?:{_NO}|{_YES})\b)", re.IGNORECASE)
_SIDES = ["bds", "beids", "bilat", "re", "li", "rechtss", "linkss", "etc", "usw"]
_ABBREVIATED_END = re.compile(
    rf"\. (?=[A-ZÄÖÜ])(?:{'|'.join(rf'(?<={side}. )(?<!{chr(92)}w{side}. )' for side in _SIDES)})"
)
_BEFORE_ADJECTIVES = frozenset(
    ["im", "am", "der", "die", "das", "den", "des", "dem", "vom", "zum", "zur", "in", "an", "the"]
)
_ABOVE_ALL = re.compile(r"\bv\. ?a\.(?= )")
_GLUED = re.compile(r"\.(?=[A-ZÄÖÜ][a-zäöüß])(?<=[a-zäöüß]{3}\.)")
_BULLET = re.compile(r"(?:[-*•·–]|\d{1,2}[.)])\s|[☐☑]")
_LABEL = re.compile(r"[\w ()/äöüÄÖÜß.-]{2,40}:(?:\s|$)")
_UNFINISHED = re.compile(
    r"(?:[,-]|\b(?:of|the|an?|and|or|nor|no|not|with|without|in|to|for|from|by|is|are|was|were|at|on|und|oder|noch|sowie"
    r"|von|vom|zu|zum|zur|mit|ohne|kein\w{0,2}|eine?[rsnm]?|der|die|das|des|dem|den|im|am|bei|sich|ist|sind|für|auf))$",
    re.IGNORECASE,
)
_NEGATED_LIST = re.compile(r"\b(?:no|without|absence of|negative for|free of|kein\w{0,2}|ohne|frei von)\b[^.]*:$", re.I)
_FULL_WIDTH = 60
"""Characters from which the longest line is taken for the width of the text."""


def cleaned(text: str) -> str:
    """A report without markup, with marks for the ends of lines and the answers of templates.

    Parameters
    ----------
    text : str
        A report, as plain text or with HTML, XML, RTF or HL7 markup.

    Returns
    -------
    str
        Text of the same length.
    """
    if "\\" in text or "~" in text or "|" in text:
        if text.lstrip().startswith("{\\rtf"):
            text = _RTF.sub(_rtf, text)
        text = _HL7.sub(_hl7, _ANSWER.sub(_answer, text))
    if "<" in text:
        text = _TAG.sub(_blank_tag, text)
    if "&" in text:
        text = _CHARACTER.sub(_character, text)
    if not text.isprintable() and _ODD.search(text):
        text = _CONTROL.sub(lambda m: "\n" if m[0] == "\r" else " ", text.replace("\r\n", " \n"))
    text = _signs(text)
    return _mark_breaks(text) if "\n" in text else text


def _signs(text: str) -> str:
    """The signs of templates, and full stops that abbreviations and missing spaces hide."""
    if any(box in text for box in _BOXES):
        text = _BOX.sub(lambda m: ("☐" if m["empty"] or m["mark"] in (" ", "", "_") else "☑").ljust(len(m[0])), text)
    if "..." in text or "___" in text or "…" in text:
        text = _LEADERS.sub(lambda m: ":".ljust(len(m[0])), text)
    text = _ANSWER.sub(_answer, text)
    if "v." in text:
        text = _ABOVE_ALL.sub(lambda m: " " * len(m[0]), text)
    text = _GLUED.sub(LINE_BREAK, text)
    return _ABBREVIATED_END.sub(_ended, text)


def _ended(stop: re.Match[str]) -> str:
    """A full stop with the end of its sentence: "Erguss li. Emphysem", but not "im li. Oberlappen"."""
    words = stop.string[max(0, stop.start() - 30) : stop.start()].lower().split()
    return stop[0] if len(words) > 1 and words[-2] in _BEFORE_ADJECTIVES else "." + LINE_BREAK


def _answer(found: re.Match[str]) -> str:
    """The sign of an answer in the place of what parts it from its question."""
    is_no = found["no"] or (found[0][0] in _DASHES and len(found[0]) == 1)
    return ("⊖" if is_no else "⊕").ljust(len(found[0]))


def _rtf(control: re.Match[str]) -> str:
    width = len(control[0])
    if control["hex"]:
        return bytes.fromhex(control[0][2:]).decode("cp1252", "replace").ljust(width, INVISIBLE[0])
    if control["code"]:
        return chr(int(re.sub(r"\D", "", control[0])) % 0xD800).ljust(width, INVISIBLE[0])
    if control["end"]:
        return "\n\n".ljust(width)
    return " " * width


def _hl7(escape: re.Match[str]) -> str:
    if escape["end"]:
        return "\n"
    return _HL7_TEXT.get(escape["escape"], "\n").ljust(len(escape[0]))


def _blank_tag(tag: re.Match[str]) -> str:
    name, width = (tag["name"] or "pre").lower(), len(tag[0])
    if _INLINE_TAG.fullmatch(name):
        return " " * width
    if name == "br":
        return "\n".ljust(width)
    if _PARAGRAPH_TAG.fullmatch(name) or tag["end"]:
        return "\n\n".ljust(width)
    # An element of XML is called what it holds.
    return f"\n{name.replace('_', ' ')}:".ljust(width)


def _character(reference: re.Match[str]) -> str:
    """One character and soft hyphens, which folding drops, in the place of its reference."""
    character = html.unescape(reference[0])
    if len(character) != 1 or character in "\x00\n":
        return reference[0]
    filler = INVISIBLE[0] if character.isalnum() else " "
    return character.ljust(len(reference[0]), filler)


def _mark_breaks(text: str) -> str:
    """Tell the line breaks that end a sentence from those where a line was full."""
    lines = text.split("\n")
    width = max(map(len, lines))
    parts, is_list = [lines[0]], False
    for before, line in pairwise(lines):
        ended, begun = before.rstrip(), line.lstrip()
        if not begun or not ended.strip():
            mark, is_list = PARAGRAPH_BREAK, False
        elif _BULLET.match(begun):
            if _NEGATED_LIST.search(ended):
                is_list = True
                parts[-1] = parts[-1][: len(ended) - 1] + " " * (len(before) - len(ended) + 1)
            mark = "," if is_list else LINE_BREAK
        else:
            mark, is_list = " " if _goes_on(ended, begun, width) else LINE_BREAK, False
        parts += [mark, line]
    return "".join(parts)


def _goes_on(ended: str, begun: str, width: int) -> bool:
    """Whether a sentence runs over a line break.

    It does where it is unfinished, or where the first word of the next line would not have fitted into the longest
    line, if that is long or the word is in small letters.
    """
    if _LABEL.match(begun) or ended[-1] in ":⊖⊕":
        return False
    if _UNFINISHED.search(ended):
        return True
    is_full = len(ended) + 1 + len(begun.split(None, 1)[0]) > width
    return is_full and (width >= _FULL_WIDTH or begun[0].islower())
