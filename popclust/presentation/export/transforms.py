"""Transforms as ITK reads them, and the same as images of displacements.

ITK moves nothing outside the grid of a displacement field, where ours hold the displacement of the nearest border
node. So the grid grows, its border repeated, until it covers all that is mapped: there both say the same.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import SimpleITK
from numpy.typing import ArrayLike

from popclust.normalization.transform import DisplacementField

_TEXT = h5py.string_dtype("ascii")


def covering(field: DisplacementField, corners_mm: ArrayLike) -> DisplacementField:
    """The same map on a grid that covers a box, (2, 3) zyx mm: the border nodes are repeated.

    >>> still = DisplacementField(np.zeros((3, 1, 3, 3), np.float32), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    >>> covering(still, [[-3.0, -3.0, 0.0], [8.0, 8.0, 9.0]]).displacement_mm.shape
    (3, 2, 4, 4)
    """
    low, high = np.asarray(corners_mm, dtype=np.float64)
    n = np.asarray(field.displacement_mm.shape[1:])
    spacing, origin = np.asarray(field.spacing_mm), np.asarray(field.origin_mm)
    is_flat = n == 1  # one node says the same everywhere along its axis, so its spacing is free
    spacing = np.where(is_flat, np.maximum(spacing, high - low), spacing)
    origin = np.where(is_flat, np.minimum(origin, low), origin)
    before = np.maximum(np.ceil((origin - low) / spacing - 1e-9), 0).astype(int)
    after = np.maximum(np.ceil((high - origin) / spacing - (n - 1) - 1e-9), 0).astype(int)
    grown = np.pad(field.displacement_mm, [(0, 0), *zip(before, after, strict=True)], mode="edge")
    z, y, x = (origin - before * spacing).tolist()
    dz, dy, dx = spacing.tolist()
    return DisplacementField(grown, (dz, dy, dx), (z, y, x))


def displacement_image(field: DisplacementField) -> SimpleITK.Image:
    """The field as a vector image: displacements along x, y, z in mm, in LPS."""
    vectors = np.ascontiguousarray(np.moveaxis(field.displacement_mm[::-1], 0, -1))
    image = SimpleITK.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing(field.spacing_mm[::-1])
    image.SetOrigin(field.origin_mm[::-1])
    return image


def write_field(field: DisplacementField, path: Path) -> None:
    """Write a field as MetaImage."""
    SimpleITK.WriteImage(displacement_image(field), str(path), useCompression=True)


def write_transform(field: DisplacementField, path: Path) -> None:
    """Write a field as an ITK transform in HDF5, in ITK's own layout.

    ITK's writer keeps every number as an uncompressed double, with the time and the name of the operating system: this
    one holds what was there, single precision, and equal fields give equal bytes.
    """
    shape = np.array(field.displacement_mm.shape[:0:-1], dtype=np.float64)
    fixed = np.concatenate([shape, field.origin_mm[::-1], field.spacing_mm[::-1], np.eye(3).ravel()])
    vectors = np.moveaxis(field.displacement_mm[::-1], 0, -1).ravel()
    with h5py.File(path, "w", libver="earliest") as file:
        group = file.create_group("TransformGroup/0")
        group.create_dataset("TransformType", data=np.array([b"DisplacementFieldTransform_float_3_3"], _TEXT))
        group.create_dataset("TransformFixedParameters", data=fixed)
        group.create_dataset("TransformParameters", data=vectors.astype(np.float32), compression="gzip", shuffle=True)
