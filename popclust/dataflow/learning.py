"""What is learnt from the whole population, out of core: visual words, and groups when volumes are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from dask_ml.wrappers import Incremental
from distributed import Client
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin_min

from popclust import schema
from popclust.dataflow.stages import stage_named
from popclust.dataflow.window import watched
from popclust.population.clustering import KMeansFit, exact_kmeans
from popclust.population.nuisance import find_nuisance
from popclust.population.vocabulary import VOCABULARIES, FeatureScaling, Vocabulary, training_order
from popclust.settings import ClusterSettings, ComputeSettings
from popclust.study import Study

_SLAB_BYTES = 256 * 2**20
"""Training rows held in memory at once while they are packed: a slab."""
_SCALING_ROWS = 200_000
"""Training rows, shuffled already, from which the scaling is learnt."""
_SAMPLED_VOLUMES = 20_000
"""Volumes whose exact groups the mini-batches of groups start from."""
_GROUP_BLOCK = 8192
"""Volumes of such a mini-batch."""
_GROUP_PASSES = 3
"""Times that they go through the population."""


def pack_training(study: Study, volume_ids: Sequence[str]) -> Mapping[str, Any]:
    """Gather every volume's training sample into vocabulary/training.zarr, spread over the population.

    Slab after slab of it holds rows i to j of every volume, in random order. Every sample is read once and its rows are
    written to their slabs, which then are shuffled where they lie: memory holds one slab, or the samples of as many
    volumes as fill one, and no volume's file stays open.
    """
    samples = [TrainingSample(study, v) for v in sorted(volume_ids)]
    shapes = [sample.shapes() for sample in samples]
    out = study.open_group("vocabulary", "training.zarr", mode="w")
    counts = {}
    for index, name in enumerate(VOCABULARIES):
        n_rows, width = np.array([s[name][0] for s in shapes]), shapes[0][name][1]
        shape = (int(n_rows.sum()), width)
        block = study.settings.vocabulary.block_rows
        packed = schema.create_array(out, "training", name, shape, chunks=(block, width))
        slabs = _write_slabs(packed, name, samples, n_rows)
        rng = np.random.default_rng([study.settings.vocabulary.seed, index])
        for slab in slabs:
            rows = np.asarray(packed[slab])
            packed[slab] = rows[rng.permutation(len(rows))]
        counts[name] = shape[0]
    return counts


def _write_slabs(
    packed: zarr.Array, name: str, samples: Sequence[TrainingSample], n_rows: NDArray[np.integer]
) -> list[slice]:
    """Write the samples' rows to their slabs, in the order of the volumes; returns where the slabs lie."""
    slab_rows = max(1, _SLAB_BYTES // (4 * packed.shape[1]))
    depth = max(1, slab_rows // len(samples))
    firsts = range(0, int(n_rows.max(initial=0)), depth)
    sizes = np.array([np.clip(n_rows - first, 0, depth).sum() for first in firsts], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    at = starts.copy()
    for batch in np.split(np.arange(len(samples)), _full_at(n_rows, slab_rows)):
        rows = [samples[i].rows(name, slice(None)) for i in batch]
        for slab, first in enumerate(firsts):
            taken = training_order(n_rows[batch], first, first + depth)
            piece = np.concatenate([r[t] for r, t in zip(rows, taken, strict=True)])
            packed[at[slab] : at[slab] + len(piece)] = piece
            at[slab] += len(piece)
    return [slice(start, start + size) for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]


def _full_at(n_rows: NDArray[np.integer], limit: int) -> NDArray[np.intp]:
    """Where to cut a sequence of volumes so that each piece has about `limit` rows: where another multiple is reached.

    >>> _full_at(np.array([3, 3, 3, 3, 3]), 6)
    array([2, 4])
    """
    before = np.concatenate([[0], np.cumsum(n_rows)[:-1]]) // limit
    return np.flatnonzero(np.diff(before)) + 1


@dataclass(frozen=True)
class TrainingSample:
    """One volume's training rows on disk."""

    study: Study
    volume_id: str

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns for each vocabulary."""
        return dict(self._read(lambda group: {v: _array(group, f"training_{v}").shape for v in VOCABULARIES}))

    def rows(self, name: str, wanted: slice) -> NDArray[np.float32]:
        """Some of its rows."""
        return np.asarray(self._read(lambda group: _array(group, f"training_{name}")[wanted]))

    def _read(self, take: Callable[[zarr.Group], Any]) -> Any:
        files = stage_named("extract").files_of(self.volume_id)
        try:
            return take(self.study.open_group(*files))
        except Exception:
            self.study.check_part("extract", self.volume_id, files)  # damaged: that part is at fault
            raise


def learn_words(
    study: Study, name: str, client: Client | None, pairs: Sequence[NDArray[np.float32]] = ()
) -> Mapping[str, Any]:
    """Learn one vocabulary by dask-ml's incremental mini-batch k-means over the packed training rows.

    `pairs` are features (copy, n, d) of some volumes and of their degraded copies: what moves there is left out.
    """
    settings = study.settings.vocabulary
    rows = _array(study.open_group("vocabulary", "training.zarr"), name)
    width = rows.shape[1] - 3
    first = np.asarray(rows[:_SCALING_ROWS])
    group = study.open_group("vocabulary", f"{name}.zarr", mode="w")
    if len(first) == 0:  # nobody has a feature of this kind: a vocabulary of no words
        scaling = FeatureScaling.empty(width, settings.spatial_weight)
        Vocabulary(name, scaling, np.zeros((0, width + 3), np.float32)).save(group)
        return {"n_rows": 0, "n_words": 0, "inertia_per_row": None}
    scaling = FeatureScaling.fitted(first[:, :width], first[:, width:], settings.spatial_weight)
    if pairs:
        moved = [scaling.standardised(p) for p in pairs]
        scaling = scaling.without(find_nuisance(moved, settings.nuisance_share, settings.seed))
    scaled = scaling.apply(first[:, :width], first[:, width:])
    n_words = _n_distinct(scaled, getattr(settings, f"n_words_{name}"))
    # The last block joins its neighbour: a mini-batch smaller than the number of words cannot start one.
    chunks = _blocks(rows.shape[0], max(settings.block_rows, n_words))
    array = da.from_zarr(rows, chunks=(chunks, rows.shape[1])).map_blocks(_scale, scaling, width, dtype=np.float32)
    estimator = MiniBatchKMeans(n_words, random_state=settings.seed, n_init=3, reassignment_ratio=0.001)
    kmeans = Incremental(estimator, shuffle_blocks=False)  # the rows are shuffled already, by a seed
    with scheduler_of(client, f"vocabulary {name}", study.settings.compute):
        for _ in range(settings.n_passes):
            kmeans.partial_fit(array)
    centres = np.ascontiguousarray(kmeans.estimator_.cluster_centers_, dtype=np.float32)
    words = Vocabulary(name, scaling, centres)
    words.save(group)
    return {
        "n_rows": rows.shape[0],
        "n_words": n_words,
        "inertia_per_row": _inertia(scaled, centres),
        "n_removed": scaling.nuisance.n_removed,
        "nuisance_share": scaling.nuisance.share.round(6).tolist(),
    }


def fit_of_groups(settings: ClusterSettings, n_volumes: int) -> KMeansFit:
    """What finds the groups' centres in a population of this size."""
    is_exact = settings.engine == "exact" or (settings.engine == "auto" and n_volumes <= settings.exact_limit)
    return exact_kmeans if is_exact else minibatch_centres


def minibatch_centres(descriptors: NDArray[np.float64], n_clusters: int, seed: int) -> NDArray[np.float64]:
    """Centres of groups for populations too large for exact k-means: the best start of a sample, then mini-batches.

    Exact k-means of a sample gives the start, from which dask-ml's incremental mini-batch k-means goes through all
    volumes in random order. Blocks are taken from the matrix by number, so that it is never copied as a whole. Runs
    where it is called: inside a task, on the task's own threads.

    Parameters
    ----------
    descriptors : (volume, feature) array
        Volume descriptors.
    n_clusters : int
        K, at most the number of volumes.
    seed : int
        Seed of the sample, of its starts and of the order.

    Returns
    -------
    (cluster, feature) array

    References
    ----------
    Sculley D. Web-scale k-means clustering. WWW 2010.
    """
    order = np.random.default_rng(seed).permutation(len(descriptors))
    start = exact_kmeans(descriptors[order[: max(_SAMPLED_VOLUMES, n_clusters)]], n_clusters, seed)
    numbers = da.from_array(order, chunks=(_blocks(len(order), max(_GROUP_BLOCK, n_clusters)),))
    width = descriptors.shape[1]
    blocks = numbers.map_blocks(
        lambda rows: descriptors[rows], dtype=descriptors.dtype, new_axis=1, chunks=(numbers.chunks[0], (width,))
    )
    # no centre is started anew: the start's groups are real ones, however small
    estimator = MiniBatchKMeans(n_clusters, init=start, n_init=1, random_state=seed, reassignment_ratio=0.0)
    kmeans = Incremental(estimator, shuffle_blocks=False)
    with dask.config.set(scheduler="synchronous"):
        for _ in range(_GROUP_PASSES):
            kmeans.partial_fit(blocks)
    return np.asarray(kmeans.estimator_.cluster_centers_, dtype=np.float64)


@contextmanager
def scheduler_of(client: Client | None, what: str, compute: ComputeSettings) -> Iterator[None]:
    """Make dask collections compute on the client, or in this thread where there is none."""
    if client is not None:
        with client.as_current(), watched(client, what, compute):
            yield
    else:
        with dask.config.set(scheduler="synchronous"):
            yield


def _scale(rows: NDArray[np.float32], scaling: FeatureScaling, width: int) -> NDArray[np.float32]:
    return scaling.apply(rows[:, :width], rows[:, width:])


def _blocks(n_rows: int, size: int) -> tuple[int, ...]:
    """Sizes of blocks; what is left over joins the last one.

    >>> _blocks(25, 10)
    (10, 15)
    """
    n_blocks = max(1, n_rows // size)
    return (size,) * (n_blocks - 1) + (n_rows - size * (n_blocks - 1),)


def _n_distinct(rows: NDArray[np.float32], limit: int) -> int:
    """How many distinct rows there are, counted no further than the limit: a few rows mostly hold so many."""
    for some in (rows[: 2 * limit], rows):
        if (n := len(np.unique(some, axis=0))) >= limit:
            break
    return min(n, limit)


def _inertia(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> float:
    _, squared = pairwise_distances_argmin_min(rows[:20_000], centres, metric="sqeuclidean")
    return round(float(squared.mean(dtype=np.float64)), 6)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name!r} is not an array")
    return array
