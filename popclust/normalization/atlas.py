"""The reference space: an atlas and templates whose transforms to it were checked."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import zarr

from popclust import schema, storage
from popclust.errors import InputError, VolumeError
from popclust.imaging.volume import Vector, Volume, sample
from popclust.normalization.correspondence import thinned
from popclust.normalization.elastix import CorrespondingPoints
from popclust.normalization.landmarks import Landmarks, shared
from popclust.normalization.preparation import Prepared, corners_mm, prepare
from popclust.normalization.quality import dice, measure
from popclust.normalization.registration import register_pair
from popclust.normalization.stored_maps import load_field, load_volume, save_gridded
from popclust.normalization.transform import DisplacementField, inverse_field
from popclust.settings import AtlasSettings, NormalizeSettings

ATLAS_ID = "atlas"
"""The template_id of the atlas itself."""
MAX_ORGAN_POINTS = 2_000_000
"""Voxels at most over which the organs' overlap is measured."""
FIELD_SPACING_MM = 4.0
"""Distance between the nodes of the stored atlas-to-template transforms: they are few, so they are fine."""


@dataclass(frozen=True)
class AtlasInput:
    """A volume offered as the atlas or a template."""

    template_id: str
    """Its name in tables."""
    volume: Volume
    """(z, y, x) HU."""
    lungs: Volume | None = None
    """bool mask from elsewhere; None: segmented by intensity."""
    organs: Volume | None = None
    """int label map of any organs; 0 is background."""
    landmarks: Landmarks = field(default_factory=dict)
    """Name -> zyx mm."""


@dataclass(frozen=True)
class Template:
    """A volume through which others reach the atlas."""

    template_id: str
    """Its name in tables."""
    prepared: Prepared
    """What registration sees of it."""
    to_atlas: DisplacementField
    """Positions in the template -> positions in the atlas."""
    from_atlas: DisplacementField
    """t_eA: positions in the atlas -> positions in the template."""
    landmarks: Landmarks
    """Name -> zyx mm in the template."""

    def save(self, url: str) -> None:
        """Write to templates/<template_id>/ of an atlas's folder or fsspec URL."""
        gridded = {**_volumes(self.prepared), "to_atlas": self.to_atlas, "from_atlas": self.from_atlas}
        group = zarr.open_group(self._url(url, self.template_id), mode="w", zarr_format=3)
        save_gridded(group, "template", gridded, _attrs_of(self.prepared, self.landmarks))

    @classmethod
    def load(cls, url: str, template_id: str) -> Template:
        """Read what `save` wrote."""
        part = zarr.open_group(cls._url(url, template_id), mode="r")
        prepared, landmarks = _load_part(part)
        return cls(template_id, prepared, load_field(part, "to_atlas"), load_field(part, "from_atlas"), landmarks)

    @staticmethod
    def _url(url: str, template_id: str) -> str:
        return posixpath.join(url, "templates", template_id, "template.zarr")


@dataclass(frozen=True)
class CheckedTemplate:
    """A template that was offered, and what came of it."""

    row: Mapping[str, Any]
    """Its row of templates.parquet."""
    template: Template | None = None
    """None: it could not be registered."""


