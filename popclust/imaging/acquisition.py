"""What the scanner did to a picture, measured from its voxels: names of kernels and doses are not to be relied on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.volume import Volume

TISSUE_HU = (0.0, 100.0)
"""Soft tissue, in whose most even places what is left is noise."""
EVEN_MM = 6.0
"""Width of a place that may be even: large against the grain, small against organs."""
NOISE_BIN_HU = 1.0
"""Width of the bins among which the most frequent standard deviation is looked for."""
AIR_HU, SKIN_HU = -800.0, -250.0
"""Outside of the skin it is emptier than the first, inside of it denser than the second."""
MARGIN_MM = 6.0
"""How far on either side of the skin it must be so."""
SHARP_SHARE = 25.0
"""Percentile of the edges' widths that counts: cloth and oblique skin make many wider, nothing makes one narrower."""
MIN_PLACES, MIN_EDGES = 2000, 50
"""With fewer even places or edges nothing is said."""
MAX_SLICES = 48
"""Slices that are looked at, spread over the volume."""


SHARP_NOISE_HU = 16.0
"""Noise on the border between soft and sharp kernels at a routine dose."""
SHARP_EDGE_MM, EDGE_PER_PIXEL = 1.2, 1.3
"""Width of the skin's edge on the same border: of the kernel itself, and what each millimetre of a pixel adds."""
EDGE_WEIGHT = 0.45
"""Cloth and oblique skin widen edges, so they count less than noise."""


@dataclass(frozen=True)
class Acquisition:
    """Noise and sharpness of a volume."""

    noise_hu: float | None
    """The most frequent standard deviation of soft tissue, in HU; None where too little is seen."""
    edge_mm: float | None
    """Width of the skin's edge across the slice: its step in HU over its steepest slope; None as above."""

    def sharpness(self, pixel_mm: float) -> float | None:
        """Noise and edge against the border between soft and sharp kernels, above 0 for sharp ones.

        ln(noise / 16 HU) + 0.45 ln(border / edge), with the border at sqrt(1.2^2 + (1.3 pixel)^2) mm; None where either
        was not measured. A kernel that keeps high frequencies keeps edges narrow and lets noise through.
        """
        if not self.noise_hu or not self.edge_mm:
            return None
        border_mm = math.hypot(SHARP_EDGE_MM, EDGE_PER_PIXEL * pixel_mm)
        return math.log(self.noise_hu / SHARP_NOISE_HU) + EDGE_WEIGHT * math.log(border_mm / self.edge_mm)


def measure_acquisition(volume: Volume) -> Acquisition:
    """Noise and sharpness of a volume within its slices.

    Noise is the mode of the local standard deviations in soft tissue (the *global noise level* of Christianson et al.,
    AJR 205, 2015). Sharpness follows from the skin, the one edge in every body (Sanders et al., Med Phys 43, 2016): a
    point spread of standard deviation s makes it s * sqrt(2 pi) wide.

    Parameters
    ----------
    volume : Volume
        (z, y, x), HU.

    Returns
    -------
    Acquisition
        The same for the same voxels on every machine.
    """
    step = max(1, len(volume.voxels) // MAX_SLICES)
    slices = volume.voxels[step // 2 :: step].astype(np.float32)
    _, spacing_y, spacing_x = volume.spacing_mm
    return Acquisition(_noise(slices, (spacing_y, spacing_x)), _edge(slices, spacing_x))


def _noise(slices: NDArray[np.float32], spacing_mm: tuple[float, float]) -> float | None:
    size = (1, *(2 * max(1, round(EVEN_MM / mm / 2)) + 1 for mm in spacing_mm))
    mean = ndimage.uniform_filter(slices, size)
    square = ndimage.uniform_filter((slices - mean) ** 2, size)  # about the running mean: no cancellation
    is_tissue = (mean > TISSUE_HU[0]) & (mean < TISSUE_HU[1])
    is_even = ndimage.binary_erosion(is_tissue, np.ones((1, 3, 3)))
    deviation = np.sqrt(square[is_even])
    if deviation.size < MIN_PLACES:
        return None
    counts, edges = np.histogram(deviation, np.arange(0.0, 200.0 + NOISE_BIN_HU, NOISE_BIN_HU))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 1.5)
    top = int(smooth.argmax())
    return float(edges[top] + NOISE_BIN_HU / 2)


def _edge(slices: NDArray[np.float32], spacing_mm: float) -> float | None:
    """From both sides, in every row: the outermost place where air meets the body."""
    widths = np.concatenate([_widths(slices, spacing_mm), _widths(slices[:, :, ::-1], spacing_mm)])
    return float(np.percentile(widths, SHARP_SHARE)) if widths.size >= MIN_EDGES else None


def _widths(slices: NDArray[np.float32], spacing_mm: float) -> NDArray[np.float64]:
    reach = max(2, round(MARGIN_MM / spacing_mm))
    rows = slices.reshape(-1, slices.shape[2])
    is_body = ndimage.minimum_filter1d(rows, reach, axis=1, origin=-(reach // 2)) > SKIN_HU  # from here on inwards
    first = is_body.argmax(axis=1)
    rows, first = (a[is_body.any(axis=1)] for a in (rows, first))
    seen = (first >= 2 * reach) & (first < rows.shape[1] - reach)
    rows, first = rows[seen], first[seen]
    near = np.take_along_axis(rows, first[:, None] + np.arange(-2 * reach, reach), axis=1)
    outside, inside = near[:, :reach], near[:, -reach:]
    is_clean = outside.max(axis=1) < AIR_HU
    near, outside, inside = near[is_clean], outside[is_clean], inside[is_clean]
    step = np.median(inside, axis=1) - np.maximum(np.median(outside, axis=1), -1050.0)
    slope = np.diff(np.maximum(near, -1050.0), axis=1).max(axis=1)
    return np.asarray(step / np.maximum(slope, 1e-6) * spacing_mm, dtype=np.float64)
