"""What a report says of each finding: affirmed, negated, uncertain, historical, hypothetical or of another person.

The scope rules follow NegEx and ConText (Chapman et al., J Biomed Inform 34, 2001; Harkema et al., J Biomed Inform 42,
2009): a trigger governs the findings after or before it up to the next stop or the end of the sentence. Between
negation and uncertainty the nearer trigger wins; tables of triggers for each language are data
(``triggers_<language>.csv``).
"""

from __future__ import annotations

from collections.abc import Sequence

from popclust.reports.matching import Hit

_FAR = 1 << 60
_NO_STATUS = frozenset({"stop", "link", "present", "soft_stop", "or", "none"})
_STOPS = frozenset({"stop", "link"})
_STOPS_OF_HISTORY = frozenset({"stop", "present"})
_PAIRED = (" noch ", " nor ")
"""What joins a last item to a negated list; a comma after it begins something new."""
_ORDER = ("hypothetical", "other_person", "historical")


def assertions(names: Sequence[Hit], cues: Sequence[Hit], folded: str) -> list[str]:
    """The status of each name of one report.

    Parameters
    ----------
    names, cues : sequence of Hit
        As :meth:`popclust.reports.matching.Matcher.find` gives them.
    folded : str
        The folded report.

    Returns
    -------
    list of str
        One of :data:`popclust.reports.triggers.STATUSES` for each name.
    """
    statuses: list[str] = []
    n_cues, n_names = len(cues), len(names)
    first_cue = first_name = 0
    for i in range(n_cues + 1):
        if i < n_cues and not cues[i].pattern.mark and cues[i].pattern.heading is None:
            continue
        sentence_end = cues[i].start if i < n_cues else len(folded)
        last_name = first_name
        while last_name < n_names and names[last_name].start < sentence_end:
            last_name += 1
        if last_name > first_name:
            is_question = i < n_cues and cues[i].pattern.mark == "?"
            asked = _asked_from(folded, cues[first_cue].start if cues else 0, sentence_end) if is_question else _FAR
            inside, found = cues[first_cue : i + 1], names[first_name:last_name]
            statuses += _sentence(found, inside, folded, sentence_end, asked)
        first_cue, first_name = i + 1, last_name
    return statuses


def _sentence(names: Sequence[Hit], cues: Sequence[Hit], folded: str, sentence_end: int, asked: int) -> list[str]:
    """The statuses within one sentence."""
    if not cues:
        return ["affirmed"] * len(names)
    nearest: list[dict[str, int]] = [{} for _ in names]
    sentence_start = min(names[0].start, cues[0].start)
    for i, (start, end, pattern) in enumerate(cues):
        if pattern.kinds <= _NO_STATUS:
            continue
        for trigger in pattern.triggers:
            kind = trigger.kind
            if kind in _NO_STATUS:
                continue
            stops = _STOPS_OF_HISTORY if kind == "historical" else _STOPS
            if trigger.before:
                reach = _next_stop(cues, i, sentence_end, stops)
                if kind == "negated":
                    reach = _list_end(folded, start, reach)
                if trigger.scope:
                    reach = min(reach, _tokens_after(folded, end, trigger.scope))
                _note(nearest, names, kind, end, reach, end, True)
            if trigger.after:
                reach = _last_stop(cues, i, sentence_start, stops)
                if trigger.scope:
                    reach = max(reach, _tokens_before(folded, start, trigger.scope), folded.rfind(" , ", 0, start))
                _note(nearest, names, kind, reach, start, start, False)
    return [_status(near, name.start >= asked) for near, name in zip(nearest, names, strict=True)]


def _asked_from(folded: str, sentence_start: int, sentence_end: int) -> int:
    """Where what a question mark asks of begins: at the bracket that it stands in, else with the sentence."""
    opening = folded.rfind(" ( ", sentence_start, sentence_end)
    return opening if opening >= 0 and folded.find(" ) ", opening, sentence_end) < 0 else 0


def _note(
    nearest: list[dict[str, int]], names: Sequence[Hit], kind: str, low: int, high: int, edge: int, is_before: bool
) -> None:
    """Remember the distance of a trigger for every name that begins within its scope."""
    for near, (start, end, _) in zip(nearest, names, strict=True):
        if (low <= start < high) if is_before else (low <= start and end <= high):
            distance = start - edge if is_before else edge - end
            near[kind] = min(near.get(kind, _FAR), distance)


def _status(near: dict[str, int], is_question: bool) -> str:
    if is_question:
        return "hypothetical"
    negated, uncertain = near.get("negated", _FAR), near.get("uncertain", _FAR)
    if near.get("affirmed", _FAR) < min(negated, uncertain):
        return "affirmed"
    if negated < _FAR and negated <= uncertain:
        return "negated"
    for kind in _ORDER:
        if kind in near:
            return kind
    return "uncertain" if uncertain < _FAR or "leaning" in near else "affirmed"


def _list_end(folded: str, start: int, reach: int) -> int:
    """Where a negated list with a joined last item ends: "neither A nor B, but C" goes on without "but" too."""
    joined = max(folded.rfind(pair, start, reach) for pair in _PAIRED)
    comma = folded.find(" , ", joined, reach) if joined >= 0 else -1
    return comma + 1 if comma >= 0 else reach


def _next_stop(cues: Sequence[Hit], i: int, sentence_end: int, stops: frozenset[str]) -> int:
    """Where the scope of the cue `i` ends after it."""
    soft = sentence_end
    for start, _, pattern in cues[i + 1 :]:
        kinds = pattern.kinds
        if not kinds.isdisjoint(stops):
            return min(soft, start + 1)
        if "or" in kinds:
            soft = sentence_end
        elif "soft_stop" in kinds and soft == sentence_end:
            soft = start + 1
    return soft


def _last_stop(cues: Sequence[Hit], i: int, sentence_start: int, stops: frozenset[str]) -> int:
    """Where the scope of the cue `i` ends before it."""
    for _, end, pattern in reversed(cues[:i]):
        if not pattern.kinds.isdisjoint(stops):
            return end
    return sentence_start


def _tokens_after(folded: str, position: int, n_tokens: int) -> int:
    """Where `n_tokens` tokens after the space at `position` end."""
    for _ in range(n_tokens):
        position = folded.find(" ", position + 1)
        if position < 0:
            return len(folded)
    return position


def _tokens_before(folded: str, position: int, n_tokens: int) -> int:
    """Where `n_tokens` tokens before the space at `position` begin."""
    for _ in range(n_tokens):
        position = folded.rfind(" ", 0, position)
        if position < 0:
            return 0
    return position
