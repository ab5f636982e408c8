"""Atlas, vocabularies, topics and the reported groups -> the frozen model, whole in itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from popclust.dataflow import frozen
from popclust.dataflow.stage import Stage, Work
from popclust.dataflow.stages.encode import far_of
from popclust.parts import Made
from popclust.population.external import EXTERNAL
from popclust.population.model import Model
from popclust.population.topics import TopicModel
from popclust.study import Study


def freeze(study: Study) -> Mapping[str, Any]:
    """Write model/."""
    reported = study.reported
    if reported.grouping.descriptor == EXTERNAL:  # a new volume has no vector of another tool
        study.remove("model")
        return {"digest": None, "n_clusters": reported.grouping.n_clusters}
    words, topics = study.read_dataset("word_counts"), study.read_dataset("topics")
    cluster = reported.clusters.set_index("volume_id").loc[words.volume.values, "cluster"].to_numpy(np.int64)
    topic_model = TopicModel(topics.components.values, float(topics.attrs["doc_topic_prior"]))
    masses, descriptor = study.settings.encode, reported.grouping.descriptor
    with threadpool_limits(1):
        model = Model.frozen(
            descriptor,
            words.counts.values,
            words.vocabulary.values,
            masses,
            topic_model,
            cluster,
            far_of(study.records("encode", words.volume.values.tolist())),
            words.zone_counts.values,
            study.settings.freeze.error_rate,
        )
    model.save(study.open_group("model", "groups.zarr", mode="w"))
    return {"digest": frozen.seal(study), "n_clusters": reported.grouping.n_clusters}


def build(work: Work) -> Made:
    """Freeze in a task."""
    record = work.once(freeze, work.study)
    if record["digest"] is None:
        work.line("groups are of vectors of another tool: there is no model that could place new volumes", "yellow")
    return Made(record)


STAGE = Stage(
    name="freeze",
    version=5,
    title="freeze the model",
    sections=("encode", "freeze"),
    reads=("atlas", "vocabulary", "encode", "topics", "associate"),
    build_needs=lambda known: [known.marker(s) for s in ("atlas", "vocabulary", "topics", "associate")],
    build=build,
    results=("model",),
)
