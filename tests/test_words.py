"""Words and topics as pictures: where they live, and that the patches are those of their words."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_text import unreadable
from made_study import WORDS, MadeStudy, make_study, phantom

from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.imaging.volume import Volume
from popclust.presentation import topic_figures, word_pictures
from popclust.presentation.captions import Drawn
from popclust.presentation.slices import windowed
from popclust.presentation.view import read_view
from popclust.presentation.word_places import PARTS, LungParts, where_in_words


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeStudy:
    return make_study(tmp_path_factory.mktemp("words") / "s", 24, with_words=True)


@pytest.fixture(scope="module")
def seen(made: MadeStudy) -> word_pictures.WordsSeen:
    view = read_view(made.study)
    found = word_pictures.look_at_words(made.study, view.groups["volume_id"], made.study.read_dataset("topics"))
    assert found is not None
    return found


def test_parts_of_the_lungs_are_where_they_are_called() -> None:
    _, lungs = phantom(np.random.default_rng(0), 0)
    parts = LungParts.of(lungs)
    place = lungs.index_to_mm(np.argwhere(lungs.voxels))
    weight = np.bincount(parts.cell_of(place), minlength=parts.cells.voxels.size).astype(float)
    share = dict(zip(PARTS, parts.shares(weight), strict=True))
    for thirds in ("upper", "middle", "lower"):
        assert share[thirds] == pytest.approx(1 / 3, abs=0.08)
    for one, other in (("rim", "core"), ("right", "left"), ("front", "back")):
        assert share[one] + share[other] == pytest.approx(1.0)
    for name, axis, sign in (("upper", 0, 1), ("back", 1, 1), ("left", 2, 1), ("right", 2, -1)):
        only = place[np.argmax(sign * place[:, axis])][None]
        one = np.bincount(parts.cell_of(only), minlength=parts.cells.voxels.size)
        assert parts.shares(one)[PARTS.index(name)] == 1.0
    with pytest.raises(ValueError, match="empty"):
        LungParts.of(lungs.with_values(np.zeros(lungs.shape, bool)))


def test_words_live_where_they_were_put(seen: word_pictures.WordsSeen) -> None:
    for word in range(WORDS["haralick"]):
        where = where_in_words(seen.parts_of_word[word], seen.parts_of_all[word]).split(", ")[0]
        assert where == ("upper" if word % 2 == 0 else "lower"), word
    for vocabulary in WORDS:
        assert seen.share_of_word[seen.vocabulary_of_word == vocabulary].sum() == pytest.approx(1.0)


def test_the_mass_of_topics_is_that_of_their_words(made: MadeStudy, seen: word_pictures.WordsSeen) -> None:
    """By the slow road: every word's features, times the probability of each topic given the word."""
    topics, masses = made.study.read_dataset("topics"), made.study.settings.encode
    posterior = word_pictures.topic_of_word(
        topics["word_of_topic"].to_numpy(), topics["topic_of_volume"].to_numpy().mean(axis=0)
    )
    np.testing.assert_allclose(posterior.sum(axis=0), 1.0)
    mass_of_word = np.array(
        [seen.share_of_word[w] * getattr(masses, f"mass_{v}") for w, v in enumerate(seen.vocabulary_of_word)]
    )
    n_volumes = len(read_view(made.study).groups)
    np.testing.assert_allclose(seen.topic_of_cell.sum(axis=(1, 2, 3)), n_volumes * posterior @ mass_of_word, rtol=1e-6)
    best = word_pictures.telling_words(topics["word_of_topic"].to_numpy(), np.full(20, 0.05), 3)
    assert best.shape == (20, 3) and len(np.unique(best[:, 0])) > 10


def test_patches_are_of_other_volumes_and_nearest_first(made: MadeStudy, seen: word_pictures.WordsSeen) -> None:
    places = seen.places[7]
    assert len({p.volume_id for p in places}) == len(places) == word_pictures.N_PATCHES
    assert [p.distance for p in places] == sorted(p.distance for p in places)
    patch = word_pictures.read_patches(made.study, places)[places[0]]
    volume = read_ome_zarr(made.study.path("volumes", f"{places[0].volume_id}.ome.zarr"))
    z, y, x = np.round(volume.mm_to_index(np.array(places[0].position_mm))).astype(int)
    middle = word_pictures.PATCH_PX // 2
    around = windowed(volume.voxels[z, y - 1 : y + 2, x - 1 : x + 2].astype(float))
    assert around.min() <= patch[middle, middle, 0] <= around.max()  # between its neighbours


def test_a_patch_has_the_patients_left_on_the_right() -> None:
    hu = np.full((4, 40, 40), -1000, np.int16)
    hu[:, 20:, 20:] = 100  # back and left
    patch = word_pictures.patch(Volume(hu, (1.0, 1.0, 1.0)), np.array([2.0, 19.5, 19.5]), edge_mm=20.0, size=20)
    assert patch[15, 15, 0] == 246 and patch[4, 15, 0] == patch[15, 4, 0] < 100


def drawings(made: MadeStudy) -> dict[str, Drawn]:
    return {d.caption.name: d for d in topic_figures.draw_words(read_view(made.study))}


def test_topics_and_words_are_drawn_and_can_be_read(made: MadeStudy) -> None:
    found = drawings(made)
    assert list(found) == [*(f"topic_{t:02d}" for t in range(20)), *(f"words_{v}" for v in WORDS)]
    for name in ("topic_00", "topic_07", "words_micro_sift"):
        assert unreadable(found[name].figure) == []
        assert found[name].caption.caption.endswith(".")
    table = pd.read_csv(io.BytesIO(made.study.read_bytes("figures", "words.csv")))
    assert table.groupby("vocabulary")["word"].max().to_dict() == {v: n - 1 for v, n in WORDS.items()}


def test_without_examples_there_are_maps_and_no_voxels(made: MadeStudy) -> None:
    quiet = MadeStudy(made.study.with_settings("summarize", show_examples=False), made.planted)
    found = drawings(quiet)
    assert not any(name.startswith("words_") for name in found)
    assert len(found["topic_00"].figure.findobj(lambda a: type(a).__name__ == "AxesImage")) == 2  # the maps


def test_without_features_there_is_nothing_to_draw(made: MadeStudy, tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 16, with_volumes=False).study
    assert list(topic_figures.draw_words(read_view(study))) == []