@dataclass(frozen=True)
class Atlas:
    """The reference space."""

    reference: Prepared
    """The atlas volume and its lungs."""
    landmarks: Landmarks
    """Name -> zyx mm in the atlas."""
    templates: tuple[Template, ...]
    """The atlas itself first, then the others in the order given."""

    @property
    def spacing_mm(self) -> float:
        """Isotropic resolution in which registration works."""
        return self.reference.image.spacing_mm[0]

    def save(self, url: str) -> None:
        """Write to a folder or fsspec URL (atlas/ of a study)."""
        attrs = _attrs_of(self.reference, self.landmarks)
        attrs["templates"] = [t.template_id for t in self.templates[1:]]
        group = zarr.open_group(posixpath.join(url, "reference.zarr"), mode="w", zarr_format=3)
        save_gridded(group, "atlas", _volumes(self.reference), attrs)
        for template in self.templates[1:]:
            template.save(url)

    @classmethod
    def load(cls, url: str) -> Atlas:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            There is no atlas.
        """
        try:
            group = zarr.open_group(posixpath.join(url, "reference.zarr"), mode="r")
        except FileNotFoundError:
            raise InputError("atlas: not built yet; `popclust atlas` builds it") from None
        reference, landmarks = _load_part(group)
        templates = [_itself(reference, landmarks)]
        templates += [Template.load(url, template_id) for template_id in _attrs(group)["templates"]]
        return cls(reference, landmarks, tuple(templates))


@dataclass(frozen=True)
class BuiltAtlas:
    """An atlas, and the evidence a person needs to approve it."""

    atlas: Atlas
    """The atlas with the templates that passed or were approved."""
    table: pd.DataFrame
    """One row per template offered, with the columns of atlas/templates.parquet."""
    registered: tuple[Template, ...] = ()
    """All templates that could be registered, the refused ones too: for the pictures."""

    def save(self, url: str) -> None:
        """Write the atlas and atlas/templates.parquet."""
        self.atlas.save(url)
        storage.write_bytes(
            posixpath.join(url, "templates.parquet"), schema.encode_table("atlas/templates", self.table)
        )


def build_atlas(
    reference: AtlasInput, templates: Sequence[AtlasInput], settings: AtlasSettings, normalize: NormalizeSettings
) -> BuiltAtlas:
    """Register every template to the atlas, check it, and keep those within the limits or approved by name.

    Parameters
    ----------
    reference : AtlasInput
        The atlas.
    templates : sequence of AtlasInput
        The others; none is fine, the atlas is always a template.
    settings : AtlasSettings
        Resolution, limits and approvals.
    normalize : NormalizeSettings
        How a pair is registered.

    Raises
    ------
    VolumeError
        The atlas itself shows no lung, is flat or too small.
    InputError
        Two volumes share a name, or an approved name was not offered.
    """
    check_names([reference.template_id, *(t.template_id for t in templates)], settings)
    prepared = prepare(reference.volume, settings.spacing_mm, reference.lungs)
    checked = [check_template(prepared, reference, offered, settings, normalize) for offered in templates]
    return assemble_atlas(prepared, reference.landmarks, checked)


def check_names(names: Sequence[str], settings: AtlasSettings) -> None:
    """Refuse names that repeat, and approvals of what is not offered.

    Raises
    ------
    InputError
        Two volumes share a name, or an approved name was not offered.
    """
    if len(set(names)) < len(names):
        raise InputError(f"atlas.templates: names must differ, got {sorted(names)}")
    if unknown := sorted(set(settings.approved) - set(names)):
        raise InputError(f"atlas.approved: {unknown} are not among the templates {sorted(names)}")


def assemble_atlas(reference: Prepared, landmarks: Landmarks, checked: Sequence[CheckedTemplate]) -> BuiltAtlas:
    """The atlas of a reference and of those of the checked templates that are used."""
    table = pd.DataFrame([c.row for c in checked], columns=schema.names("atlas/templates"))
    registered = tuple(c.template for c in checked if c.template is not None)
    used = set(table.loc[table["used"].astype(bool), "template_id"])
    kept = (_itself(reference, landmarks), *(t for t in registered if t.template_id in used))
    return BuiltAtlas(Atlas(reference, landmarks, kept), table, registered)


_EMPTY_ROW: dict[str, Any] = {
    "template_id": "",
    "n_landmarks": 0,
    "landmark_error_mm": float("nan"),
    "landmark_error_max_mm": float("nan"),
    "lung_dice": float("nan"),
    "n_organs": 0,
    "organ_dice": float("nan"),
    "organ_dice_min": float("nan"),
    "ncc": float("nan"),
    "folding": float("nan"),
    "used": False,
    "approved": False,
    "reasons": (),
}


def refused_template(template_id: str, settings: AtlasSettings, reason: str) -> CheckedTemplate:
    """A template that could not be registered: an approval does not help it."""
    return CheckedTemplate(_empty_row(template_id, settings) | {"reasons": [reason]})


def check_template(
    reference: Prepared,
    atlas: AtlasInput,
    offered: AtlasInput,
    settings: AtlasSettings,
    normalize: NormalizeSettings,
) -> CheckedTemplate:
    """Register one template to the prepared atlas, and hold it against the limits; parameters as of `build_atlas`."""
    try:
        template = _registered(reference, atlas.landmarks, offered, settings, normalize)
    except VolumeError as error:
        return refused_template(offered.template_id, settings, error.code)
    row = _empty_row(offered.template_id, settings)
    row |= _measured(reference, atlas.landmarks, template) | _organ_dice(atlas.organs, offered.organs, template)
    broken = {
        "landmark_error": row["landmark_error_mm"] > settings.max_landmark_error_mm,
        "low_lung_dice": row["lung_dice"] < settings.min_lung_dice,
        "low_organ_dice": row["organ_dice"] < settings.min_organ_dice,
        "folding": row["folding"] > normalize.max_folding,
    }
    reasons = [code for code, is_broken in broken.items() if is_broken]
    return CheckedTemplate(row | {"reasons": reasons, "used": not reasons or row["approved"]}, template)


def _empty_row(template_id: str, settings: AtlasSettings) -> dict[str, Any]:
    return _EMPTY_ROW | {"template_id": template_id, "approved": template_id in settings.approved}


def _registered(
    reference: Prepared,
    landmarks: Landmarks,
    offered: AtlasInput,
    settings: AtlasSettings,
    normalize: NormalizeSettings,
) -> Template:
    prepared = prepare(offered.volume, settings.spacing_mm, offered.lungs)
    pairs = shared(landmarks, offered.landmarks)
    points = CorrespondingPoints(pairs.second_mm, pairs.first_mm) if pairs.names else None
    point_map = register_pair(prepared, reference, normalize, points=points)
    to_atlas = DisplacementField.over_box(point_map, corners_mm(prepared.image), FIELD_SPACING_MM)
    from_atlas = inverse_field(to_atlas, corners_mm(reference.image), FIELD_SPACING_MM)
    return Template(offered.template_id, prepared, to_atlas, from_atlas, offered.landmarks)


def _measured(reference: Prepared, landmarks: Landmarks, template: Template) -> dict[str, Any]:
    """Landmark errors are of the landmarks that supported the registration; the table says how many there were."""
    points = reference.lungs.index_to_mm(np.indices(reference.lungs.shape).reshape(3, -1).T)
    carried = sample(template.prepared.lungs, template.from_atlas(points), outside=0.0) > 0.5
    measures = measure(reference, template.prepared, template.from_atlas, template.prepared.lungs)
    pairs = shared(landmarks, template.landmarks)
    errors = np.linalg.norm(template.from_atlas(pairs.first_mm) - pairs.second_mm, axis=1)
    return {
        "n_landmarks": len(pairs.names),
        "landmark_error_mm": float(errors.mean()) if len(errors) else float("nan"),
        "landmark_error_max_mm": float(errors.max()) if len(errors) else float("nan"),
        "lung_dice": dice(carried, reference.lungs.voxels.ravel()),
        "ncc": measures.ncc,
        "folding": measures.folding,
    }


def _organ_dice(atlas: Volume | None, offered: Volume | None, template: Template) -> dict[str, Any]:
    """Overlap of every organ that both label maps show, the template's carried over to the atlas."""
    if atlas is None or offered is None:
        return {}
    labels = np.intersect1d(np.unique(atlas.voxels), np.unique(offered.voxels))
    points = thinned(atlas.index_to_mm(np.indices(atlas.shape).reshape(3, -1).T), MAX_ORGAN_POINTS)
    wanted = thinned(atlas.voxels.ravel(), MAX_ORGAN_POINTS)
    index = np.round(offered.mm_to_index(template.from_atlas(points))).astype(int)
    inside = np.all((index >= 0) & (index < offered.shape), axis=1)
    index[~inside] = 0
    carried = np.where(inside, offered.voxels[tuple(index.T)], 0)
    overlap = [dice(wanted == label, carried == label) for label in labels[labels > 0]]
    return {"n_organs": len(overlap)} | (
        {"organ_dice": float(np.mean(overlap)), "organ_dice_min": min(overlap)} if overlap else {}
    )


