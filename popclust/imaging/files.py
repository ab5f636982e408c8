"""Volumes in single files: NIfTI, MetaImage and NRRD, read through ITK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popclust.errors import VolumeError
from popclust.imaging.geometry import Grid
from popclust.imaging.volume import AIR_HU


@dataclass(frozen=True)
class FileShape:
    """What the header of a volume file says."""

    n_slices: int
    """Voxels along the file's slowest spatial axis."""
    grid: Grid
    """Where the voxels lie, array axes from slowest to fastest."""


def read_file_header(path: str) -> FileShape:
    """Read the grid of a volume file without its voxels.

    Parameters
    ----------
    path : str
        NIfTI, MetaImage or NRRD.

    Raises
    ------
    VolumeError
        `unreadable_header`; `not_3d` for a time series, a colour or vector image, or a flat picture.
    """
    io = _image_io(path)
    size = [io.GetDimensions(axis) for axis in range(io.GetNumberOfDimensions())]
    if io.GetNumberOfComponents() != 1 or len(size) < 3 or any(n > 1 for n in size[3:]):
        raise VolumeError("not_3d", "the file holds no single three-dimensional volume")
    # ITK counts and orders x, y, z; array axes and positions here are z, y, x.
    steps = [np.array(io.GetDirection(axis)[:3]) * io.GetSpacing(axis) for axis in range(3)]
    origin = np.array([io.GetOrigin(axis) for axis in range(3)])
    steps_mm = np.stack(steps)[::-1, ::-1]
    if not np.isfinite(steps_mm).all() or not np.isfinite(origin).all() or abs(np.linalg.det(steps_mm)) < 1e-9:
        raise VolumeError("position_unknown", "the header gives no usable grid")
    return FileShape(n_slices=size[2], grid=Grid(origin[::-1].copy(), steps_mm.copy()))


def read_file_voxels(path: str) -> NDArray[np.int16]:
    """Voxels of a volume file in HU, rounded; NaN, infinities and what lies below -1024 HU become air (-1024 HU).

    Parameters
    ----------
    path : str
        NIfTI, MetaImage or NRRD with HU.

    Returns
    -------
    ndarray of int16
        (slice, row, column) HU.

    Raises
    ------
    VolumeError
        `unreadable_pixels`.
    """
    import itk

    try:
        values = itk.array_from_image(itk.imread(path))
    except (RuntimeError, OSError, TypeError, KeyError) as error:
        raise VolumeError("unreadable_pixels", f"the voxels cannot be read ({type(error).__name__})") from None
    if values.ndim > 3:
        values = values.reshape(values.shape[-3:])
    if values.ndim != 3 or values.size == 0:
        raise VolumeError("not_3d", "the file holds no single three-dimensional volume")
    if values.dtype.kind == "f":
        values = np.rint(np.nan_to_num(values, nan=AIR_HU, posinf=AIR_HU, neginf=AIR_HU))
    return np.clip(values, AIR_HU, np.iinfo(np.int16).max).astype(np.int16)


def _image_io(path: str) -> Any:
    import itk

    try:
        io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
        if io is None:
            raise VolumeError("unreadable_header", "the file is not in a format that its name promises")
        io.SetFileName(path)
        io.ReadImageInformation()
    except (RuntimeError, OSError) as error:
        raise VolumeError("unreadable_header", f"the header cannot be read ({type(error).__name__})") from None
    return io
