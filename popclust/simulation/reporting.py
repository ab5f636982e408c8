"""Findings of one person, and the English or German report that tells of them as radiologists do: not quite."""

from __future__ import annotations

from typing import Literal

import numpy as np

from popclust.simulation.disease import GROUPS
from popclust.simulation.report_english import ENGLISH, ENGLISH_FRAME
from popclust.simulation.report_german import GERMAN, GERMAN_FRAME
from popclust.simulation.report_sentences import Sentences

Language = Literal["en", "de"]
Generator = np.random.Generator

SHARED_FINDINGS: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("RID28496", ("emphysema", "ground_glass", "fibrosis")),
    ("RID28537", ("emphysema", "ground_glass", "nodules")),
    ("RID38588", ("emphysema", "ground_glass", "effusion")),
    ("RID3829", ("emphysema", "fibrosis", "nodules")),
    ("RID4897", ("emphysema", "fibrosis", "effusion")),
    ("RID5196", ("emphysema", "nodules", "effusion")),
    ("RID3953", ("ground_glass", "fibrosis", "nodules")),
    ("RID28493", ("ground_glass", "fibrosis", "effusion")),
    ("RID28510", ("ground_glass", "nodules", "effusion")),
    ("RID3798", ("fibrosis", "nodules", "effusion")),
)
"""RadLex ids of findings that accompany several diseases, as most findings do: all that is known of one disease is how
often each occurs with it. But for septal thickening in ground glass and atelectasis in effusion they are not drawn."""

SHARED_CHANCE, STRAY_CHANCE = 0.92, 0.05
"""Chance of a shared finding in the groups that it accompanies, and in the others."""

BACKGROUND_FINDINGS: tuple[tuple[str, float], ...] = (("RID4650", 0.10), ("RID5352", 0.08))
"""RadLex ids of findings that have nothing to do with the group, and their chances."""

OMISSION = 0.04
"""Share of true findings that the report does not mention."""
FALSE_MENTION = 0.01
"""Chance that a finding that is not there is reported, per report."""
HEDGE = 0.02
"""Share of true findings that the report only calls possible."""

_COMMON_NEGATIVES = ("RID34539", "RID5352", "RID43255", "RID50149", "RID3798", "RID38588", "RID5350", "RID28496")


def draw_findings(group: str, rng: Generator) -> tuple[str, ...]:
    """RadLex ids of what one person of a group has: the group's own, the shared ones, the background's."""
    shared = ((term, SHARED_CHANCE if group in groups else STRAY_CHANCE) for term, groups in SHARED_FINDINGS)
    chances = (*GROUPS[group].findings, *shared, *BACKGROUND_FINDINGS)
    return tuple(term for term, chance in chances if rng.random() < chance)


def write_report(findings: tuple[str, ...], language: Language, rng: Generator) -> str:
    """Write the report of one study.

    Parameters
    ----------
    findings : tuple of str
        RadLex ids of what is there.
    language : {"en", "de"}
        Language.
    rng : numpy.random.Generator
        Chooses wording, omissions, uncertain and false mentions.

    Returns
    -------
    str
        Text with headings for the indication, findings and impression.
    """
    sentences, frame = (ENGLISH, ENGLISH_FRAME) if language == "en" else (GERMAN, GERMAN_FRAME)
    headings = frame.headings[rng.integers(len(frame.headings))]
    said, body = _findings_section(findings, sentences, rng)
    fillers = rng.permutation(np.array(frame.fillers))[: rng.integers(2, 4)].tolist()
    history = sentences[_pick(tuple(sentences), rng)].question if rng.random() < 0.4 else ""
    if rng.random() < 0.1:
        gone = _pick([term for term in _COMMON_NEGATIVES if term not in findings], rng)
        fillers.append(f"{frame.resolved} {sentences[gone].question.rstrip('?.')}.")
    body = rng.permutation(np.array([*body, *fillers])).tolist()
    conclusion = [_pick(sentences[term].present, rng) for term in said[:3]] or [frame.unremarkable]
    indication = f"{_pick(frame.indications, rng)} {history}".strip()
    return "\n".join(
        [headings[0], indication, "", headings[1], *_lines(body, rng), "", headings[2], *_lines(conclusion, rng)]
    )


def _findings_section(
    findings: tuple[str, ...], sentences: dict[str, Sentences], rng: Generator
) -> tuple[list[str], list[str]]:
    """Return the ids that are stated as present, and all sentences."""
    said, body = [], []
    for term in findings:
        chance = rng.random()
        if chance < OMISSION:
            continue
        hedged = chance < OMISSION + HEDGE
        body.append(_pick(sentences[term].uncertain if hedged else sentences[term].present, rng))
        if not hedged:
            said.append(term)
    absent = [term for term in sentences if term not in findings]
    if rng.random() < FALSE_MENTION:
        body.append(_pick(sentences[_pick(absent, rng)].present, rng))
    if rng.random() < 0.12:
        body.append(_pick(sentences[_pick(absent, rng)].uncertain, rng))
    usual = [term for term in _COMMON_NEGATIVES if term in absent]
    named = {*rng.permutation(np.array(usual))[: rng.integers(2, 4)].tolist(), _pick(absent, rng)}
    body += [_pick(sentences[term].absent, rng) for term in sorted(named)]
    return said, body


def _pick(choices: list[str] | tuple[str, ...], rng: Generator) -> str:
    return str(choices[rng.integers(len(choices))])


def _lines(sentences: list[str], rng: Generator) -> list[str]:
    # One paragraph, or one sentence per line.
    return [" ".join(sentences)] if rng.random() < 0.5 else sentences
