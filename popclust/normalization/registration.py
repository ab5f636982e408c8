"""Registration of a volume to a template: start, rigid, affine and non-linear steps by elastix.

elastix is given the volume as its fixed image. Every voxel of a volume, be it whole or a fragment, has a place in a
template that shows whole lungs; the other way round, voxels of the template that leave a fragment's field of view drop
out of the comparison, and a registration that pushes out what does not match looks better than one that is right.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization.cage import airless_pieces, lungs_within_wall
from popclust.normalization.correspondence import thinned
from popclust.normalization.elastix import CorrespondingPoints
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.quality import anisotropy, dice
from popclust.normalization.start import explained, find_starts, is_cut_off
from popclust.normalization.steps import (
    BENDING,
    LANDMARKS,
    METRICS,
    Channel,
    affine_stage,
    free_form,
    linear_maps,
    rigid_stage,
)
from popclust.normalization.transform import AffineMap, ChainMap
from popclust.settings import NormalizeSettings

AFFINE_SPACING_MM = 4.0
"""Rigid and affine steps work no finer than this."""
MAX_STRETCH = 1.7
"""An affine step that stretches one direction by more than this against another is undone: the rigid one stays."""
NEAR_LUNGS_MM = 20.0
"""Voxels of the volume this near to its lungs, or to those of the template, are compared: as far as the ribs."""
NEAR_EDGES_MM = 10.0
"""The same where the lung edges can be trusted everywhere to guide the registration."""
NEAR_AIRLESS_MM = 20.0
"""So near to lung without air the edge of what is aerated is not the lung's."""
END_MM = 24.0
"""The lung edge is not looked at so near to an end of the field of view: its ramp, smoothed, would show a false one."""
EDGE_LEVELS = 3
"""Fine levels at which the lung edge counts: earlier, where images are blurred, it draws ill lungs over whole ones."""
KEPT_STRETCH = 0.3
"""Share of the affine step's stretch (of its logarithm) that the non-linear step of a cut-off lung begins with."""
VESSEL_LEVELS = 2
"""Coarse levels at which the vessels of a cut-off lung are correlated; after them the image is as for a whole lung."""


