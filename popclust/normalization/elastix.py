"""itk-elastix spoken in numpy: volumes and parameter maps in, spatial maps of our own out.

elastix is imported at the first registration (it takes 10 to 20 s); nothing else in the project imports it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popclust.errors import VolumeError
from popclust.imaging.volume import Vector, Volume
from popclust.normalization.transform import AffineMap, BSplineMap, ChainMap, PointMap

ParameterMap = dict[str, list[str]]
"""One stage of elastix: name -> values, all text (elastix's own object does not pickle)."""


_TOO_LITTLE = {
    "Too many samples map outside moving image buffer": "too little overlap",
    "Could not find enough image samples": "too few voxels to compare",
}
"""What elastix says where the volume is at fault, and how it is called."""
_REASON = re.compile(r"^Description: (?:ITK ERROR: )?(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class CorrespondingPoints:
    """Landmarks seen in both images, which pull the registration."""

    fixed_mm: NDArray[np.float64]
    """(n, 3) zyx positions in the fixed image."""
    moving_mm: NDArray[np.float64]
    """(n, 3) zyx positions of the same landmarks in the moving image."""


def register(
    fixed: Sequence[Volume],
    moving: Sequence[Volume],
    stages: Sequence[ParameterMap],
    *,
    start: AffineMap,
    fixed_masks: Sequence[Volume] = (),
    points: CorrespondingPoints | None = None,
) -> ChainMap:
    """Run elastix's stages one after the other, single-threaded, from a given start.

    Parameters
    ----------
    fixed, moving : sequence of Volume
        One image, or several channels of equal number (elastix's multi-metric registration).
    stages : sequence of ParameterMap
        Each is a stage, composed onto the one before.
    start : AffineMap
        Point map fixed -> moving to begin with.
    fixed_masks : sequence of Volume
        bool; the voxels that count, one mask per metric. A single one is for the first metric only: elastix lets the
        others sample everywhere.
    points : CorrespondingPoints, optional
        Landmarks, for stages with the metric ``CorrespondingPointsEuclideanDistanceMetric``.

    Returns
    -------
    ChainMap
        Positions in the fixed image -> positions in the moving one: `start`, then one map per stage.

    Raises
    ------
    VolumeError
        elastix says that too few samples lie inside both images, or within the mask; code ``registration_failed``.
    RuntimeError
        Whatever else elastix says.
    """
    import itk

    warm_up()
    method = itk.ElastixRegistrationMethod[itk.Image[itk.F, 3], itk.Image[itk.F, 3]].New()
    for volume in fixed:
        method.AddFixedImage(to_itk(volume, np.float32))
    for volume in moving:
        method.AddMovingImage(to_itk(volume, np.float32))
    for volume in fixed_masks:
        method.AddFixedMask(to_itk(volume, np.uint8))
    if points is not None:
        method.SetFixedPoints(_to_points(points.fixed_mm))
        method.SetMovingPoints(_to_points(points.moving_mm))
    method.SetParameterObject(_to_parameter_object(stages))
    method.SetInitialTransformParameterObject(_to_parameter_object([affine_parameters(start)]))
    method.SetNumberOfThreads(1)
    _update(method)
    result = method.GetTransformParameterObject()
    found = [dict(result.GetParameterMap(i)) for i in range(result.GetNumberOfParameterMaps())]
    return ChainMap((start, *(to_map(parameters) for parameters in found[-len(stages) :])))


def _update(method: Any) -> None:
    """Run elastix; what went wrong it tells its log alone, and writes that only into a folder."""
    method.LogToConsoleOff()
    with TemporaryDirectory(prefix="popclust-elastix-") as folder:
        method.SetOutputDirectory(folder)
        method.SetLogFileName("log")
        method.LogToFileOn()
        try:
            method.UpdateLargestPossibleRegion()
        except RuntimeError as error:
            log = Path(folder, "log")
            reasons = _REASON.findall(log.read_text(errors="replace")) if log.exists() else []
            for said, meant in _TOO_LITTLE.items():
                if any(said in reason for reason in reasons):
                    message = f"elastix could not register this volume: {meant}"
                    raise VolumeError("registration_failed", message) from error
            raise RuntimeError(f"elastix: {' / '.join(reasons) or error}") from error


@cache
def warm_up() -> None:
    """One registration of noise, thrown away.

    The first registration of a process draws other random numbers than all later ones (elastix seeds its
    generator only after the first samplers exist); after this one, results depend on the input and seed alone.
    """
    import itk

    noise = Volume(np.random.default_rng(0).normal(size=(12, 12, 12)), (1.0, 1.0, 1.0))
    image = to_itk(noise, np.float32)
    stage = dict(itk.ParameterObject.New().GetDefaultParameterMap("translation", 1))
    stage |= {"MaximumNumberOfIterations": ["1"], "RandomSeed": ["1"], "WriteResultImage": ["false"]}
    method = itk.ElastixRegistrationMethod.New(image, image)
    method.SetParameterObject(_to_parameter_object([stage]))
    method.LogToConsoleOff()
    method.UpdateLargestPossibleRegion()


def to_itk(volume: Volume, dtype: type) -> Any:
    """The same volume as an itk image: ITK's points are our positions with the axes reversed."""
    import itk

    image = itk.image_from_array(np.ascontiguousarray(volume.voxels, dtype=dtype))
    image.SetSpacing(list(volume.spacing_mm[::-1]))
    image.SetOrigin(list(volume.origin_mm[::-1]))
    return image


def affine_parameters(affine: AffineMap) -> ParameterMap:
    """An affine map as elastix writes it (axes xyz, matrix by rows, then the translation)."""
    values = [*affine.matrix[::-1, ::-1].ravel(), *affine.offset_mm[::-1]]
    return {
        "Transform": ["AffineTransform"],
        "NumberOfParameters": ["12"],
        "TransformParameters": [repr(float(v)) for v in values],
        "CenterOfRotationPoint": ["0.0", "0.0", "0.0"],
        "InitialTransformParameterFileName": ["NoInitialTransform"],
        "HowToCombineTransforms": ["Compose"],
        "FixedImageDimension": ["3"],
        "MovingImageDimension": ["3"],
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
    }


def to_map(parameters: ParameterMap) -> PointMap:
    """The map that one of elastix's transform parameter maps stands for.

    Raises
    ------
    ValueError
        A transform other than Euler, affine or (recursive) B-spline.
    """
    kind = parameters["Transform"][0]
    values = np.array(parameters["TransformParameters"], dtype=np.float64)
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _bspline_map(parameters, values)
    centre = np.array(parameters["CenterOfRotationPoint"], dtype=np.float64)
    if kind == "AffineTransform":
        matrix, shift = values[:9].reshape(3, 3), values[9:]
    elif kind == "EulerTransform":
        matrix, shift = _euler_matrix(*values[:3]), values[3:]
    else:
        raise ValueError(f"parameters: transform {kind!r} is not one that popclust evaluates")
    offset = centre + shift - matrix @ centre
    return AffineMap(matrix[::-1, ::-1].copy(), offset[::-1].copy())


def _bspline_map(parameters: ParameterMap, values: NDArray[np.float64]) -> BSplineMap:
    size, spacing, origin = (
        np.array(parameters[name], dtype=np.float64)[::-1] for name in ("GridSize", "GridSpacing", "GridOrigin")
    )
    coefficients = values.reshape(3, *size.astype(int))[::-1].copy()
    return BSplineMap(coefficients, _vector(spacing), _vector(origin))


def _euler_matrix(angle_x: float, angle_y: float, angle_z: float) -> NDArray[np.float64]:
    """itk::Euler3DTransform: rotation about y, then x, then z (axes xyz)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([angle_x, angle_y, angle_z]), np.sin([angle_x, angle_y, angle_z])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def _to_parameter_object(stages: Sequence[ParameterMap]) -> Any:
    import itk

    parameter_object = itk.ParameterObject.New()
    for stage in stages:
        parameter_object.AddParameterMap(stage)
    return parameter_object


def _to_points(points_mm: NDArray[np.float64]) -> Any:
    import itk

    container = itk.VectorContainer[itk.UL, itk.Point[itk.D, 3]].New()
    container.Reserve(len(points_mm))
    for i, point in enumerate(points_mm):
        container.SetElement(i, itk.Point[itk.D, 3](point[::-1].tolist()))
    return container


def _vector(values: NDArray[np.float64]) -> Vector:
    z, y, x = values.tolist()
    return z, y, x
