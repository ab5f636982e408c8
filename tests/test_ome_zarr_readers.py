"""Stored volumes as other people's readers see them (the extra `ngff`; skipped without it)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from popclust.imaging.files import read_volume_file
from popclust.imaging.ome_zarr import pyramid, write_ome_zarr
from popclust.imaging.volume import Volume

# the libraries warn of each other's future
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def volume(data_path: Callable[[str], Path]) -> Volume:
    """A real chest CT, z coarser than y and x."""
    return read_volume_file(data_path("ct/lungdx_a0002_B70f.nii.gz"))


@pytest.fixture(scope="module")
def store(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ngff") / "v1.ome.zarr"
    write_ome_zarr(path, volume, "v1")
    return path


def test_ngff_zarr_sees_the_geometry_of_every_level(store: Path, volume: Volume):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    found = ngff_zarr.from_ngff_zarr(str(store), validate=True)
    assert found.metadata.name == "v1"
    levels = list(pyramid(volume))
    assert len(levels) > 1
    for image, level in zip(found.images, levels, strict=True):
        assert image.dims == ("z", "y", "x")
        assert [image.scale[axis] for axis in "zyx"] == pytest.approx(level.spacing_mm)
        assert [image.translation[axis] for axis in "zyx"] == pytest.approx(level.origin_mm)
        np.testing.assert_array_equal(np.asarray(image.data), level.voxels)
        runs = {axis: one.value.value for axis, one in image.axes_orientations.items()}
        assert runs == {"z": "inferior-to-superior", "y": "anterior-to-posterior", "x": "right-to-left"}


def test_ome_zarr_models_finds_the_image_valid(store: Path, volume: Volume):
    zarr = pytest.importorskip("zarr")
    models = pytest.importorskip("ome_zarr_models")
    image = models.open_ome_zarr(zarr.open_group(store, mode="r"))
    assert image.ome_zarr_version == "0.5"
    (multiscale,) = image.attributes.ome.multiscales
    assert multiscale.name == "v1"
    for dataset, level in zip(multiscale.datasets, pyramid(volume), strict=True):
        scale, translation = dataset.coordinateTransformations
        assert list(scale.scale) == pytest.approx(level.spacing_mm)
        assert list(translation.translation) == pytest.approx(level.origin_mm)


def test_napari_s_reader_shows_every_level_at_its_size(store: Path, volume: Volume):
    reader = pytest.importorskip("napari_ome_zarr")
    (levels, shown, kind) = reader.napari_get_reader(str(store))(str(store))[0]
    assert kind == "image"
    for array, level in zip(levels, pyramid(volume), strict=True):
        np.testing.assert_array_equal(np.asarray(array), level.voxels)
    assert shown["axis_labels"] == ("z", "y", "x")
    assert shown["units"] == ("millimeter",) * 3
    assert list(shown["scale"]) == pytest.approx(volume.spacing_mm)  # 0.10 leaves every 0.5 image's translation out
