"""Files sorted into series, and each series into the one stack of slices that is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from popclust.imaging.headers import FileHeader
from popclust.imaging.joining import joined, joint_of
from popclust.imaging.stack import choose_stack
from popclust.settings import IngestSettings


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series, or one volume file."""

    identity: str
    """SeriesInstanceUID, or the name of the source and the path below it where there is none."""
    study_identity: str
    """StudyInstanceUID, or the series' identity."""
    format: Literal["dicom", "volume", "none"]
    """How it is read; `none`: it cannot be."""
    headers: tuple[FileHeader, ...]
    """The images of the stack, from foot to head for axial slices: by position along the slices' normal."""
    set_aside: tuple[tuple[str, int], ...] = ()
    """Images of the series outside the stack: a code, as among the reasons, and how many."""
    n_repeated: int = 0
    """Second exports of an image of the stack."""
    twins: tuple[tuple[int, FileHeader], ...] = ()
    """Images at the place of the stack's image of that index: its copies, if the voxels agree."""
    is_shortened: bool = False
    """Slices beyond the ends of the stack are among those set aside."""
    problems: tuple[str, ...] = ()
    """Codes of what is known to be wrong already."""

    @property
    def n_set_aside(self) -> int:
        """How many images are outside the stack."""
        return sum(n for _, n in self.set_aside)


def group_series(headers: Iterable[FileHeader], rules: IngestSettings | None = None) -> list[SeriesFiles]:
    """Sort headers into series, and choose in each series the stack of slices that makes the volume.

    Slices that each have a SeriesInstanceUID of their own are one series if all else says so. Images with the same
    SOPInstanceUID, position and number are one image. What of the others is the stack is the
    matter of :func:`popclust.imaging.stack.choose_stack`.

    Parameters
    ----------
    headers : iterable of FileHeader
        In any order. Files that are no images are left out; one whose header cannot be read is a series of its own.
    rules : IngestSettings, optional
        What is let in, and which part is preferred; the default rules without it.

    Returns
    -------
    list of SeriesFiles
        Sorted by identity.
    """
    rules = rules or IngestSettings()
    groups: dict[tuple[str, str], list[FileHeader]] = defaultdict(list)
    for header in headers:
        if header.problem != "not_an_image":
            groups[_key(header)].append(header)
    singles = [(name, joint_of(found[0])) for name, found in groups.items() if len(found) == 1]
    together = joined(singles)
    series = [
        _series(groups.pop(name), rules) for name in sorted(groups.keys() - {n for v in together.values() for n in v})
    ]
    for joint, names in together.items():
        series.append(replace(_series([groups[name][0] for name in names], rules), identity=joint))
    return _with_unique_identities(series)


def _key(header: FileHeader) -> tuple[str, str]:
    if header.format != "dicom":
        return "file", header.path
    if header.series_uid:
        return "uid", header.series_uid
    # Slices without any UID belong together if they lie together.
    return "folder", str(Path(header.path).parent)


def _series(headers: list[FileHeader], rules: IngestSettings) -> SeriesFiles:
    headers = sorted(headers, key=lambda header: (header.identity, header.path, header.frame or 0))
    first = headers[0]
    if first.format != "dicom":
        known = (first.problem,) if first.problem else ()
        return SeriesFiles(first.identity, first.identity, first.format, (first,), problems=known)
    unique, copies = _without_repeats(headers)
    choice = choose_stack(unique, rules)
    index_of = {_name(one): index for index, one in enumerate(choice.headers)}
    repeated = [(index_of[_name(one)], one) for one in copies if _name(one) in index_of]
    return SeriesFiles(
        identity=identity_of(first),
        study_identity=first.study_uid or identity_of(first),
        format="dicom",
        headers=tuple(choice.headers),
        set_aside=tuple(sorted(choice.set_aside.items())),
        n_repeated=len(copies) + len(choice.twins),
        twins=(*choice.twins, *repeated),
        is_shortened=choice.is_shortened,
        problems=choice.problems,
    )


def identity_of(header: FileHeader) -> str:
    """The identity of the series that an image belongs to: `SeriesFiles.identity`."""
    if header.format != "dicom":
        return header.identity
    return header.series_uid or header.identity.rpartition("/")[0] or header.identity


def _with_unique_identities(series: list[SeriesFiles]) -> list[SeriesFiles]:
    """Number files of the same relative path below different sources."""
    seen: dict[str, int] = defaultdict(int)
    result = []
    for one in series:
        seen[one.identity] += 1
        if (number := seen[one.identity]) > 1:
            one = replace(one, identity=f"{one.identity}#{number}", study_identity=f"{one.study_identity}#{number}")
        result.append(one)
    return sorted(result, key=lambda one: one.identity)


def _without_repeats(headers: Sequence[FileHeader]) -> tuple[list[FileHeader], list[FileHeader]]:
    """Each image once, and the copies of some."""
    seen: set[tuple[object, ...]] = set()
    unique: list[FileHeader] = []
    copies: list[FileHeader] = []
    for header in headers:
        name = _name(header)
        (copies if name in seen else unique).append(header)
        seen.add(name)
    return unique, copies


def _name(header: FileHeader) -> tuple[object, ...]:
    """What copies of one image have in common; there are exports whose images all have one UID."""
    return header.sop_uid or header.path, header.frame, header.position_mm, header.instance, header.facts
