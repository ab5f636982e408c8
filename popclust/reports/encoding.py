"""The encoding of a file that does not say it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable


def encoding_of(blocks: Iterable[bytes]) -> str:
    """The encoding of a file, from all of it, for a letter that is no UTF-8 may come late.

    Parameters
    ----------
    blocks : iterable of bytes
        The file's content in order.

    Returns
    -------
    str
        ``"utf-16"`` (by its mark), ``"utf-8-sig"`` or, failing these, ``"cp1252"``.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for number, block in enumerate(blocks):
            if number == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16"
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def decoded(data: bytes) -> str:
    """The text of a whole file."""
    return data.decode(encoding_of([data]), "replace")
