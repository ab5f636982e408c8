"""What visual words and topics look like, and where they live: read from a sample of the population."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from popclust.features.focal import NEAR_MM
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.imaging.volume import AIR_HU, Volume, sample
from popclust.normalization.stored_maps import load_field, load_volume
from popclust.population.topics import focal_mass
from popclust.population.vocabulary import COUNTED, FOCAL, VOCABULARIES, Vocabulary, rows_of_vocabularies
from popclust.presentation.slices import Tile, windowed
from popclust.presentation.word_places import LungParts
from popclust.study import Study

N_SAMPLED = 24
"""Volumes that are looked at: what is read does not grow with the population."""
N_PATCHES = 3
"""Patches of a word, each of another volume."""
PATCH_MM = 40.0
"""Edge of a patch on the body."""
PATCH_PX = 48
"""Edge of a patch in pixels."""


@dataclass(frozen=True)
class Place:
    """Where a word was seen."""

    volume_id: str
    """Pseudonym of the series."""
    position_mm: tuple[float, float, float]
    """In the atlas, zyx."""
    distance: float
    """To the word's centre, in the scaled space of the vocabulary."""


@dataclass(frozen=True)
class WordsSeen:
    """Words and topics as a sample of the population shows them."""

    parts: LungParts
    """The atlas's lungs."""
    vocabulary_of_word: NDArray
    """(word,) vocabulary."""
    share_of_word: NDArray[np.float64]
    """(word,) share of each word among its vocabulary's features."""
    parts_of_word: NDArray[np.float64]
    """(word, part) share of each word's features in each part of the lungs."""
    parts_of_all: NDArray[np.float64]
    """(word, part) the same of all features of the word's vocabulary."""
    topic_of_cell: NDArray[np.float64]
    """(topic, z, y, x) expected mass of each topic in every cell of the atlas."""
    places: tuple[tuple[Place, ...], ...]
    """Of every word the places nearest its centre, each in another volume."""

    @property
    def parts_of_topic(self) -> NDArray[np.float64]:
        """(topic, part) share of each topic's mass in each part of the lungs."""
        return self.parts.shares(self.topic_of_cell.reshape(len(self.topic_of_cell), -1))

    @property
    def parts_of_all_topics(self) -> NDArray[np.float64]:
        """(part,) the same of all topics together."""
        return self.parts.shares(self.topic_of_cell.sum(axis=0).ravel())


def look_at_words(study: Study, volume_ids: Iterable[str], topics: xr.Dataset) -> WordsSeen | None:
    """Go through a sample of volumes; None where the study no longer holds features, vocabularies or atlas.

    Parameters
    ----------
    study : Study
        The study.
    volume_ids : iterable of str
        The volumes grouped.
    topics : Dataset
        topics.zarr.
    """
    sampled = [v for v in sampled_volumes(volume_ids) if study.exists("features", f"{v}.zarr", "zarr.json")]
    reference = study.learnt_path("atlas", "reference.zarr")
    words = read_vocabularies(study)
    if not sampled or words is None or not study.exists("atlas", "reference.zarr", "zarr.json"):
        return None
    parts = LungParts.of(load_volume(zarr.open_group(reference, mode="r"), "lungs"))
    vocabulary_of_word = topics["vocabulary"].to_numpy()
    posterior = topic_of_word(topics["word_of_topic"].to_numpy(), topics["topic_of_volume"].to_numpy().mean(axis=0))
    masses = {v: getattr(study.settings.encode, f"mass_{v}") for v in VOCABULARIES}
    cells = np.zeros((len(vocabulary_of_word), parts.cells.voxels.size), np.float32)
    mass = np.zeros((len(posterior), cells.shape[1]))
    found: list[list[Place]] = [[] for _ in vocabulary_of_word]
    for volume_id in sampled:
        group = study.open_group("features", f"{volume_id}.zarr")
        rows = feature_rows(group, study.settings.sift.micro_macro_mm)
        for name, (features, positions) in rows.items():
            own_words = np.flatnonzero(vocabulary_of_word == name)
            if len(features) == 0 or len(own_words) == 0:
                continue
            first = int(own_words[0])
            near = words[name].nearest(features, positions)
            cell = parts.cell_of(positions)
            np.add.at(cells, (near.word + first, cell), 1.0)
            weight = masses[name] / len(features)
            for topic, of_word in enumerate(posterior[:, first:]):
                mass[topic] += weight * np.bincount(cell, of_word[near.word], minlength=mass.shape[1])
            for own, row in nearest_rows(near.word, near.distance).items():
                z, y, x = (float(p) for p in positions[row])
                found[own + first].append(Place(volume_id, (z, y, x), float(near.distance[row])))
        positions, distances = near_focal(group)
        for word in np.flatnonzero(vocabulary_of_word == FOCAL) if len(positions) else ():
            cell = parts.cell_of(positions)
            np.add.at(cells[word], cell, 1.0)
            weight = focal_mass(len(positions), len(rows["haralick"][0]), study.settings.encode) / len(positions)
            mass += weight * posterior[:, word, None] * np.bincount(cell, minlength=mass.shape[1])
            found[word].append(_nearest_place(volume_id, positions, distances))
    counts = cells.sum(axis=1)
    of_vocabulary = {v: cells[vocabulary_of_word == v].sum(axis=0) for v in COUNTED}
    return WordsSeen(
        parts=parts,
        vocabulary_of_word=vocabulary_of_word,
        share_of_word=counts / np.array([max(float(of_vocabulary[v].sum()), 1.0) for v in vocabulary_of_word]),
        parts_of_word=parts.shares(cells),
        parts_of_all=np.stack([parts.shares(of_vocabulary[v]) for v in vocabulary_of_word]),
        topic_of_cell=mass.reshape(len(mass), *parts.cells.shape),
        places=tuple(tuple(sorted(p, key=lambda one: (one.distance, one.volume_id))[:N_PATCHES]) for p in found),
    )


