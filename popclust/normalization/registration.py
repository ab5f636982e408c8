"""Registration of a pair: start, rigid, affine and non-linear steps by elastix."""

from __future__ import annotations

import numpy as np

from popclust.imaging.volume import resample
from popclust.normalization.elastix import CorrespondingPoints, ParameterMap, register
from popclust.normalization.preparation import Prepared, on_grid
from popclust.normalization.transform import AffineMap, ChainMap
from popclust.settings import NormalizeSettings

BENDING_SAMPLES = 300
"""Samples of the bending energy per iteration: it is smooth, and ten times dearer per sample than an image."""
AFFINE_SPACING_MM = 4.0
"""Rigid and affine steps work no finer than this."""
_METRICS = {
    "ncc": "AdvancedNormalizedCorrelation",
    "mi": "AdvancedMattesMutualInformation",
    "mean_squares": "AdvancedMeanSquares",
}
NEAR_LUNGS_MM = 20.0
"""Voxels of the fixed image this near to its lungs are compared."""


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
        Point map fixed -> moving to begin with; without it the lungs' boxes are laid over each other.
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
    affine = register_affine(fixed, moving, start or lung_start(fixed, moving), settings)
    return register_nonlinear(fixed, moving, affine, settings, points=points)


def lung_start(fixed: Prepared, moving: Prepared) -> AffineMap:
    """Shift that lays the lungs' centroids over each other, point map fixed -> moving."""
    centres = [p.lungs.index_to_mm(np.argwhere(p.lungs.hu)).mean(axis=0) for p in (fixed, moving)]
    return AffineMap.translation(centres[1] - centres[0])


def register_affine(fixed: Prepared, moving: Prepared, start: AffineMap, settings: NormalizeSettings) -> AffineMap:
    """Rigid, then affine registration from a start; point map fixed -> moving."""
    spacing = max(AFFINE_SPACING_MM, *fixed.image.spacing_mm)
    fixed_image, moving_image = (resample(p.image, spacing) for p in (fixed, moving))
    chain = register(
        [fixed_image],
        [moving_image],
        [_rigid_stage(settings), _affine_stage(settings)],
        start=start,
        fixed_mask=on_grid(fixed.near_lungs(NEAR_LUNGS_MM), fixed_image),
    )
    origin = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]])
    return AffineMap.fitted(origin, chain(origin))


def register_nonlinear(
    fixed: Prepared,
    moving: Prepared,
    start: AffineMap,
    settings: NormalizeSettings,
    *,
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """Free-form registration from an affine start; point map fixed -> moving."""
    stage = _bspline_stage(settings, with_points=points is not None)
    # elastix wants an image for every metric, for the penalties too.
    n_penalties = len(stage["Metric"]) - 2
    return register(
        [fixed.image, fixed.edge, *[fixed.edge] * n_penalties],
        [moving.image, moving.edge, *[moving.edge] * n_penalties],
        [stage],
        start=start,
        fixed_mask=fixed.near_lungs(NEAR_LUNGS_MM),
        points=points,
    )


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
    )


def _bspline_stage(settings: NormalizeSettings, *, with_points: bool) -> ParameterMap:
    """Metrics: image, lung edge, bending energy, and landmarks where there are any."""
    n = settings.n_resolutions
    metric = _METRICS[settings.metric]
    metrics = [metric, "AdvancedMeanSquares", "TransformBendingEnergyPenalty"]
    weights = [1.0, settings.edge_weight, settings.bending_weight]
    if with_points:
        metrics.append("CorrespondingPointsEuclideanDistanceMetric")
        weights.append(settings.landmark_weight)
    halvings = [2.0 ** (n - 1 - level) for level in range(n)]
    return _stage(
        settings,
        "RecursiveBSplineTransform",
        Registration="MultiMetricMultiResolutionRegistration",
        Metric=metrics,
        **{f"Metric{i}Weight": w for i, w in enumerate(weights)},
        NumberOfResolutions=n,
        ImagePyramidSchedule=[h for h in halvings for _ in range(3)],
        FinalGridSpacingInPhysicalUnits=settings.grid_spacing_mm,
        GridSpacingSchedule=halvings,
        MaximumNumberOfIterations=settings.n_iterations,
        NumberOfSpatialSamples=settings.n_samples,
        ImageSampler2NumberOfSpatialSamples=BENDING_SAMPLES,
        **{
            k: [v] * len(metrics)
            for k, v in (("ImageSampler", "RandomCoordinate"), ("Interpolator", "LinearInterpolator"))
        },
        FixedImagePyramid=["FixedSmoothingImagePyramid"] * len(metrics),
        MovingImagePyramid=["MovingSmoothingImagePyramid"] * len(metrics),
    )


def _words(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
