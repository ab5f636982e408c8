"""Word counts -> topics."""

from __future__ import annotations

import xarray as xr
from threadpoolctl import threadpool_limits

from popclust.dataflow.stage import Stage, Work
from popclust.parts import Made
from popclust.population.topics import fit_topics, scale_counts
from popclust.study import Study


def learn(study: Study) -> dict[str, int]:
    """Write topics.zarr."""
    words = study.read_dataset("word_counts")
    scaled = scale_counts(words.counts.values, words.vocabulary.values, study.settings.encode)
    with threadpool_limits(1):  # the order of sums must not depend on the machine's cores
        model = fit_topics(scaled, study.settings.topics)
        topic_of_volume = model.transform(scaled)
    dataset = xr.Dataset(
        {
            "topic_of_volume": (("volume", "topic"), topic_of_volume),
            "word_of_topic": (("topic", "word"), model.word_of_topic),
            "components": (("topic", "word"), model.components),
        },
        coords={"volume": words.volume.values, "vocabulary": ("word", words.vocabulary.values)},
        attrs={"doc_topic_prior": model.doc_topic_prior},
    )
    study.write_dataset("topics", dataset)
    return {"n_topics": int(dataset.sizes["topic"]), "n_volumes": int(dataset.sizes["volume"])}


def build(work: Work) -> Made:
    """Learn the topics in a task."""
    return Made(work.once(learn, work.study))


STAGE = Stage(
    name="topics",
    version=3,
    title="learn topics",
    sections=("encode", "topics"),
    reads=("encode",),
    build_needs=lambda known: [known.marker("encode")],
    build=build,
    results=("topics.zarr",),
)
