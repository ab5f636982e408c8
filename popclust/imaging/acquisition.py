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
LIKE_NOISE = (0.7, 1.15)
"""Places whose standard deviation is within these shares of the noise show nothing but noise."""
AIR_HU, SKIN_HU = -800.0, -250.0
"""Outside of the skin it is emptier than the first, inside of it denser than the second."""
MARGIN_MM = 6.0
"""How far on either side of the skin it must be so."""
SHARP_SHARE = 25.0
"""Percentile of the edges' widths that counts: cloth and oblique skin make many wider, nothing makes one narrower."""
MIN_PLACES, MIN_EDGES, MIN_GRAINS = 2000, 50, 200
"""With fewer even places, edges, or places of noise alone nothing is said."""
MAX_SLICES = 48
"""Slices that are looked at, spread over the volume."""


SHARP_NOISE_HU = 12.0
"""Noise on the border between soft and sharp kernels."""
SHARP_EDGE_MM, EDGE_PER_PIXEL = 1.2, 1.3
"""Width of the skin's edge on the same border: of the kernel itself, and what each millimetre of a pixel adds."""
EDGE_WEIGHT = 0.2
"""Cloth and oblique skin widen edges, so they count less than noise."""
SHARP_FINENESS, FINENESS_WEIGHT = 0.35, 2.0
"""Noise less fine than the first has come through a soft kernel, however much of it there is; finer noise is no
evidence of a sharp one, since large pixels make any noise fine."""


@dataclass(frozen=True)
class Acquisition:
    """Noise and sharpness of a volume."""

    noise_hu: float | None
    """The most frequent standard deviation of soft tissue, in HU; None where too little is seen."""
    edge_mm: float | None
    """Width of the skin's edge across the slice: its step in HU over its steepest slope; None as above."""
    fineness: float | None = None
    """How much noise differs between neighbouring pixels: 1 if it is white, towards 0 if smooth; None as above."""

    def sharpness(self, pixel_mm: float) -> float | None:
        """Noise, its fineness and edge against the border between soft and sharp kernels, above 0 for sharp ones.

        ln(noise / 12 HU) + 0.2 ln(border / edge) + 2 min(0, ln(fineness / 0.35)), with the border at
        sqrt(1.2^2 + (1.3 pixel)^2) mm; None where noise or edge was not measured. A kernel that keeps high frequencies
        keeps edges narrow and lets noise through, and fine noise at that, whatever the dose (Solomon et al., Med Phys
        39, 2012).
        """
        if not self.noise_hu or not self.edge_mm:
            return None
        border_mm = math.hypot(SHARP_EDGE_MM, EDGE_PER_PIXEL * pixel_mm)
        smoothness = min(0.0, math.log(self.fineness / SHARP_FINENESS)) if self.fineness else 0.0
        noise, edge = math.log(self.noise_hu / SHARP_NOISE_HU), math.log(border_mm / self.edge_mm)
        return noise + EDGE_WEIGHT * edge + FINENESS_WEIGHT * smoothness


def measure_acquisition(volume: Volume) -> Acquisition:
    """Noise and sharpness of a volume within its slices.

    Noise is the mode of the local standard deviations in soft tissue (the *global noise level* of Christianson et al.,
    AJR 205, 2015); its fineness is the mean square second difference of pixels in a row where nothing but noise is
    seen, over the 6 variances that white noise has. Sharpness follows from the skin, the one edge in every body
    (Sanders et al., Med Phys 43, 2016): a point spread of standard deviation s makes it s * sqrt(2 pi) wide.

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
    noise_hu, fineness = _noise(slices, (spacing_y, spacing_x))
    return Acquisition(noise_hu, _edge(slices, spacing_x), fineness)


def _noise(slices: NDArray[np.float32], spacing_mm: tuple[float, float]) -> tuple[float | None, float | None]:
    """Noise and its fineness."""
    size = (1, *(2 * max(1, round(EVEN_MM / mm / 2)) + 1 for mm in spacing_mm))
    mean = ndimage.uniform_filter(slices, size)
    square = ndimage.uniform_filter((slices - mean) ** 2, size)  # about the running mean: no cancellation
    is_tissue = (mean > TISSUE_HU[0]) & (mean < TISSUE_HU[1])
    is_even = ndimage.binary_erosion(is_tissue, np.ones((1, 3, 3)))
    deviation = np.sqrt(np.maximum(square, 0.0))  # a running sum ends a hair below 0 where all is equal
    if np.count_nonzero(is_even) < MIN_PLACES:
        return None, None
    counts, edges = np.histogram(deviation[is_even], np.arange(0.0, 200.0 + NOISE_BIN_HU, NOISE_BIN_HU))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 1.5)
    noise_hu = float(edges[int(smooth.argmax())] + NOISE_BIN_HU / 2)
    is_noise = is_even & (deviation > LIKE_NOISE[0] * noise_hu) & (deviation < LIKE_NOISE[1] * noise_hu)
    return noise_hu, _fineness(slices, is_noise, noise_hu)


def _fineness(slices: NDArray[np.float32], is_noise: NDArray[np.bool_], noise_hu: float) -> float | None:
    inner = is_noise[:, 1:-1, 1:-1]
    if np.count_nonzero(inner) < MIN_GRAINS:
        return None
    along_x = np.diff(slices[:, 1:-1], 2, axis=2)[inner]
    along_y = np.diff(slices[:, :, 1:-1], 2, axis=1)[inner]
    square = (np.mean(along_x**2, dtype=np.float64) + np.mean(along_y**2, dtype=np.float64)) / 2
    return float(square / (6 * noise_hu**2))


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
