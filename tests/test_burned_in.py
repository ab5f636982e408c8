"""Text in the border of the slices: found in any size and corner, and in no real CT."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from popclust.imaging.burned_in import has_text_in_border
from popclust.imaging.files import read_file_voxels
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.pixels import read_stack
from popclust.imaging.series import group_series

CORNERS = ("top left", "top right", "bottom left", "bottom right")
ARCHIVES = ("lungdx_a0002_B70f", "lungdx_a0002_B40f", "cip_ct64Dicom", "totalseg_abdomen_j2k", "4dlung_113_CT_RTSTRUCT")

pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning", "ignore:.*:UserWarning:pydicom")


def written(hu: NDArray[np.int16], size: int, value: int, corner: str) -> NDArray[np.int16]:
    """The slices with a patient's name and number in a corner."""
    page = Image.new("L", hu.shape[:0:-1])
    pen = ImageDraw.Draw(page)
    pen.fontmode = "1"
    font = ImageFont.load_default(size)
    left, top, right, bottom = pen.textbbox((0, 0), "MUELLER E 4711", font=font)
    x = 2 if "left" in corner else page.width - (right - left) - 2
    y = 2 if "top" in corner else page.height - (bottom - top) - 2
    pen.text((x - left, y - top), "MUELLER E 4711", fill=255, font=font)
    out = hu.copy()
    out[:, np.asarray(page) > 0] = value
    return out


def cts(data_path) -> list[Path]:
    return [p for p in sorted(data_path("ct").iterdir()) if p.name.endswith((".nii.gz", ".mha"))]


def test_no_real_ct_has_text(data_path):
    paths = cts(data_path)
    assert len(paths) == 15
    assert [p.name for p in paths if has_text_in_border(read_file_voxels(str(p)))] == []


@pytest.mark.parametrize("name", ARCHIVES)
def test_no_real_series_has_text(name: str, data_path, tmp_path: Path):
    with tarfile.open(data_path(f"dicom/{name}.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    headers = scan_headers(list_files([tmp_path]), [tmp_path])
    stacks = [one for one in group_series(headers) if len(one.headers) > 8 and not one.problems]
    assert stacks
    assert not any(has_text_in_border(read_stack(one.headers)) for one in stacks)


@pytest.mark.parametrize("name", ["cip_ct64", "lungdx_a0002_B70f", "cptac_C3N-00247"])
def test_text_is_found_in_any_size_and_corner(name: str, data_path):
    hu = read_file_voxels(str(data_path(f"ct/{name}.nii.gz")))
    missed = [
        (size, value, corner)
        for size in (7, 9, 12, 16, 24)
        for value in (3071, -769, 0, 32767)
        for corner in CORNERS
        if not has_text_in_border(written(hu, size, value, corner))
    ]
    assert missed == []


def test_what_is_no_text():
    rng = np.random.default_rng(0)
    noise = rng.normal(-990, 20, (40, 64, 64)).astype(np.int16)
    assert not has_text_in_border(noise)
    assert not has_text_in_border(written(noise, 9, 3071, "top left")[:7]), "too few slices to tell"
    frame = noise.copy()
    frame[:, :3] = 0  # filled up at the edge
    assert not has_text_in_border(frame)
    filled = noise.copy()
    filled[:, 1:20, 1:-1] = 0  # a picture cut out of another
    assert not has_text_in_border(filled)
    once = noise.copy()
    once[:5] = written(noise[:5], 9, 3071, "top left")
    assert not has_text_in_border(once), "does not recur"
