"""What the scanner does to texture is found from degraded copies alone, and left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage

from popclust.features.haralick import sample_haralick
from popclust.imaging.acquisition import measure_acquisition
from popclust.imaging.degradation import DEGRADATIONS, STORED_HU, Degradation, degraded
from popclust.imaging.files import read_volume_file
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume
from popclust.population.nuisance import find_nuisance, no_nuisance
from popclust.population.vocabulary import FeatureScaling, Vocabulary
from popclust.settings import HaralickSettings


def pairs(n_volumes: int, shift: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Features of volumes that differ in all directions, and of copies that move along one."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n_volumes):
        rows = rng.normal(size=(500, len(shift))) + rng.normal(size=len(shift))
        out.append(np.stack([rows, rows + shift, rows + 0.7 * shift]))
    return out


def test_the_direction_along_which_copies_move_is_left_out():
    shift = np.array([0.6, -0.8, 0.0, 0.0])
    found = find_nuisance(pairs(6, shift), 0.02, seed=0)
    assert found.n_removed == 1
    assert found.share[0] > 0.1 > 0.02 > found.share[1]
    np.testing.assert_allclose(found.projection @ shift, 0, atol=1e-8)
    np.testing.assert_allclose(found.projection @ found.projection, found.projection, atol=1e-8)


def test_copies_that_do_not_move_leave_everything():
    found = find_nuisance(pairs(4, np.zeros(3)), 0.02, seed=0)
    assert found.n_removed == 0
    np.testing.assert_array_equal(found.projection, np.eye(3))


def test_constant_features_and_one_volume_do_no_harm():
    rows = np.zeros((1, 3, 50, 4))
    found = find_nuisance(list(rows), 0.02, seed=0)
    assert found.n_removed == 0 and np.isfinite(found.share).all()


def test_no_volume_with_features_is_refused():
    with pytest.raises(ValueError, match="pairs"):
        find_nuisance([np.zeros((3, 0, 2))], 0.02, seed=0)


def test_the_same_pairs_give_the_same_bits():
    first, again = (find_nuisance(pairs(3, np.array([1.0, 0.0])), 0.02, seed=1) for _ in range(2))
    assert first.projection.tobytes() == again.projection.tobytes()


def test_words_of_a_copy_are_those_of_the_volume(tmp_path: Path):
    shift = np.array([0.6, -0.8, 0.0, 0.0])
    found = pairs(8, shift)
    rows = np.concatenate([p[0] for p in found])
    plain = FeatureScaling.fitted(rows, np.zeros((len(rows), 3)), 0.0)
    scaled = [plain.standardised(p) for p in found]
    nowhere = np.zeros((500, 3))
    same = {}
    for name, scaling in (("plain", plain), ("without", plain.without(find_nuisance(scaled, 0.02, 0)))):
        words = Vocabulary("haralick", scaling, scaling.apply(rows[::100], np.zeros((len(rows[::100]), 3))))
        same[name] = np.mean([np.mean(words.words(p[0], nowhere) == words.words(p[1], nowhere)) for p in found])
        words.save(zarr.open_group(tmp_path / name, mode="w"))
        again = Vocabulary.load(zarr.open_group(tmp_path / name, mode="r"))
        np.testing.assert_array_equal(again.words(found[0][1], nowhere), words.words(found[0][1], nowhere))
    assert same["without"] > 0.95 > 0.6 > same["plain"]


def test_nothing_left_out_is_the_identity():
    nothing = no_nuisance(5)
    assert nothing.n_removed == 0
    np.testing.assert_array_equal(nothing.projection, np.eye(5))


@pytest.fixture(scope="module")
def chest(data_path: Callable[[str], Path]) -> Volume:
    """A real chest CT."""
    return read_volume_file(data_path("ct/lidc0001.nii.gz"))


@pytest.mark.parametrize("how", DEGRADATIONS)
def test_a_copy_is_as_noisy_as_it_says(chest: Volume, how: Degradation):
    copy = degraded(chest, how, seed=3)
    assert copy.voxels.dtype == np.int16
    assert STORED_HU[0] <= copy.voxels.min() and copy.voxels.max() <= STORED_HU[1]
    np.testing.assert_array_equal(copy.voxels, degraded(chest, how, seed=3).voxels)
    smooth = degraded(chest, Degradation(0.0, 0.0, how.blur_mm, how.slice_mm), seed=3)
    inside = (chest.voxels > -800) & (chest.voxels < 800)
    assert (copy.voxels - smooth.voxels)[inside].std() == pytest.approx(how.noise_hu, rel=0.05, abs=0.01)
    if how.blur_mm:
        before, after = measure_acquisition(chest).edge_mm, measure_acquisition(smooth).edge_mm
        assert before is not None and after is not None and after > before


def test_texture_of_another_scanner_is_nearer_to_its_own_lung_than_before(chest: Volume):
    """On real CT: what is learnt from some degradations holds for one that was not among them."""
    lung = segment_lungs(chest, spacing_mm=3.0)
    settings = HaralickSettings(spacing_mm=3.0, step_mm=9.0)
    seen = [chest, *(degraded(chest, how, i) for i, how in enumerate(DEGRADATIONS))]
    texture = [sample_haralick(v, lung, settings).features for v in seen]
    scaling = FeatureScaling.fitted(texture[0], np.zeros((len(texture[0]), 3)), 0.0)
    nuisance = find_nuisance([scaling.standardised(np.stack(texture))], 0.02, seed=0)
    assert 0 < nuisance.n_removed < len(nuisance.share) / 2

    other = degraded(chest, Degradation(noise_hu=22.0, grain_mm=0.6, blur_mm=0.7), 9)
    moved = sample_haralick(other, lung, settings).features
    nowhere = np.zeros((len(moved), 3))
    distance = {}
    for name, used in (("before", scaling), ("after", scaling.without(nuisance))):
        own, copy = (used.apply(f, nowhere)[:, :13] for f in (texture[0], moved))
        distance[name] = np.linalg.norm(copy.mean(axis=0) - own.mean(axis=0)) / own.std(axis=0).mean()
    assert distance["after"] < 0.5 * distance["before"]


def test_a_lung_that_is_even_has_a_copy(chest: Volume):
    even = chest.with_values(np.full(chest.shape, -850, np.int16))
    lung = chest.with_values(ndimage.binary_erosion(np.ones(chest.shape, bool), iterations=10))
    settings = HaralickSettings(spacing_mm=4.0, step_mm=20.0)
    texture = [sample_haralick(v, lung, settings).features for v in (even, degraded(even, DEGRADATIONS[1], 0))]
    scaling = FeatureScaling.fitted(texture[0], np.zeros((len(texture[0]), 3)), 0.0)
    found = find_nuisance([scaling.standardised(np.stack(texture))], 0.02, 0)
    assert np.isfinite(found.projection).all()
