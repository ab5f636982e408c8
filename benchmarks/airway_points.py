"""Where the airways of a chest CT branch: landmarks that two people share.

The skeleton of the windpipe and what hangs on it is walked from the top. Three branchings are anatomy that everybody
has: the carina, where the right upper lobe's bronchus leaves, and where the left main bronchus divides. The
registration compares the windpipe too, as a surface, so the carina says whether it holds to it; the other two lie below
what it looks at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from popclust.imaging.airways import segment_airways
from popclust.imaging.lungs import segment_lungs
from popclust.imaging.volume import Volume, resample
from popclust.normalization.transform import PointMap

SPACING_MM = 1.5
"""The voxels of the test data are 1.4 to 3 mm; between them the tree is interpolated."""
TWIG_MM, BRANCH_MM = 10.0, 25.0
"""Shorter branches are bumps of the wall; a main bronchus and what follows it is longer than the second."""


Landmarks = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""By name, zyx (mm) in a fixed and in a moving volume."""


@dataclass
class _Node:
    """A voxel of the skeleton and what hangs on it."""

    index: tuple[int, int, int]
    children: list[_Node] = field(default_factory=list)
    length_mm: float = 0.0
    """To the farthest end below."""


def airway_points(volume: Volume) -> dict[str, NDArray[np.float64]]:
    """Positions zyx (mm) of those of 'carina', 'right_upper' and 'left_main' that are found; see the module."""
    try:
        from skimage.morphology import skeletonize
    except ModuleNotFoundError:
        sys.exit("the skeleton is missing: pip install scikit-image")
    image = resample(volume, SPACING_MM)
    tree = segment_airways(image, segment_lungs(image)).voxels
    if not tree.any():
        return {}
    root = _walked(skeletonize(tree), image.spacing_mm[0])
    carina = _fork(root, BRANCH_MM)
    if carina is None:
        return {}
    right, left = sorted(_long(carina, BRANCH_MM)[:2], key=lambda n: _centre_x(n))
    forks = {"carina": carina, "right_upper": _fork(right, TWIG_MM), "left_main": _fork(left, TWIG_MM)}
    return {name: image.index_to_mm(np.array([n.index]))[0] for name, n in forks.items() if n is not None}


def shared_points(fixed: Volume, moving: Volume) -> Landmarks:
    """The branchings that both volumes show."""
    here, there = airway_points(fixed), airway_points(moving)
    return {name: (here[name], there[name]) for name in here if name in there}


def off_mm(points: Landmarks, to_moving: PointMap, prefix: str = "") -> dict[str, object]:
    """How far from where it lies in the moving volume a map takes each landmark of the fixed one, mm."""
    return {
        f"{prefix}{name}_mm": round(float(np.linalg.norm(to_moving(here[None])[0] - there)), 2)
        for name, (here, there) in points.items()
    }


def _walked(skeleton: NDArray[np.bool_], spacing_mm: float) -> _Node:
    """The skeleton as a tree that hangs on its highest voxel, with the length below each voxel."""
    label, _ = ndimage.label(skeleton, np.ones((3, 3, 3)))
    largest = label == 1 + int(np.argmax(np.bincount(label.ravel())[1:]))
    todo = {tuple(i) for i in np.argwhere(largest)}
    top = max(todo)
    todo.discard(top)
    root = _Node(top)
    queue = [root]
    for node in queue:
        around = sorted(
            (i for i in _neighbours(node.index) if i in todo), key=lambda i: sum(abs(np.subtract(i, node.index)))
        )
        for i in around:
            if i in todo:
                todo.discard(i)
                node.children.append(_Node(i))
        queue += node.children
    for node in reversed(queue):
        node.length_mm = max(
            (c.length_mm + spacing_mm * float(np.linalg.norm(np.subtract(c.index, node.index))) for c in node.children),
            default=0.0,
        )
    return root


def _neighbours(index: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    z, y, x = index
    return [(z + a, y + b, x + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]


def _long(node: _Node, length_mm: float) -> list[_Node]:
    """Children with a branch of this length below them, the longest first."""
    return sorted((c for c in node.children if c.length_mm >= length_mm), key=lambda c: -c.length_mm)


def _fork(node: _Node | None, length_mm: float) -> _Node | None:
    """The first voxel from here down with two branches of this length."""
    while node is not None and len(_long(node, length_mm)) < 2:
        node = next(iter(_long(node, 0.0)), None)
    return node


def _centre_x(node: _Node) -> float:
    """Mean x of a branch's first 25 mm or so: x grows to the patient's left."""
    found: list[int] = []
    while node.children and len(found) < 16:
        found.append(node.index[2])
        node = _long(node, 0.0)[0]
    return float(np.mean(found or [node.index[2]]))
