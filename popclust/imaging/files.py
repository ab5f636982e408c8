"""Volumes in single files: NIfTI read through nibabel, MetaImage and NRRD through ITK.

ITK's NIfTI reader is not used, since it fills a truncated file with zeros and turns NaN into water, both in silence.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from popclust.errors import VolumeError
from popclust.imaging.geometry import Grid, align
from popclust.imaging.places import is_of_the_place, local_copy
from popclust.imaging.volume import AIR_HU, Volume

_NIFTI_ERRORS = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
_ITK_ERRORS = (RuntimeError, OSError, TypeError, KeyError)
_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}


@dataclass(frozen=True)
class FileShape:
    """What the header of a volume file says."""

    n_slices: int
    """Voxels along the file's slowest spatial axis."""
    grid: Grid
    """Where the voxels lie, array axes from slowest to fastest."""


def read_volume_file(path: str | Path) -> Volume:
    """Read a volume file (HU, mask or label map), brought to the patient's axes; int16. It may lie at a URL.

    Raises
    ------
    VolumeError
        The file cannot be read, or does not say where it lies.
    """
    with local_copy(str(path)) as near:
        return align(read_file_voxels(near), read_file_header(near).grid)


def read_file_header(path: str) -> FileShape:
    """Read the grid of a volume file without its voxels.

    Parameters
    ----------
    path : str
        NIfTI, MetaImage or NRRD; a path or a URL.

    Returns
    -------
    FileShape
        Positions in LPS.

    Raises
    ------
    VolumeError
        `unreadable_header`; `not_3d` for a time series, a colour or vector image, or a flat picture; `position_unknown`
        if the header gives no orientation in space (NIfTI) or a degenerate one.
    """
    with local_copy(path) as near:
        shape = _nifti_shape(_nifti(near)) if _is_nifti(near) else _itk_shape(near)
    steps = shape.grid.steps_mm
    if not np.isfinite(steps).all() or not np.isfinite(shape.grid.origin_mm).all() or abs(np.linalg.det(steps)) < 1e-9:
        raise VolumeError("position_unknown", "the header gives no usable grid")
    return shape


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
        `unreadable_pixels`, also for a truncated file.
    """
    with local_copy(path) as near:
        values = _nifti_voxels(_nifti(near)) if _is_nifti(near) else _itk_voxels(near)
    if values.dtype.kind == "f":
        values = np.rint(np.nan_to_num(values, nan=AIR_HU, posinf=AIR_HU, neginf=AIR_HU))
    return np.clip(values, AIR_HU, np.iinfo(np.int16).max).astype(np.int16)


def _is_nifti(path: str) -> bool:
    return path.lower().endswith((".nii", ".nii.gz"))


def _nifti(path: str) -> nibabel.Nifti1Image:
    try:
        image = nibabel.load(path)
    except _NIFTI_ERRORS as error:
        if is_of_the_place(error):
            raise
        raise VolumeError("unreadable_header", f"the header cannot be read ({type(error).__name__})") from None
    if not isinstance(image, nibabel.Nifti1Image):
        raise VolumeError("unreadable_header", "the file is not in the format that its name promises")
    return image


def _nifti_shape(image: nibabel.Nifti1Image) -> FileShape:
    header = image.header
    if len(image.shape) < 3 or any(n > 1 for n in image.shape[3:]) or header.get_data_dtype().kind not in "iuf":
        raise VolumeError("not_3d", "the file holds no single three-dimensional volume")
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise VolumeError("position_unknown", "the header gives no orientation in space")
    # NIfTI's x runs to the right and y to the front: both are turned; columns are then ordered z, y, x like the rows.
    affine = np.diag([-1.0, -1.0, 1.0]) @ np.asarray(image.affine, dtype=np.float64)[:3]
    affine *= _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    grid = Grid(affine[::-1, 3].copy(), affine[::-1, 2::-1].T.copy())
    return FileShape(n_slices=int(image.shape[2]), grid=grid)


def _nifti_voxels(image: nibabel.Nifti1Image) -> NDArray:
    try:
        values = np.asarray(image.dataobj)
    except _NIFTI_ERRORS as error:
        if is_of_the_place(error):
            raise
        raise VolumeError("unreadable_pixels", f"the voxels cannot be read ({type(error).__name__})") from None
    return values.reshape(values.shape[:3]).T


def _itk_shape(path: str) -> FileShape:
    import itk

    try:
        io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
        if io is None:
            raise VolumeError("unreadable_header", "the file is not in the format that its name promises")
        io.SetFileName(path)
        io.ReadImageInformation()
    except _ITK_ERRORS as error:
        raise VolumeError("unreadable_header", f"the header cannot be read ({type(error).__name__})") from None
    size = [io.GetDimensions(axis) for axis in range(io.GetNumberOfDimensions())]
    if io.GetNumberOfComponents() != 1 or len(size) < 3 or any(n > 1 for n in size[3:]):
        raise VolumeError("not_3d", "the file holds no single three-dimensional volume")
    # ITK counts and orders x, y, z; array axes and positions here are z, y, x.
    steps = np.stack([np.array(io.GetDirection(axis)[:3]) * io.GetSpacing(axis) for axis in range(3)])
    origin = np.array([io.GetOrigin(axis) for axis in range(3)])
    return FileShape(n_slices=size[2], grid=Grid(origin[::-1].copy(), steps[::-1, ::-1].copy()))


def _itk_voxels(path: str) -> NDArray:
    import itk

    try:
        values: Any = itk.array_from_image(itk.imread(path))
    except _ITK_ERRORS as error:
        raise VolumeError("unreadable_pixels", f"the voxels cannot be read ({type(error).__name__})") from None
    return np.asarray(values.reshape(values.shape[-3:]))
