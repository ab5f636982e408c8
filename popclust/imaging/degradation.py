"""What another scanner would have made of a picture: noise, grain and blur of other kernels and doses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from popclust.imaging.volume import Volume

STORED_HU = (-1024.0, 3071.0)
"""What a scanner stores."""


@dataclass(frozen=True)
class Degradation:
    """How a copy is worse than the picture."""

    noise_hu: float = 0.0
    """Standard deviation of what is added."""
    grain_mm: float = 0.0
    """Sigma of the Gaussian that correlates the noise, as a softer kernel does."""
    blur_mm: float = 0.0
    """Sigma of the Gaussian that the picture is seen under."""
    slice_mm: float = 0.0
    """Thickness of the slices that are averaged."""


DEGRADATIONS = (
    Degradation(noise_hu=30.0),
    Degradation(blur_mm=1.5),
    Degradation(noise_hu=15.0, grain_mm=1.0, blur_mm=1.0),
    Degradation(noise_hu=10.0, slice_mm=3.0),
)
"""A low dose, a soft kernel, a smooth one at a middle dose, and thick slices."""


def degraded(volume: Volume, how: Degradation, seed: int) -> Volume:
    """A copy as another scanner would have made it, on the same grid.

    Parameters
    ----------
    volume : Volume
        (z, y, x) HU.
    how : Degradation
        In millimetres and HU, whatever the volume's spacing.
    seed : int
        Of the noise.

    Returns
    -------
    Volume
        int16 HU within `STORED_HU`; the same for equal input and seed.
    """
    spacing = np.asarray(volume.spacing_mm)
    voxels = volume.voxels.astype(np.float32)
    if how.slice_mm > spacing[0]:
        voxels = ndimage.uniform_filter1d(voxels, round(how.slice_mm / spacing[0]), axis=0, mode="nearest")
    if how.blur_mm:
        voxels = ndimage.gaussian_filter(voxels, how.blur_mm / spacing, mode="nearest", truncate=3.0)
    if how.noise_hu:
        noise = np.random.default_rng(seed).standard_normal(voxels.shape, dtype=np.float32)
        if how.grain_mm:
            noise = ndimage.gaussian_filter(noise, how.grain_mm / spacing, truncate=3.0)
        voxels = voxels + np.float32(how.noise_hu / noise.std()) * noise
    return volume.with_values(np.rint(np.clip(voxels, *STORED_HU)).astype(np.int16))
