"""Masks and the atlas as NIfTI, in the patient's space."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from popclust.imaging.volume import Volume
from popclust.normalization.atlas import Atlas

SCANNER, ALIGNED = 1, 2
"""NIfTI's codes for the space that a file is in: the patient on the scanner's table, or another's."""


def nifti_of(volume: Volume, space: int = SCANNER) -> nibabel.Nifti1Image:
    """A volume (z, y, x) in LPS as a NIfTI image (x, y, z) in RAS; a bool mask becomes uint8."""
    (dz, dy, dx), (z, y, x) = volume.spacing_mm, volume.origin_mm
    affine = np.array([[-dx, 0, 0, -x], [0, -dy, 0, -y], [0, 0, dz, z], [0, 0, 0, 1]])
    voxels = volume.voxels.astype(np.uint8) if volume.voxels.dtype == bool else volume.voxels
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, space)
    image.set_qform(affine, space)
    return image


def write_nifti(volume: Volume, path: Path, space: int = SCANNER) -> None:
    """Write a volume as NIfTI; equal volumes give equal bytes."""
    nibabel.save(nifti_of(volume, space), path)


def write_atlas(atlas: Atlas, folder: Path) -> None:
    """Write the atlas and each template, each with its lungs."""
    folder.mkdir(parents=True)
    for template in atlas.templates:
        write_nifti(template.prepared.image, folder / f"{template.template_id}.nii.gz", ALIGNED)
        write_nifti(template.prepared.lungs, folder / f"{template.template_id}_lungs.nii.gz", ALIGNED)
