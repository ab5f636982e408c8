"""Training samples of all volumes -> three vocabularies."""

from __future__ import annotations

from popclust.dataflow.learning import learn_words, pack_training
from popclust.dataflow.stage import Stage, Work, each
from popclust.parts import Made
from popclust.population.vocabulary import VOCABULARIES


def learn(work: Work) -> Made:
    """Pack the training rows, and learn each vocabulary on the Dask cluster."""
    rows = work.once(pack_training, work.study, sorted(work.passing("extract")))
    words = {name: dict(learn_words(work.study, name, work.client)) for name in VOCABULARIES}
    return Made({"rows": dict(rows), "words": words})


STAGE = Stage(
    name="vocabulary",
    version=1,
    title="learn visual words",
    sections=("vocabulary",),
    reads=("extract",),
    build_needs=lambda known: each(known.passing("extract")),
    build=learn,
    results=("vocabulary",),
)
