"""What a sentence says of a phrase that somebody else found in it."""

from __future__ import annotations

from popclust.reports.lexicon import Lexicon
from popclust.reports.matching import Hit, Pattern, cues_around, matcher
from popclust.reports.negation import assertions
from popclust.reports.sections import valid_headings
from popclust.reports.text import fold, fold_phrase

_NO_TERMS = Lexicon(())


def phrase_status(sentence: str, phrase: str, language: str) -> str:
    """The status of a given phrase in a sentence.

    Parameters
    ----------
    sentence : str
        One or more sentences.
    phrase : str
        What is asked about; where it stands several times the place in capitals counts, else the first. Of a phrase
        that is only partly in the sentence, the part that is counts.
    language : str
        ``"en"`` or ``"de"``.

    Returns
    -------
    str
        One of :data:`popclust.reports.triggers.STATUSES`; ``"affirmed"`` when the phrase is not in the sentence.
    """
    text = fold(sentence)
    place = _place(sentence, text.folded, phrase)
    if place is None:
        return "affirmed"
    cues = valid_headings(cues_around(matcher(_NO_TERMS, language), text.folded, place), text.folded)
    return assertions([place], cues, text.folded)[0]


def _place(sentence: str, folded: str, phrase: str) -> Hit | None:
    """Where the phrase stands in the folded sentence: all of it, or as many of its first words as there are."""
    words = fold_phrase(phrase).split()
    while words:
        wanted = f" {' '.join(words)} "
        places = _all_places(folded, wanted)
        if places:
            start = next((p for p in places if _is_capital(sentence, folded, p, wanted)), places[0])
            return _hit(start, start + len(wanted) - 1)
        start = folded.find(wanted[:-1])
        if start >= 0:
            # The phrase as the beginning of an inflected word.
            return _hit(start, folded.index(" ", start + len(wanted) - 1))
        words.pop()
    return None


def _hit(start: int, end: int) -> Hit:
    return Hit(start, end, Pattern(end - start + 1, (0,)))


def _all_places(folded: str, wanted: str) -> list[int]:
    places, start = [], folded.find(wanted)
    while start >= 0:
        places.append(start)
        start = folded.find(wanted, start + 1)
    return places


def _is_capital(sentence: str, folded: str, start: int, wanted: str) -> bool:
    ((first, last),) = fold(sentence).spans([(start, start + len(wanted) - 1)])
    return sentence[first:last].isupper()
