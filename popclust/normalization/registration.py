"""Registration of a pair: start, rigid, affine and non-linear steps by elastix."""

from __future__ import annotations

import numpy as np

from popclust.imaging.volume import resample, sample
from popclust.normalization.elastix import CorrespondingPoints, ParameterMap, register
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.quality import anisotropy, dice, thinned
from popclust.normalization.start import explained, find_start, is_cut
from popclust.normalization.transform import AffineMap, ChainMap, PointMap
from popclust.settings import NormalizeSettings

BENDING_SAMPLES = 300
"""Samples of the bending energy per iteration: it is smooth, and ten times dearer per sample than an image."""
AFFINE_SPACING_MM = 4.0
"""Rigid and affine steps work no finer than this."""
_METRICS = {
    "ncc": "AdvancedNormalizedCorrelation",
    "mi": "AdvancedMattesMutualInformation",
}
MAX_STRETCH = 1.45
"""An affine step that stretches one direction by more than this against another is undone: the rigid one stays."""
NEAR_LUNGS_MM = 20.0
"""Voxels of the fixed image this near to its lungs are compared: as far as the ribs."""
NEAR_EDGES_MM = 10.0
"""The same where the lung edges can be trusted to guide the registration."""


def register_pair(
    fixed: Prepared,
    moving: Prepared,
    settings: NormalizeSettings,
    *,
    start: AffineMap | None = None,
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """Register one volume to another: start, rigid, affine, non-linear.

    Parameters
    ----------
    fixed, moving : Prepared
        Both at the resolution to work in.
    settings : NormalizeSettings
        Metric, grid, samples, iterations and the seed; equal input and settings give equal bits.
    start : AffineMap, optional
        Point map fixed -> moving to begin with; without it one is searched for, with keypoints where the moving
        volume is a fragment.
    points : CorrespondingPoints, optional
        Landmarks that support the non-linear step.

    Returns
    -------
    ChainMap
        Positions in the fixed volume -> positions in the moving one.

    Raises
    ------
    VolumeError
        elastix gave up.
    """
    if start is None:
        start = find_start(fixed, moving, with_keypoints=is_cut(moving)).to_moving
    affine = register_affine(fixed, moving, start, settings)
    return register_nonlinear(fixed, moving, affine, settings, points=points)


def register_affine(fixed: Prepared, moving: Prepared, start: AffineMap, settings: NormalizeSettings) -> AffineMap:
    """Rigid, then affine registration from a start; point map fixed -> moving.

    elastix runs the other way round where the moving volume is a fragment: all of a fragment has a place in a whole,
    while a whole that is laid on a fragment can gain by sliding off it.
    """
    if is_cut(moving) and not is_cut(fixed):
        return _affine(moving, fixed, start.inverse(), settings).inverse()
    return _affine(fixed, moving, start, settings)


def register_nonlinear(
    fixed: Prepared,
    moving: Prepared,
    start: AffineMap,
    settings: NormalizeSettings,
    *,
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """Free-form registration from an affine start; point map fixed -> moving.

    The edges of the intensity-based lungs take part only where those of the two volumes agree after the affine
    step: in a lung with fluid or consolidation that edge is not the lung's.
    """
    with_edges = settings.edge_weight > 0 and lungs_agree(fixed, moving, start) >= settings.min_edge_dice
    stage = _bspline_stage(settings, with_edges=with_edges, with_points=points is not None)
    # elastix wants an image for every metric, for the penalties too.
    n_channels = len(stage["Metric"])
    channel = {"edge": (fixed.edge, moving.edge), "image": (fixed.image, moving.image)}
    names = ["image", "edge" if with_edges else "image", *["image"] * n_channels][:n_channels]
    return register(
        [channel[name][0] for name in names],
        [channel[name][1] for name in names],
        [stage],
        start=start,
        fixed_mask=fixed.near_lungs(NEAR_EDGES_MM if with_edges else NEAR_LUNGS_MM),
        points=points,
    )


def lungs_agree(fixed: Prepared, moving: Prepared, to_moving: AffineMap) -> float:
    """Dice of the two intensity-based lung masks under a map, where the moving volume shows the fixed one."""
    points = fixed.lungs.index_to_mm(np.argwhere(np.ones(fixed.lungs.shape, bool)))
    points, lungs = thinned(points), thinned(fixed.lungs.hu.ravel())
    moved = to_moving(points)
    shown = moving.shows(moved)
    return dice(lungs[shown], sample(moving.lungs, moved[shown], outside=0.0) > 0.5)


def _affine(fixed: Prepared, moving: Prepared, start: AffineMap, settings: NormalizeSettings) -> AffineMap:
    spacing = max(AFFINE_SPACING_MM, *fixed.image.spacing_mm)
    fixed_image, moving_image = (resample(p.image, spacing) for p in (fixed, moving))
    chain = register(
        [fixed_image],
        [moving_image],
        [_rigid_stage(settings), _affine_stage(settings)],
        start=start,
        fixed_mask=on_grid(fixed.near_lungs(NEAR_LUNGS_MM), fixed_image),
    )
    # The start and the rigid step stay in the running: an optimiser that lost its way must not have the last word.
    # A lung that is partly full of fluid invites the affine step to squeeze the whole chest into the aerated rest.
    found = [_as_affine(ChainMap(chain.maps[:n])) for n in (3, 2, 1)]
    found = [affine for affine in found if anisotropy(affine) < MAX_STRETCH]
    return found[int(np.argmax(explained(fixed, moving, found)))] if found else start


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


def _bspline_stage(settings: NormalizeSettings, *, with_edges: bool, with_points: bool) -> ParameterMap:
    """Metrics: image, bending energy, and the lung edge and landmarks where they take part."""
    weights = {_METRICS[settings.metric]: 1.0}
    if with_edges:
        weights["AdvancedMeanSquares"] = settings.edge_weight
    bending = len(weights)
    weights["TransformBendingEnergyPenalty"] = settings.bending_weight
    if with_points and settings.landmark_weight > 0:
        weights["CorrespondingPointsEuclideanDistanceMetric"] = settings.landmark_weight
    n, n_metrics = settings.n_resolutions, len(weights)
    halvings = [2.0 ** (n - 1 - level) for level in range(n)]
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
        Metric=list(weights),
        **{f"Metric{i}Weight": weight for i, weight in enumerate(weights.values())},
        **{name: [component] * n_metrics for name, component in per_metric.items()},
        **{f"ImageSampler{bending}NumberOfSpatialSamples": BENDING_SAMPLES},
        NumberOfResolutions=n,
        ImagePyramidSchedule=[h for h in halvings for _ in range(3)],
        FinalGridSpacingInPhysicalUnits=settings.grid_spacing_mm,
        GridSpacingSchedule=halvings,
        MaximumNumberOfIterations=settings.n_iterations,
        NumberOfSpatialSamples=settings.n_samples,
    )


def _words(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
