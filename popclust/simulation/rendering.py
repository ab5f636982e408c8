"""One person with one disease on one scanner, as HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popclust.simulation.branching import lung_trees, twigs
from popclust.simulation.canvas import Canvas, Grid, place_in_lung
from popclust.simulation.disease import GROUPS, Disease
from popclust.simulation.person import Person, PersonTraits
from popclust.simulation.scanner import Kernel, draw_table, reconstruct, round_field_of_view

HERNIA, SCAR, CALCIFICATION, FRACTURE = "RID4897", "RID3829", "RID5196", "RID4650"
GRANULOMA, LYMPHADENOPATHY = "RID3953", "RID3798"


@dataclass(frozen=True)
class Lungs:
    """What makes one person's healthy lung tissue."""

    mean_hu: float = -865.0
    """Density of the tissue between the visible vessels: inspiration."""
    gravity_hu: float = 35.0
    """How much denser the back is than the front."""
    dependent_hu: float = 0.0
    """How much denser still the lowest third is: shallow breathing of somebody who lies on their back."""
    texture_hu: float = 20.0
    """Standard deviation of the tissue's fine structure."""
    twig_seed: int = 0
    """Seed of the person's own small vessels and fine structure."""


@dataclass(frozen=True)
class Exposure:
    """How one series is taken."""

    grid: Grid
    """Its voxels."""
    kernel: Kernel
    """Its reconstruction kernel."""
    noise_hu: float
    """Noise in the middle of the body with a standard kernel."""
    low_noise: float
    """Weight of low frequencies in the noise."""
    contrast_hu: float
    """Contrast agent in the blood."""
    padding_hu: int | None
    """Value outside the round field of view."""
    seed: int
    """Seed of the noise."""


@dataclass(frozen=True)
class Rendering:
    """A scanned drawing."""

    hu: NDArray[np.int16]
    """(z, y, x) HU, z to the head, y to the back, x to the left; with padding values where the scanner has them."""
    lung: NDArray[np.bool_]
    """(z, y, x) where the lungs are, diseased or not."""


def render(body: PersonTraits, lungs: Lungs, diseases: tuple[Disease, ...], exposure: Exposure) -> Rendering:
    """Draw one person with what ails them, and scan the drawing."""
    canvas = Canvas.blank(exposure.grid, Person(body), exposure.contrast_hu)
    _draw_lungs(canvas, lungs, diseases, 40.0 + exposure.contrast_hu)
    findings = {term for disease in diseases for term in disease.findings}
    _draw_background_findings(canvas, findings, np.random.default_rng([lungs.twig_seed, 505]))
    draw_table(canvas.hu, exposure.grid, body.position_mm[1] + 132.0)
    rng = np.random.default_rng([exposure.seed, 303])
    image = reconstruct(canvas.hu, exposure.grid, exposure.kernel, exposure.noise_hu, exposure.low_noise, rng)
    out = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    if exposure.padding_hu is not None:
        out[:, ~round_field_of_view(exposure.grid.shape[1:])] = exposure.padding_hu
    lung = np.zeros(out.shape, bool)
    lung.reshape(-1)[canvas.voxels] = canvas.depth_mm > 0
    return Rendering(out, lung)


def _draw_lungs(canvas: Canvas, lungs: Lungs, diseases: tuple[Disease, ...], blood_hu: float) -> None:
    rng = np.random.default_rng([lungs.twig_seed, 202])
    canvas.blend(np.ones(len(canvas.voxels), np.float32), _tissue_hu(canvas, lungs, rng))
    for disease in diseases:
        GROUPS[disease.group].before_vessels(canvas, disease, np.random.default_rng([disease.seed, 404]))
    trees = lung_trees()
    canvas.tubes(np.concatenate([trees.vessels, twigs(trees.leaves, rng)]), blood_hu, brighter=True)
    canvas.tubes(trees.airways, -250.0, brighter=True, radius_mm=1.0)
    canvas.tubes(trees.airways, -985.0, brighter=False)
    for disease in diseases:
        GROUPS[disease.group].after_vessels(canvas, disease, np.random.default_rng([disease.seed, 405]))


def _tissue_hu(canvas: Canvas, lungs: Lungs, rng: np.random.Generator) -> NDArray[np.float32]:
    _, y, _ = canvas.atlas_mm
    gravity = lungs.gravity_hu * np.clip(y / 110.0, -0.7, 0.8)
    gravity = gravity + lungs.dependent_hu * np.clip((y - 5.0) / 75.0, 0.0, 1.0) ** 1.5
    # Lobules, and above them the slow changes of perfusion.
    texture = 0.8 * canvas.smooth_field(3.5, rng) + 0.6 * canvas.smooth_field(9.0, rng)
    return lungs.mean_hu + gravity + lungs.texture_hu * texture + 8.0 * canvas.smooth_field(45.0, rng)


def _draw_background_findings(canvas: Canvas, found: set[str], rng: np.random.Generator) -> None:
    if HERNIA in found:
        canvas.spheres(np.array([[-70.0, 34.0, 8.0]]), np.array([24.0]), 30.0, brighter=True)
        canvas.spheres(np.array([[-66.0, 28.0, 8.0]]), np.array([11.0]), -900.0, brighter=False)
    if SCAR in found:
        start = place_in_lung(3, lambda p, depth: (np.abs(p[:, 0]) > 50) * (depth > 4) * (depth < 12), rng)
        end = start + rng.uniform(-14, 14, (3, 3))
        canvas.tubes(np.column_stack([start, end, np.full((3, 2), 1.5)]), 30.0, brighter=True)
    if CALCIFICATION in found:
        plaques = np.array([[46, 18, 22], [30, 42, 30], [-40, 50, 32], [-90, 52, 24], [-6, -30, 6]], dtype=float)
        canvas.spheres(
            plaques + rng.normal(0, 2, plaques.shape), rng.uniform(2, 3.5, len(plaques)), 900.0, brighter=True
        )
    if FRACTURE in found:
        canvas.spheres(np.array([[-30.0, 20.0, 133.0]]), np.array([8.0]), 600.0, brighter=True)
    if GRANULOMA in found:
        place = place_in_lung(1, lambda _, depth: depth > 6, rng)
        canvas.spheres(place, np.array([3.5]), 700.0, brighter=True)
    if LYMPHADENOPATHY in found:
        nodes = np.array([[24, 6, -16], [8, 26, -10], [-16, 30, 6], [30, -8, 6]], dtype=float)
        canvas.spheres(nodes + rng.normal(0, 2, nodes.shape), rng.uniform(7, 11, len(nodes)), 45.0, brighter=True)