def register_pair(
    volume: Prepared,
    template: Prepared,
    settings: NormalizeSettings,
    *,
    start: AffineMap | None = None,
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """Register a volume to a template: start, rigid, affine, non-linear.

    Parameters
    ----------
    volume, template : Prepared
        Both at the resolution to work in.
    settings : NormalizeSettings
        Metric, grid, samples, iterations and the seed; equal input and settings give equal bits.
    start : AffineMap, optional
        Positions in the volume -> positions in the template, to begin with; without it starts are searched for.
    points : CorrespondingPoints, optional
        Landmarks that support the non-linear step, fixed in the volume and moving in the template.

    Returns
    -------
    ChainMap
        Positions in the volume -> positions in the template.

    Raises
    ------
    VolumeError
        elastix gave up.
    """
    starts = [found.to_template for found in find_starts(volume, template)] if start is None else [start]
    affine = register_affine(volume, template, starts, settings)
    return register_nonlinear(volume, template, affine, settings, points=points)


def register_affine(
    volume: Prepared,
    template: Prepared,
    starts: list[AffineMap],
    settings: NormalizeSettings,
) -> AffineMap:
    """Rigid, then affine registration from each start; the map volume -> template that explains the volume best.

    The starts and the rigid steps stay in the running: an optimiser that lost its way must not have the last word.
    """
    found = list(starts)
    for start in starts:
        found += _linear_maps(volume, template, start, settings)
    # A lung that is partly full of fluid invites the affine step to squeeze the whole chest into the aerated rest.
    found = [affine for affine in found if anisotropy(affine) < MAX_STRETCH] or list(starts)
    return found[int(np.argmax(explained(volume, template, found)))]


def register_nonlinear(
    volume: Prepared,
    template: Prepared,
    start: AffineMap,
    settings: NormalizeSettings,
    *,
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """Free-form registration from an affine start; positions in the volume -> positions in the template.

    The edges of the intensity-based lungs take part at the fine levels, where they are the lungs': everywhere if those
    of the two volumes agree after the affine step, else away from what the chest wall says is lung and holds no air.
    Near the ends of the field of view the edge is not known: beyond the last plane the lung may go on or end. The
    windpipe takes part beside them, in the same channel, where both volumes show it.

    What is left of a lung that is cut off says little about its stretch, so there most of the start's is taken back:
    the coarse levels find it again where the image asks for it. Nor does its outline, a cone between two cuts, say
    where along the body it lies: at the coarse levels its vessels, too thin to weigh in the mutual information, are
    correlated besides.
    """
    channels = _channels(volume, template, start, settings, with_points=points is not None)
    if is_cut_off(volume.lungs.voxels):
        start = start.with_stretch(
            KEPT_STRETCH, volume.lungs.index_to_mm(np.argwhere(volume.lungs.voxels)).mean(axis=0)
        )
    return free_form(channels, start, settings, points)


def _channels(
    volume: Prepared, template: Prepared, start: AffineMap, settings: NormalizeSettings, *, with_points: bool
) -> list[Channel]:
    """What the non-linear step compares: image, vessels, lung edge, and the penalties, where each takes part."""
    agree = settings.edge_weight > 0 and lungs_agree(volume, template, start) >= settings.min_edge_dice
    edges = _known_edges(volume, template, start, settings, everywhere=agree)
    compared = _compared(volume, template, start, NEAR_EDGES_MM if agree else NEAR_LUNGS_MM)
    everywhere = volume.image.with_values(np.ones(volume.image.shape, bool))
    channels = [Channel(METRICS[settings.metric], 1.0, volume.image, template.image, compared)]
    n_coarse = min(VESSEL_LEVELS, settings.n_resolutions - 1)
    if n_coarse > 0 and is_cut_off(volume.lungs.voxels):
        weights = [1.0] * n_coarse + [0.0] * (settings.n_resolutions - n_coarse)
        channels.append(Channel(METRICS["ncc"], weights, volume.vessels, template.vessels, volume.lungs))
    if edges.voxels.any():
        weights = [settings.edge_weight if n <= EDGE_LEVELS else 0.0 for n in range(settings.n_resolutions, 0, -1)]
        channels.append(Channel(METRICS["squares"], weights, *compared_edges(volume, template), edges))
    penalties = {BENDING: settings.bending_weight}
    if with_points and settings.landmark_weight > 0:
        penalties[LANDMARKS] = settings.landmark_weight
    return channels + [Channel(name, w, volume.image, template.image, everywhere) for name, w in penalties.items()]


def compared_edges(volume: Prepared, template: Prepared) -> tuple[Volume, Volume]:
    """The lung edges of both, with the windpipe where both show it; gas between cut-off lungs must not pass for it."""
    if volume.windpipe.any() and template.windpipe.any() and not is_cut_off(volume.lungs.voxels):
        return volume.edge_and_windpipe, template.edge_and_windpipe
    return volume.edge, template.edge


def _known_edges(
    volume: Prepared, template: Prepared, start: AffineMap, settings: NormalizeSettings, *, everywhere: bool
) -> Volume:
    """Voxels where the edge of the aerated lungs, if there is one, is the lungs' own; none where nobody knows."""
    known = volume.far_from_ends(END_MM)  # nothing of a volume that is thinner than both ends together
    if everywhere:
        return known
    nowhere = known.with_values(np.zeros(known.shape, bool))
    if settings.edge_weight == 0 or not known.voxels.any():
        return nowhere
    within_wall = lungs_within_wall(volume, template, start, settings)
    if not within_wall.voxels.any():
        return nowhere
    airless = airless_pieces(within_wall.voxels, volume)
    if not airless.any():
        return known
    distance = ndimage.distance_transform_edt(~airless, sampling=known.spacing_mm)
    return known.with_values(known.voxels & (distance > NEAR_AIRLESS_MM))


def lungs_agree(volume: Prepared, template: Prepared, to_template: AffineMap) -> float:
    """Dice of the two intensity-based lung masks under a map, in the volume's field of view."""
    there = template.lungs.index_to_mm(np.argwhere(np.ones(template.lungs.shape, bool)))
    points = to_template.inverse()(thinned(there))
    shown = volume.shows(points)
    lungs = sample(volume.lungs, points[shown], outside=0.0) > 0.5
    return dice(lungs, thinned(template.lungs.voxels.ravel())[shown])


def _compared(volume: Prepared, template: Prepared, to_template: AffineMap, distance_mm: float) -> Volume:
    """Voxels of the volume near its own aerated lungs or where the template has lungs: fluid counts too."""
    near = volume.near_lungs(distance_mm)
    others = np.argwhere(~near.voxels)
    theirs = sample(template.near_lungs(distance_mm), to_template(near.index_to_mm(others)), outside=0.0) > 0.5
    mask = near.voxels.copy()
    mask[tuple(others[theirs].T)] = True
    return near.with_values(mask)


def _linear_maps(
    volume: Prepared, template: Prepared, start: AffineMap, settings: NormalizeSettings
) -> list[AffineMap]:
    """The results of the rigid and of the affine step from one start."""
    spacing = max(AFFINE_SPACING_MM, *volume.image.spacing_mm)
    volume_image, template_image = (resample(p.image, spacing) for p in (volume, template))
    compared = on_grid(volume.near_lungs(NEAR_LUNGS_MM), volume_image)
    stages = [rigid_stage(settings), affine_stage(settings)]
    return linear_maps(volume_image, template_image, compared, start, stages)
