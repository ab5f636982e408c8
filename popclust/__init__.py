"""Groups of patients that nobody labelled, from routine CT, tested against radiology reports.

Everything named here is fetched from its room when it is first asked for, so that ``import popclust`` costs nothing.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from popclust.dataflow.client import connect as connect
    from popclust.dataflow.pipeline import run as run
    from popclust.dataflow.watch import watch as watch
    from popclust.evaluation.associations import associate as associate
    from popclust.evaluation.counting import ReportTerms as ReportTerms
    from popclust.features.haralick import sample_haralick as sample_haralick
    from popclust.features.sift3d import sample_sift as sample_sift
    from popclust.imaging.files import read_volume_file
    from popclust.imaging.lungs import segment_lungs as segment_lungs
    from popclust.imaging.ome_zarr import read_ome_zarr as read_ome_zarr
    from popclust.imaging.volume import Volume as Volume
    from popclust.normalization.atlas import Atlas as Atlas
    from popclust.normalization.normalized import normalize_volume as normalize_volume
    from popclust.population.clustering import descriptor_matrix as descriptor_matrix
    from popclust.population.clustering import group_over_seeds as group_over_seeds
    from popclust.population.clustering import group_volumes as group_volumes
    from popclust.population.neighbours import neighbours as neighbours
    from popclust.population.topics import fit_topics as fit_topics
    from popclust.population.topics import scale_counts as scale_counts
    from popclust.population.vocabulary import learn_vocabulary as learn_vocabulary
    from popclust.presentation.explorer import serve
    from popclust.presentation.export.folder import export as export
    from popclust.presentation.methods import methods as methods
    from popclust.presentation.opened import OpenedStudy
    from popclust.reports.lexicon import load_lexicon as load_lexicon
    from popclust.reports.terms import find_mentions as find_mentions
    from popclust.settings import Settings as Settings
    from popclust.study import Study as Study

    __version__: str
    create = Study.create
    explore = serve
    open = OpenedStudy.open
    read_volume = read_volume_file

_PLACES = {
    "Atlas": "normalization.atlas",
    "ReportTerms": "evaluation.counting",
    "Settings": "settings",
    "Study": "study",
    "Volume": "imaging.volume",
    "associate": "evaluation.associations",
    "connect": "dataflow.client",
    "create": "study:Study.create",
    "descriptor_matrix": "population.clustering",
    "export": "presentation.export.folder",
    "explore": "presentation.explorer:serve",
    "find_mentions": "reports.terms",
    "fit_topics": "population.topics",
    "group_over_seeds": "population.clustering",
    "group_volumes": "population.clustering",
    "learn_vocabulary": "population.vocabulary",
    "load_lexicon": "reports.lexicon",
    "methods": "presentation.methods",
    "neighbours": "population.neighbours",
    "normalize_volume": "normalization.normalized",
    "open": "presentation.opened:OpenedStudy.open",
    "read_ome_zarr": "imaging.ome_zarr",
    "read_volume": "imaging.files:read_volume_file",
    "run": "dataflow.pipeline",
    "sample_haralick": "features.haralick",
    "sample_sift": "features.sift3d",
    "scale_counts": "population.topics",
    "segment_lungs": "imaging.lungs",
    "watch": "dataflow.watch",
}
"""Where each name comes from: the module, and the name there where it is another."""

_SOURCES = (".py", ".typed", ".csv", ".toml", ".html", ".css", ".js")
"""Files of the package that its results can depend on; what compilers and editors leave beside them is none."""


@cache
def source_digest() -> str:
    """What tells this code from any other: the first 16 digits of the SHA-256 of the package's files.

    The version stays the same while code is worked on, this does not.
    """
    import hashlib
    from pathlib import Path

    root = Path(__file__).parent
    digest = hashlib.sha256()
    names = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in _SOURCES)
    for name in sorted(names):
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


if not TYPE_CHECKING:  # a type checker would take it for a promise of every name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("popclust")
        elif name in _PLACES:
            module, _, path = _PLACES[name].partition(":")
            value = import_module(f"popclust.{module}")
            for part in (path or name).split("."):
                value = getattr(value, part)
        else:
            raise AttributeError(f"module 'popclust' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PLACES, "__version__"})
