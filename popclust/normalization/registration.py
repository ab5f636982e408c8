"""Registration of a volume to a template: start, rigid, affine and non-linear steps by elastix.

elastix is given the volume as its fixed image. Every voxel of a volume, be it whole or a fragment, has a place in a
template that shows whole lungs; the other way round, voxels of the template that leave a fragment's field of view drop
out of the comparison, and a registration that pushes out what does not match looks better than one that is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from popclust.imaging.volume import Volume, resample, sample
from popclust.normalization.correspondence import thinned
from popclust.normalization.elastix import CorrespondingPoints, ParameterMap, register
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.quality import anisotropy, dice
from popclust.normalization.start import explained, find_starts, is_cut_off
from popclust.normalization.transform import AffineMap, ChainMap, PointMap
from popclust.settings import NormalizeSettings

BENDING_SHARE = 0.06
"""Samples of the bending energy per iteration, as a share of the image's: it is smooth, and ten times dearer each."""
AFFINE_SPACING_MM = 4.0
"""Rigid and affine steps work no finer than this."""
_METRICS = {
    "ncc": "AdvancedNormalizedCorrelation",
    "mi": "AdvancedMattesMutualInformation",
}
_BENDING = "TransformBendingEnergyPenalty"
_LANDMARKS = "CorrespondingPointsEuclideanDistanceMetric"
MAX_STRETCH = 1.7
"""An affine step that stretches one direction by more than this against another is undone: the rigid one stays."""
NEAR_LUNGS_MM = 20.0
"""Voxels of the volume this near to its lungs, or to those of the template, are compared: as far as the ribs."""
NEAR_EDGES_MM = 10.0
"""The same where the lung edges can be trusted to guide the registration."""
END_MM = 24.0
"""The lung edge is not looked at so near to an end of the field of view: its ramp, smoothed, would show a false one."""
KEPT_STRETCH = 0.3
"""Share of the affine step's stretch (of its logarithm) that the non-linear step of a cut-off lung begins with."""

WALL_SETTINGS: Mapping[str, Any] = {
    "n_resolutions": 2, "grid_spacing_mm": 40.0, "n_iterations": 60, "n_samples": 1000, "bending_weight": 100.0,
}  # fmt: skip
"""How the chest wall is registered by itself."""
VESSEL_LEVELS = 2
"""Coarse levels at which the vessels of a cut-off lung are correlated; after them the image is as for a whole lung."""


@dataclass(frozen=True)
class _Channel:
    """A pair of images that a metric compares; elastix wants one, and a mask, for the penalties too."""

    metric: str
    weight: float | list[float]
    """For all levels, or one per level."""
    fixed: Volume
    moving: Volume
    mask: Volume
    """bool; voxels of `fixed` that count."""


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

    The edges of the intensity-based lungs take part only where those of the two volumes agree after the affine
    step: in a lung with fluid or consolidation that edge is not the lung's. Near the ends of the field of view it is
    not known: beyond the last plane the lung may go on or end.

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
    fixed, moving, masks = ([getattr(c, part) for c in channels] for part in ("fixed", "moving", "mask"))
    return register(fixed, moving, [_bspline_stage(settings, channels)], start=start, fixed_masks=masks, points=points)


def align_wall(
    fixed: Volume, moving: Volume, compared: Volume, start: AffineMap, settings: NormalizeSettings
) -> AffineMap:
    """Affine registration of two images of the chest wall where they are compared; positions in the first -> second."""
    stages = [_affine_stage(settings)]
    return _as_affine(register([fixed], [moving], stages, start=start, fixed_masks=[compared]))


def bend_wall(
    fixed: Volume, moving: Volume, compared: Volume, start: AffineMap, settings: NormalizeSettings
) -> ChainMap:
    """The same by a free form of few control points, whatever the settings say."""
    coarse = replace(settings, **WALL_SETTINGS)
    everywhere = fixed.with_values(np.ones(fixed.shape, bool))
    channels = [
        _Channel(_METRICS["mi"], 1.0, fixed, moving, compared),
        _Channel(_BENDING, coarse.bending_weight, fixed, moving, everywhere),
    ]
    masks = [c.mask for c in channels]
    return register([fixed] * 2, [moving] * 2, [_bspline_stage(coarse, channels)], start=start, fixed_masks=masks)


def _channels(
    volume: Prepared, template: Prepared, start: AffineMap, settings: NormalizeSettings, *, with_points: bool
) -> list[_Channel]:
    """What the non-linear step compares: image, vessels, lung edge, and the penalties, where each takes part."""
    known = volume.far_from_ends(END_MM)  # nothing of a volume that is thinner than both ends together
    agree = settings.edge_weight > 0 and lungs_agree(volume, template, start) >= settings.min_edge_dice
    with_edges = bool(agree and known.voxels.any())
    compared = _compared(volume, template, start, NEAR_EDGES_MM if with_edges else NEAR_LUNGS_MM)
    everywhere = volume.image.with_values(np.ones(volume.image.shape, bool))
    channels = [_Channel(_METRICS[settings.metric], 1.0, volume.image, template.image, compared)]
    n_coarse = min(VESSEL_LEVELS, settings.n_resolutions - 1)
    if n_coarse > 0 and is_cut_off(volume.lungs.voxels):
        weights = [1.0] * n_coarse + [0.0] * (settings.n_resolutions - n_coarse)
        channels.append(_Channel(_METRICS["ncc"], weights, volume.vessels, template.vessels, volume.lungs))
    if with_edges:
        channels.append(_Channel("AdvancedMeanSquares", settings.edge_weight, volume.edge, template.edge, known))
    penalties = {_BENDING: settings.bending_weight}
    if with_points and settings.landmark_weight > 0:
        penalties[_LANDMARKS] = settings.landmark_weight
    return channels + [_Channel(name, w, volume.image, template.image, everywhere) for name, w in penalties.items()]


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
    stages = [_rigid_stage(settings), _affine_stage(settings)]
    spacing = max(AFFINE_SPACING_MM, *volume.image.spacing_mm)
    volume_image, template_image = (resample(p.image, spacing) for p in (volume, template))
    chain = register(
        [volume_image],
        [template_image],
        stages,
        start=start,
        fixed_masks=[on_grid(volume.near_lungs(NEAR_LUNGS_MM), volume_image)],
    )
    return [_as_affine(ChainMap(chain.maps[: n + 1])) for n in range(1, len(stages) + 1)]


