"""Everything -> figures and one page."""

from __future__ import annotations

import hashlib

from popclust.dataflow.stage import Known, Stage, Work
from popclust.parts import Made
from popclust.presentation.figures import write_figures
from popclust.presentation.summary import write_summary
from popclust.study import Study


def needs(known: Known) -> list[str]:
    """The tests, and the tables that the page shows beside them."""
    markers = [known.marker(s) for s in ("ingest", "duplicates", "normalize", "associate")]
    return [*markers, kept_out(known.study)]


def kept_out(study: Study) -> str:
    """Digest of the table of volumes in quarantine."""
    name = "quarantine.parquet"
    return hashlib.sha256(study.read_bytes(name)).hexdigest() if study.exists(name) else ""


def build(work: Work) -> Made:
    """Draw."""
    study = work.study
    figures = write_figures(study)
    return Made({"figures": figures, "page": write_summary(study, work.run_card).removeprefix(study.url)})


STAGE = Stage(
    name="summarize",
    version=6,
    title="draw figures and page",
    sections=("summarize",),
    reads=("ingest", "duplicates", "normalize", "associate"),
    build_needs=needs,
    build=build,
    results=("figures", "summary"),
)
