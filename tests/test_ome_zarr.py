"""Volumes as OME-Zarr 0.5."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from popclust.imaging.ome_zarr import pyramid, read_ome_zarr, write_ome_zarr
from popclust.imaging.volume import Volume

LENGTH = st.floats(0.1, 10)
PLACE = st.floats(-3000, 3000)


def some_volume(shape: tuple[int, int, int] = (70, 65, 130)) -> Volume:
    values = np.random.default_rng(0).normal(-500, 300, shape).astype(np.int16)
    return Volume(values, (2.5, 0.75, 0.7), (-340.0, -171.3, 165.6))


@given(
    hu=hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)),
    spacing=st.tuples(LENGTH, LENGTH, LENGTH),
    origin=st.tuples(PLACE, PLACE, PLACE),
)
@settings(deadline=None, max_examples=20)
def test_what_is_written_is_read(hu, spacing, origin, tmp_path_factory) -> None:
    store = tmp_path_factory.mktemp("zarr") / "v.ome.zarr"
    write_ome_zarr(store, Volume(hu, spacing, origin))
    volume = read_ome_zarr(store)
    np.testing.assert_array_equal(volume.voxels, hu)
    assert volume.voxels.dtype == np.int16
    assert (volume.spacing_mm, volume.origin_mm) == (spacing, origin)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_masks_and_urls(scheme: str, tmp_path: Path) -> None:
    mask = some_volume().with_values(some_volume().voxels > -500)
    url = f"{scheme}://{tmp_path}/mask.ome.zarr"
    write_ome_zarr(url, mask)
    volume = read_ome_zarr(url)
    assert volume.voxels.dtype == bool
    np.testing.assert_array_equal(volume.voxels, mask.voxels)


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "v", some_volume())
    write_ome_zarr(tmp_path / "v", some_volume((3, 4, 5)))
    assert read_ome_zarr(tmp_path / "v").shape == (3, 4, 5)
    assert files_of(tmp_path / "v") == ["0/c/0/0/0", "0/zarr.json", "zarr.json"]


def files_of(store: Path) -> list[str]:
    return sorted(path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())


def test_equal_bytes(tmp_path: Path) -> None:
    def digests(name: str) -> list[str]:
        write_ome_zarr(tmp_path / name, some_volume())
        return [hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in files_of(tmp_path / name)]

    assert digests("a") == digests("b")


def test_metadata_follow_the_specification(tmp_path: Path) -> None:
    """By hand, from https://ngff.openmicroscopy.org/0.5/ ("multiscales" and what it refers to)."""
    volume = some_volume()
    write_ome_zarr(tmp_path / "v.ome.zarr", volume, "v1")
    group = json.loads((tmp_path / "v.ome.zarr" / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert {(axis["type"], axis["unit"]) for axis in image["axes"]} == {("space", "millimeter")}
    assert {axis["name"]: axis["orientation"] for axis in image["axes"]} == {
        "z": {"type": "anatomical", "value": "inferior-to-superior"},
        "y": {"type": "anatomical", "value": "anterior-to-posterior"},
        "x": {"type": "anatomical", "value": "right-to-left"},
    }
    assert image["name"] == "v1"
    dataset = image["datasets"][0]
    scale, translation = dataset["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": list(volume.spacing_mm)}
    assert translation == {"type": "translation", "translation": list(volume.origin_mm)}
    array = json.loads((tmp_path / "v.ome.zarr" / dataset["path"] / "zarr.json").read_text())
    assert (array["zarr_format"], array["node_type"]) == (3, "array")
    assert array["shape"] == list(volume.shape)
    assert array["dimension_names"] == ["z", "y", "x"]
    assert array["data_type"] == "int16"


def test_coarser_levels_hold_means_in_the_middle_of_what_they_stand_for(tmp_path: Path) -> None:
    hu = np.random.default_rng(1).integers(-1024, 3000, (21, 131, 260)).astype(np.int16)
    volume = Volume(hu, (2.0, 0.75, 0.7), (-340.0, -171.3, 165.6))
    first, second, third = list(pyramid(volume))[:3]
    assert first is volume
    assert (second.shape, second.spacing_mm) == ((21, 65, 130), (2.0, 1.5, 1.4))  # z is coarser by far
    assert second.origin_mm == pytest.approx((-340.0, -171.3 + 0.375, 165.6 + 0.35))
    assert second.voxels[3, 10, 20] == np.rint(hu[3, 20:22, 40:42].mean())
    assert (third.shape, third.spacing_mm) == ((21, 32, 65), (2.0, 3.0, 2.8))
    assert [level.shape for level in pyramid(volume)][-1] == (10, 32, 32)
    write_ome_zarr(tmp_path / "v", volume)
    group = zarr.open_group(tmp_path / "v", mode="r")
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
    for dataset, level in zip(datasets, pyramid(volume), strict=True):
        np.testing.assert_array_equal(group[dataset["path"]][...], level.voxels)
        scale, translation = dataset["coordinateTransformations"]
        assert (tuple(scale["scale"]), tuple(translation["translation"])) == (level.spacing_mm, level.origin_mm)


def test_coarser_levels_of_a_flat_volume_and_of_a_mask() -> None:
    flat = list(pyramid(Volume(np.ones((1, 1, 200), bool), (1.0, 1.0, 1.0))))
    assert [level.shape for level in flat] == [(1, 1, 200), (1, 1, 100), (1, 1, 50)]
    assert all(level.voxels.dtype == bool and level.voxels.all() for level in flat)


def test_one_shard_of_small_compressed_chunks(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "v", some_volume())
    array = zarr.open_group(tmp_path / "v", mode="r")["0"]
    assert isinstance(array, zarr.Array)
    assert (array.chunks, array.shards) == ((64, 64, 64), (128, 128, 192))
    np.testing.assert_array_equal(array[64:66, :3, 129], some_volume().voxels[64:66, :3, 129])
    with xr.open_zarr(tmp_path / "v", consolidated=False) as dataset:  # levels of other shapes do not stand in the way
        assert dict(dataset.sizes) == {"z": 70, "y": 65, "x": 130}
    assert (tmp_path / "v" / "0" / "c" / "0" / "0" / "0").stat().st_size < some_volume().voxels.nbytes


def test_other_voxels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int16"):
        write_ome_zarr(tmp_path / "v", Volume(np.zeros((2, 2, 2), dtype=np.float32), (1.0, 1.0, 1.0)))


def test_stores_that_are_no_such_image(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"no OME-Zarr 0\.5 image"):
        read_ome_zarr(tmp_path / "plain")
    write_ome_zarr(tmp_path / "inches", some_volume((2, 2, 2)))
    metadata = tmp_path / "inches" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("millimeter", "inch"))
    with pytest.raises(ValueError, match="millimeter"):
        read_ome_zarr(tmp_path / "inches")
    write_ome_zarr(tmp_path / "ras", some_volume((2, 2, 2)))
    metadata = tmp_path / "ras" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("right-to-left", "left-to-right"))
    with pytest.raises(ValueError, match="must run"):
        read_ome_zarr(tmp_path / "ras")
    with pytest.raises(FileNotFoundError):
        read_ome_zarr(tmp_path / "nowhere")
