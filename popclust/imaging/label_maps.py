"""Lung and organ masks from other tools: label maps, or one file per structure.

lungmask writes a map that holds nothing but lungs (1 and 2, or lobes 1 to 5); TotalSegmentator writes a folder with one
file per structure, or one map with all of them, in which the lungs' lobes are 10 to 14 (its class map 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from popclust.errors import VolumeError
from popclust.imaging.files import read_volume_file
from popclust.imaging.volume import Volume

MASK_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Names of mask files end so."""
MAX_LUNG_LABELS = 5
"""A map with more labels than lungs have lobes holds other organs too."""


def read_lung_mask(path: str | Path, lung_labels: Sequence[int]) -> Volume:
    """The lungs in a label map, or in a folder with one file per structure (those named lung*).

    Parameters
    ----------
    path : str or Path
        The file or folder.
    lung_labels : sequence of int
        Labels of the lungs; none: every label, for maps that hold nothing else.

    Returns
    -------
    Volume
        bool.

    Raises
    ------
    VolumeError
        ``bad_mask``: no lung in it, more labels than lungs have lobes and no word on which are the lungs', files of one
        folder that do not lie on one grid; or a file cannot be read.
    """
    parts = _parts(Path(path))
    maps = [read_volume_file(part) for part in parts]
    if any(m.shape != maps[0].shape for m in maps):
        raise VolumeError("bad_mask", f"the {len(parts)} files of the lungs lie on different grids")
    lungs = np.logical_or.reduce([_lungs(m, lung_labels) for m in maps])
    if not lungs.any():
        wanted = f"labels {list(lung_labels)}" if lung_labels else "a label above 0"
        raise VolumeError("bad_mask", f"the mask handed in shows no lung: {wanted} was wanted")
    return maps[0].with_values(lungs)


def _parts(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    names = sorted(p for p in path.iterdir() if p.name.startswith("lung") and p.name.endswith(MASK_ENDINGS))
    # lung_nodules and lung_vessels lie within the lobes; lung_trachea_bronchia reaches into the neck.
    found = [p for p in names if "trachea" not in p.name]
    if not found:
        raise VolumeError("bad_mask", "the folder of masks handed in has no file that begins with 'lung'")
    return found


def _lungs(labels: Volume, lung_labels: Sequence[int]) -> np.ndarray:
    if lung_labels:
        return np.isin(labels.voxels, lung_labels)
    present = np.unique(labels.voxels[labels.voxels > 0])
    if len(present) > MAX_LUNG_LABELS:
        raise VolumeError(
            "bad_mask",
            f"the mask handed in has {len(present)} labels: name those of the lungs in [masks] lung_labels "
            "(TotalSegmentator: [10, 11, 12, 13, 14])",
        )
    return np.asarray(labels.voxels > 0)
