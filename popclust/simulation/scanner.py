"""Scanners: reconstruction kernels as real point spreads, their noise, and the patient table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from popclust.simulation.canvas import Grid


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel by its modulation transfer against that of the drawing itself."""

    name: str
    """What the DICOM header says."""
    blur_mm: float
    """Standard deviation of additional blur in the slice."""
    edge: float
    """Amplification of middle frequencies: 0 none, 1 twice."""
    noise: float
    """Noise level against a standard kernel of the same dose."""


@dataclass(frozen=True)
class Scanner:
    """One make of scanner."""

    manufacturer: str
    """DICOM Manufacturer."""
    model: str
    """DICOM ManufacturerModelName."""
    sharp: tuple[Kernel, ...]
    """Kernels that the inclusion rule takes."""
    soft: tuple[Kernel, ...]
    """Kernels that it does not take."""
    padding_hu: int | None
    """What it writes outside the round field of view; None: nothing special."""
    noise_hu: tuple[float, float]
    """Lowest and highest noise of its protocols, in the middle of the body, before the kernel's own factor."""
    noise_correlation: float
    """Weight of low frequencies in its noise, 0 to 1 (iterative reconstruction)."""


# As unlike as a hospital's own: sharp kernels' noise was read at 8 to 42 HU on real chest CT, and the smoothest of the
# kernels that the name calls sharp blurs by more than a millimetre beside the sharpest. Who groups by texture at the
# scan's own noise finds these scanners first.
SCANNERS = (
    Scanner(
        "SIEMENS",
        "Sensation 64",
        (Kernel("B60f", 0.0, 0.15, 1.0), Kernel("B70f", 0.0, 0.30, 1.15), Kernel("B80f", 0.0, 0.40, 1.25)),
        (Kernel("B30f", 1.6, 0.0, 0.45), Kernel("B40f", 1.3, 0.0, 0.55)),
        -1024,
        (24.0, 34.0),
        0.1,
    ),
    Scanner(
        "SIEMENS",
        "SOMATOM Definition Flash",
        (Kernel("I70f", 0.7, 0.1, 0.9), Kernel("B70f", 0.6, 0.15, 1.1)),
        (Kernel("I30f", 1.5, 0.0, 0.4),),
        None,
        (12.0, 18.0),
        0.5,
    ),
    Scanner(
        "GE MEDICAL SYSTEMS",
        "LightSpeed VCT",
        (Kernel("LUNG", 0.0, 0.35, 1.15),),
        (Kernel("STANDARD", 1.3, 0.0, 0.5),),
        -2000,
        (18.0, 30.0),
        0.15,
    ),
    Scanner(
        "TOSHIBA",
        "Aquilion ONE",
        (Kernel("FC52", 0.9, 0.1, 1.0),),
        (Kernel("FC08", 1.6, 0.0, 0.5),),
        None,
        (10.0, 16.0),
        0.3,
    ),
    Scanner(
        "Philips",
        "Brilliance 64",
        (Kernel("YB", 1.3, 0.0, 1.0),),
        (Kernel("B", 1.9, 0.0, 0.5),),
        None,
        (8.0, 13.0),
        0.6,
    ),
)
"""The hospital's scanners."""


def reconstruct(
    hu: NDArray[np.float32], grid: Grid, kernel: Kernel, noise_hu: float, low_noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Filter a drawing with a kernel, slice by slice, and add that kernel's noise.

    Parameters
    ----------
    hu : ndarray
        (z, y, x) drawing in HU.
    grid : Grid
        Its voxels.
    kernel : Kernel
        The reconstruction kernel.
    noise_hu : float
        Standard deviation of the noise in the middle of the body with a standard kernel.
    low_noise : float
        Weight of low frequencies in the noise.
    rng : numpy.random.Generator
        Source of the noise.

    Returns
    -------
    ndarray
        (z, y, x) float32.
    """
    ny, nx = grid.shape[1:]
    fy = np.fft.fftfreq(ny, grid.spacing_mm[1])[:, None]
    fx = np.fft.rfftfreq(nx, grid.spacing_mm[2])
    frequency = np.hypot(fy, fx).astype(np.float32)
    nyquist = 0.5 / grid.spacing_mm[2]
    transfer = (1 + kernel.edge * np.exp(-(((frequency - 0.6 * nyquist) / (0.4 * nyquist)) ** 2))) * np.exp(
        -2 * (np.pi * kernel.blur_mm * frequency) ** 2
    )
    transfer /= transfer[0, 0]  # whatever a kernel does to edges, water stays at 0 HU and air at -1000
    # Filtered back projection gives noise whose power grows with frequency until the kernel takes it away.
    colour = transfer * np.sqrt(low_noise + (1 - low_noise) * np.minimum(frequency / nyquist, 1.0))
    colour *= np.exp(-((frequency / (1.1 * nyquist)) ** 4))
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    power = np.sqrt(np.mean(colour[:, 1:-1] ** 2))
    spectrum = fft.rfft2(hu, workers=1) * transfer
    noise = fft.rfft2(white, workers=1) * (colour * np.float32(noise_hu * kernel.noise / power))
    image = fft.irfft2(spectrum, s=(ny, nx), workers=1)
    image += fft.irfft2(noise, s=(ny, nx), workers=1) * _noise_map(hu)
    return np.asarray(image, dtype=np.float32)


def _noise_map(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    # Noise grows with what the rays pass through: the wide slices (shoulders) and the middle of the body.
    dense = np.clip((hu + 1000) / 1000, 0.0, 1.5)
    along_x, along_y = dense.mean(axis=2, keepdims=True), dense.mean(axis=1, keepdims=True)
    return (0.45 + 0.9 * np.sqrt(along_x * along_y)).astype(np.float32)


def draw_table(hu: NDArray[np.float32], grid: Grid, top_mm: float) -> None:
    """Draw the curved plate that the patient lies on, its middle at y = `top_mm` in the scanner."""
    y = grid.origin_mm[1] + grid.spacing_mm[1] * np.arange(grid.shape[1])
    x = grid.origin_mm[2] + grid.spacing_mm[2] * np.arange(grid.shape[2])
    sag = y[:, None] - (top_mm - 0.0011 * x**2)
    cover = np.clip(2.2 - np.abs(sag) / 1.2, 0, 1) + np.clip(1.6 - np.abs(sag - 24.0) / 1.5, 0, 1)
    cover = np.where(np.abs(x) < 205.0, np.minimum(cover, 1.0), 0.0).astype(np.float32)
    np.maximum(hu, cover * 700.0 - 1000.0, out=hu)


def round_field_of_view(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(y, x) true inside the circle that a scanner reconstructs."""
    y, x = (2 * np.arange(n) / (n - 1) - 1 for n in shape)
    return np.hypot(y[:, None], x) <= 1.0
