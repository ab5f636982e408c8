"""The frozen model on disk: atlas, vocabularies, topics, centres, and what every stage was set to; one digest over all.

``model/`` can be copied anywhere. Nothing in it names a patient or a place; a model is opened only whole, and only by
a popclust whose stages give the same results.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zarr

import popclust
from popclust import settings, storage
from popclust.dataflow.stages import stage_named
from popclust.errors import InputError
from popclust.parts import canonical
from popclust.population.model import Model
from popclust.population.vocabulary import VOCABULARIES
from popclust.settings import Settings
from popclust.study import Study

STAGES = ("ingest", "normalize", "extract", "encode")
"""What a new volume passes."""
MODEL_FORMAT = 6
"""Version of model/. A model of another version is refused, never guessed at."""
_LEARNT = ("atlas", "vocabulary")
_MANIFEST = "model.json"
_STORES = ("atlas", *(f"vocabulary/{name}.zarr" for name in VOCABULARIES), "groups.zarr")


@dataclass(frozen=True)
class FrozenModel:
    """A model that was opened, and compared with its digest."""

    url: str
    """Where it lies."""
    digest: str
    """Over all of it."""
    settings: Settings
    """What every stage is set to; places are empty."""
    markers: Mapping[str, str]
    """Markers of the atlas and the vocabularies."""
    groups: Model
    """Topics, centres and limits."""


def seal(study: Study) -> str:
    """Copy the atlas and the vocabularies into the study's model/, write its manifest; returns the digest over all."""
    for store in _STORES[:-1]:
        storage.copy_tree(study.path(store), study.path("model", store))
    names = (*STAGES, *_LEARNT)
    markers = {name: done.marker for name in _LEARNT if (done := study.done(name))}
    manifest = {
        "format_version": MODEL_FORMAT,
        "popclust": popclust.__version__,
        "versions": {name: stage_named(name).version for name in names},
        "settings": settings.shaping(study.settings, (section for section in settings.to_dict(study.settings))),
        "markers": markers,
        "stores": storage.digest_of([study.path("model", s) for s in _STORES], study.path("model"))[0],
    }
    digest = _digest(manifest)
    study.write_json({**manifest, "digest": digest}, "model", _MANIFEST)
    return digest


def open_model(url: str) -> FrozenModel:
    """Open the model of a study, or a copy of its model/ folder.

    Raises
    ------
    InputError
        There is none, it is damaged, or it was made by stages of other versions.
    """
    url = storage.absolute(url)
    if storage.exists(posixpath.join(url, "model", _MANIFEST)):
        url = posixpath.join(url, "model")
    path = posixpath.join(url, _MANIFEST)
    if not storage.exists(path):
        raise InputError(
            f"{url}: there is no frozen model here ({_MANIFEST} is missing); `popclust run STUDY` makes it"
        )
    try:
        manifest = dict(json.loads(storage.read_bytes(path)))
        digest = str(manifest.pop("digest"))
    except (ValueError, KeyError, AttributeError):
        raise InputError(f"{path}: cannot be read; copy the model again") from None
    if manifest.get("format_version") != MODEL_FORMAT:
        raise InputError(
            f"{path}: model format {manifest.get('format_version')}, this popclust reads format {MODEL_FORMAT}; "
            "use the popclust that made it, or make the model anew"
        )
    found = storage.digest_of([posixpath.join(url, s) for s in _STORES], url)[0]
    if digest != _digest(manifest) or found != manifest["stores"]:
        raise InputError(
            f"{url}: the model is not as it was frozen (something of it was changed or lost); copy it again"
        )
    _refuse_other_versions(manifest, path)
    return FrozenModel(
        url=url,
        digest=digest,
        settings=_settings_of(manifest, path),
        markers=manifest["markers"],
        groups=Model.load(zarr.open_group(posixpath.join(url, "groups.zarr"), mode="r")),
    )


def _settings_of(manifest: Mapping[str, Any], path: str) -> Settings:
    """Settings without places: where known transforms lie is for whoever places new volumes to say."""
    chosen = {section: dict(values) for section, values in manifest["settings"].items()}
    if chosen["normalize"]["transforms"] == "given":
        chosen["normalize"]["given_folder"] = "elsewhere"
    return settings.from_dict(chosen, path)


def _refuse_other_versions(manifest: Mapping[str, Any], path: str) -> None:
    for name, version in manifest["versions"].items():
        if stage_named(name).version != version:
            raise InputError(
                f"{path}: was made with version {version} of stage {name}, this popclust has version "
                f"{stage_named(name).version}: use popclust {manifest['popclust']}, or make the model anew"
            )


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(manifest)).hexdigest()