def sampled_volumes(volume_ids: Iterable[str], n_volumes: int = N_SAMPLED) -> list[str]:
    """Those whose hashed names come first: the choice hardly changes when others join the population."""
    return sorted(volume_ids, key=lambda v: hashlib.sha256(v.encode()).digest())[:n_volumes]


def topic_of_word(word_of_topic: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """(topic, word) probability that a word was said by each topic: Bayes' rule with the topics' mean shares.

    >>> topic_of_word(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0.5, 0.5])).round(3).tolist()
    [[1.0, 0.333], [0.0, 0.667]]
    """
    joint = word_of_topic * share[:, None]
    return joint / np.maximum(joint.sum(axis=0), 1e-300)


def telling_words(word_of_topic: NDArray[np.float64], share: NDArray[np.float64], n_words: int) -> NDArray[np.intp]:
    """(topic, n) words that are frequent in a topic and in few others: by p(word | topic) p(topic | word)."""
    score = word_of_topic * topic_of_word(word_of_topic, share)
    return np.argsort(-score, axis=1, kind="stable")[:, :n_words]


def nearest_rows(word: NDArray[np.intp], distance: NDArray[np.floating]) -> dict[int, int]:
    """Of every word that occurs, the row nearest its centre, the first on ties.

    >>> nearest_rows(np.array([4, 2, 4]), np.array([0.5, 0.1, 0.2]))
    {2: 1, 4: 2}
    """
    order = np.lexsort((distance, word))
    first = np.unique(word[order], return_index=True)[1]
    return {int(word[row]): int(row) for row in order[first]}


def read_patches(study: Study, places: Iterable[Place]) -> dict[Place, Tile]:
    """A patch of every place, each volume read once; without those whose voxels are gone."""
    by_volume: dict[str, list[Place]] = {}
    for place in places:
        by_volume.setdefault(place.volume_id, []).append(place)
    found: dict[Place, Tile] = {}
    for volume_id, own in by_volume.items():
        if not study.exists("volumes", f"{volume_id}.ome.zarr", "zarr.json"):
            continue
        volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
        to_volume = load_field(study.open_group("normalized", f"{volume_id}.zarr"), "to_volume")
        for place, centre in zip(own, to_volume(np.array([p.position_mm for p in own])), strict=True):
            found[place] = patch(volume, centre)
    return found


def patch(volume: Volume, centre_mm: NDArray[np.float64], edge_mm: float = PATCH_MM, size: int = PATCH_PX) -> Tile:
    """An axial square around a position, in the lung window; the patient's left is on the right."""
    step = (np.arange(size) - (size - 1) / 2) * edge_mm / size
    points = np.empty((size, size, 3))
    points[..., 0] = centre_mm[0]
    points[..., 1] = centre_mm[1] + step[:, None]
    points[..., 2] = centre_mm[2] + step[None, :]
    grey = windowed(sample(volume, points, outside=AIR_HU))
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_vocabularies(study: Study) -> dict[str, Vocabulary] | None:
    """The vocabularies that words were counted with, None where they are not made yet."""
    if not study.model_url and not all(study.exists("vocabulary", f"{v}.zarr", "zarr.json") for v in VOCABULARIES):
        return None
    urls = {v: study.learnt_path("vocabulary", f"{v}.zarr") for v in VOCABULARIES}
    return {v: Vocabulary.load(zarr.open_group(url, mode="r")) for v, url in urls.items()}


def _nearest_place(volume_id: str, positions: NDArray[np.floating], distances: NDArray[np.floating]) -> Place:
    at = int(distances.argmin())
    z, y, x = (float(p) for p in positions[at])
    return Place(volume_id, (z, y, x), float(distances[at]))


def near_focal(group: zarr.Group) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Texture samples near a focal density, of a volume's store features: positions in the atlas, distances to it."""
    distance_mm = np.asarray(group["focal_mm"][...])  # type: ignore[index]
    is_near = distance_mm <= NEAR_MM
    return np.asarray(group["haralick_position_mm"][...])[is_near], distance_mm[is_near]  # type: ignore[index]


def feature_rows(group: zarr.Group, micro_macro_mm: float) -> Mapping[str, tuple[NDArray, NDArray]]:
    """Features and positions in the atlas of a volume's store features, by vocabulary."""
    names = ("haralick", "haralick_position_mm", "sift", "sift_position_mm", "diameter_mm")
    features = {name: np.asarray(group[name][...]) for name in names}  # type: ignore[index]
    return rows_of_vocabularies(features, features["diameter_mm"] <= micro_macro_mm)