def _itself(reference: Prepared, landmarks: Landmarks) -> Template:
    """The atlas as a template: no displacement."""
    still = DisplacementField(np.zeros((3, 1, 1, 1), np.float32), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    return Template(ATLAS_ID, reference, still, still, landmarks)


def _volumes(prepared: Prepared) -> dict[str, Volume | DisplacementField]:
    return {"image": prepared.image, "lungs": prepared.lungs}


def _attrs_of(prepared: Prepared, landmarks: Landmarks) -> dict[str, Any]:
    return {
        "field_of_view_mm": [list(corner) for corner in prepared.field_of_view_mm],
        "landmarks_mm": {name: list(point) for name, point in sorted(landmarks.items())},
    }


def _load_part(group: zarr.Group) -> tuple[Prepared, Landmarks]:
    attrs = _attrs(group)
    low, high = (_vector(corner) for corner in attrs["field_of_view_mm"])
    landmarks = {name: _vector(point) for name, point in attrs["landmarks_mm"].items()}
    return Prepared(load_volume(group, "image"), load_volume(group, "lungs"), (low, high)), landmarks


def _attrs(group: zarr.Group) -> Mapping[str, Any]:
    return dict(group.attrs)


def _vector(values: Sequence[float]) -> Vector:
    z, y, x = (float(v) for v in values)
    return z, y, x
