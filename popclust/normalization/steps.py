"""Steps of a registration as elastix is told them: rigid, affine and free form, and what each compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from popclust.imaging.volume import Volume, box_around
from popclust.normalization.elastix import CorrespondingPoints, ParameterMap, register
from popclust.normalization.transform import AffineMap, ChainMap, PointMap
from popclust.settings import NormalizeSettings

BENDING_SHARE = 0.06
"""Samples of the bending energy per iteration, as a share of the image's: it is smooth, and ten times dearer each."""
SPARSE = 0.15
"""elastix tries ten random places for a sample, in the box that holds the mask: a mask that fills less of this box than
a tenth, and to be safe than this share, has its voxels listed and drawn from."""
METRICS = {
    "ncc": "AdvancedNormalizedCorrelation",
    "mi": "AdvancedMattesMutualInformation",
    "squares": "AdvancedMeanSquares",
}
"""What compares two images, by our name."""
BENDING = "TransformBendingEnergyPenalty"
LANDMARKS = "CorrespondingPointsEuclideanDistanceMetric"


@dataclass(frozen=True)
class Channel:
    """A pair of images that a metric compares; elastix wants one, and a mask, for the penalties too."""

    metric: str
    weight: float | list[float]
    """For all levels, or one per level."""
    fixed: Volume
    moving: Volume
    mask: Volume
    """bool; voxels of `fixed` that count."""


def linear_maps(
    fixed: Volume, moving: Volume, compared: Volume, start: AffineMap, stages: Sequence[ParameterMap]
) -> list[AffineMap]:
    """Rigid and affine stages one after the other; positions in the first image -> second, after each."""
    chain = register([fixed], [moving], stages, start=start, fixed_masks=[compared])
    return [_as_affine(ChainMap(chain.maps[: n + 1])) for n in range(1, len(stages) + 1)]


def free_form(
    channels: Sequence[Channel],
    start: AffineMap,
    settings: NormalizeSettings,
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """A free form that all channels pull, bending among them; positions in the first images -> second."""
    fixed, moving, masks = ([getattr(c, part) for c in channels] for part in ("fixed", "moving", "mask"))
    return register(fixed, moving, [_bspline_stage(settings, channels)], start=start, fixed_masks=masks, points=points)


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


def rigid_stage(settings: NormalizeSettings) -> ParameterMap:
    """Turns and shifts."""
    return _linear_stage(settings, "EulerTransform", (3, 2), 80)


def affine_stage(settings: NormalizeSettings) -> ParameterMap:
    """Turns, shifts, stretches and shears."""
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


def _bspline_stage(settings: NormalizeSettings, channels: Sequence[Channel]) -> ParameterMap:
    n, n_metrics, metrics = settings.n_resolutions, len(channels), [c.metric for c in channels]
    # The last two levels see the finest image; the grid begins wide, or a fragment's start would decide too much.
    smoothing = [max(1.0, 2.0 ** (n - 2 - level)) for level in range(n)]
    grid = [1.6 * 2.0 ** (n - 2 - level) for level in range(n - 1)] + [1.0]
    per_metric = {
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
        ImageSampler=["RandomSparseMask" if _fill(c.mask) < SPARSE else "RandomCoordinate" for c in channels],
        **{name: [component] * n_metrics for name, component in per_metric.items()},
        **{f"ImageSampler{metrics.index(BENDING)}NumberOfSpatialSamples": round(BENDING_SHARE * settings.n_samples)},
        NumberOfResolutions=n,
        ImagePyramidSchedule=[s for s in smoothing for _ in range(3)],
        FinalGridSpacingInPhysicalUnits=settings.grid_spacing_mm,
        GridSpacingSchedule=grid,
        MaximumNumberOfIterations=settings.n_iterations,
        NumberOfSpatialSamples=settings.n_samples,
    )


def _fill(mask: Volume) -> float:
    """Share of the box around a mask that it fills."""
    return float(mask.voxels[box_around(mask.voxels, 0)].mean())


def _words(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