def _as_affine(point_map: PointMap) -> AffineMap:
    corners = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]])
    return AffineMap.fitted(corners, point_map(corners))


def _stage(settings: NormalizeSettings, transform: str, **values: object) -> ParameterMap:
    """What all stages share, with a stage's own values."""
    shared: dict[str, object] = {
        "Transform": transform,
        "Registration": "MultiResolutionRegistration",
        "Metric": "AdvancedMattesMutualInformation",
        "NumberOfHistogramBins": 48,
        "Optimizer": "AdaptiveStochasticGradientDescent",
        "Interpolator": "LinearInterpolator",
        "ImageSampler": "RandomCoordinate",
        "FixedImagePyramid": "FixedSmoothingImagePyramid",
        "MovingImagePyramid": "MovingSmoothingImagePyramid",
        "NewSamplesEveryIteration": True,
        "RequiredRatioOfValidSamples": 0.05,
        "CheckNumberOfSamples": True,
        "AutomaticScalesEstimation": True,
        "AutomaticParameterEstimation": True,
        # Step sizes from the distribution of displacements (Qiao et al., IEEE TMI 35:391, 2016) on few samples:
        # elastix's default estimation takes longer than the registration itself.
        "ASGDParameterEstimationMethod": "DisplacementDistribution",
        "NumberOfJacobianMeasurements": 300,
        "NumberOfGradientMeasurements": 5,
        "NumberOfSamplesForExactGradient": 3000,
        "AutomaticTransformInitialization": False,
        "HowToCombineTransforms": "Compose",
        "FixedInternalImagePixelType": "float",
        "MovingInternalImagePixelType": "float",
        "FixedImageDimension": 3,
        "MovingImageDimension": 3,
        "UseDirectionCosines": True,
        "ErodeMask": False,
        "WriteResultImage": False,
        "RandomSeed": settings.seed + 1,
    }
    return {name: _words(value) for name, value in (shared | values).items()}


def _rigid_stage(settings: NormalizeSettings) -> ParameterMap:
    return _linear_stage(settings, "EulerTransform", (3, 2), 80)


def _affine_stage(settings: NormalizeSettings) -> ParameterMap:
    return _linear_stage(settings, "AffineTransform", (2, 1), 100)


def _linear_stage(
    settings: NormalizeSettings, transform: str, smoothing: tuple[int, ...], n_iterations: int
) -> ParameterMap:
    return _stage(
        settings,
        transform,
        NumberOfResolutions=len(smoothing),
        ImagePyramidSchedule=[s for s in smoothing for _ in range(3)],
        MaximumNumberOfIterations=n_iterations,
        NumberOfSpatialSamples=2000,
        # From a good start the first steps are noise: unbounded, they lead from one lung to the other.
        MaximumStepLength=2.0,
        NumberOfGradientMeasurements=10,
    )


def _bspline_stage(settings: NormalizeSettings, channels: Sequence[_Channel]) -> ParameterMap:
    n, n_metrics, metrics = settings.n_resolutions, len(channels), [c.metric for c in channels]
    # The last two levels see the finest image; the grid begins wide, or a fragment's start would decide too much.
    smoothing = [max(1.0, 2.0 ** (n - 2 - level)) for level in range(n)]
    grid = [1.6 * 2.0 ** (n - 2 - level) for level in range(n - 1)] + [1.0]
    per_metric = {
        "ImageSampler": "RandomCoordinate",
        "Interpolator": "LinearInterpolator",
        "FixedImagePyramid": "FixedSmoothingImagePyramid",
        "MovingImagePyramid": "MovingSmoothingImagePyramid",
    }
    return _stage(
        settings,
        "RecursiveBSplineTransform",
        Registration="MultiMetricMultiResolutionRegistration",
        Metric=metrics,
        **{f"Metric{i}Weight": channel.weight for i, channel in enumerate(channels)},
        **{name: [component] * n_metrics for name, component in per_metric.items()},
        **{f"ImageSampler{metrics.index(_BENDING)}NumberOfSpatialSamples": round(BENDING_SHARE * settings.n_samples)},
        NumberOfResolutions=n,
        ImagePyramidSchedule=[s for s in smoothing for _ in range(3)],
        FinalGridSpacingInPhysicalUnits=settings.grid_spacing_mm,
        GridSpacingSchedule=grid,
        MaximumNumberOfIterations=settings.n_iterations,
        NumberOfSpatialSamples=settings.n_samples,
    )


def _words(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
