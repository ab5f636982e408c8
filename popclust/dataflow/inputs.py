"""What comes from outside the study: series, atlas files, known transforms, reports; each with its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import fsspec
import pandas as pd

from popclust.dataflow.flow import Flow, Need
from popclust.dataflow.volume_tasks import scan
from popclust.errors import InputError
from popclust.imaging.headers import FileHeader, list_files
from popclust.imaging.ingest import volume_id_of
from popclust.imaging.label_maps import MASK_ENDINGS
from popclust.imaging.pseudonyms import load_or_create_key
from popclust.imaging.series import SeriesFiles, group_series
from popclust.study import Study, canonical

_BATCH_FILES = 500


@dataclass(frozen=True)
class AtlasFiles:
    """Files that the atlas is built from; empty strings where it is chosen from the cohort."""

    volume: str
    """The atlas volume."""
    templates: tuple[str, ...]
    """The template volumes."""


@dataclass(frozen=True)
class HandedIn:
    """Something of one volume that a person hands in: a known transform, or a lung mask."""

    path: str
    """The file or folder; empty where there is none."""
    digest: str
    """Its hash."""


def find_series(flow: Flow) -> Mapping[str, Need]:
    """All series in the sources, by the pseudonym of their volume.

    Writes the map from pseudonyms to sources beside the key, outside the study.

    Raises
    ------
    InputError
        No source is named, a source is missing, or there is no image in any.
    """
    study = flow.study
    if not study.settings.ingest.sources:
        raise InputError(f"{study.url}/study.toml: set [ingest] sources to the folders or files with the CT series")
    sources = tuple(study.resolve(s) for s in study.settings.ingest.sources)
    key = read_key(study)
    files = iter(list_files(sources))
    batches = iter(lambda: list(islice(files, _BATCH_FILES)), [])
    calls = {f"{i:06}": (batch, sources) for i, batch in enumerate(batches)}
    headers = [h for part in flow.map("scan", scan, calls).values() for h in part]
    series = {volume_id_of(s, key): s for s in group_series(headers)}
    n_other = sum(h.problem == "not_an_image" for h in headers)
    flow.progress.line(
        f"{len(series)} series in {len(headers) - n_other} images" + (f", {n_other} other files" * bool(n_other))
    )
    if not series:
        raise InputError(f"no image in {', '.join(sources)}: DICOM, NIfTI, MetaImage or NRRD files are wanted")
    _write_sources(study, series)
    prints = {v: _fingerprint(s) for v, s in series.items()}
    flow.card.inputs["ingest"] = hashlib.sha256("".join(sorted(prints.values())).encode()).hexdigest()
    return {v: Need((prints[v],), (s, key, prints[v])) for v, s in series.items()}


def read_key(study: Study) -> bytes:
    """The key of the study's pseudonyms; a new one where there is none."""
    return load_or_create_key(study.secret_path("key"))


def source_of_volumes(study: Study) -> pd.DataFrame:
    """The map from pseudonyms to sources (columns volume_id, series_instance_uid, folder), from beside the key."""
    path = Path(study.secret_path("sources.parquet"))
    if not path.exists():
        raise InputError(f"{path}: the map from pseudonyms to sources is not here; it stays where ingest ran")
    return pd.read_parquet(path)


def atlas_files(study: Study) -> AtlasFiles | None:
    """The files that settings name for the atlas; None where it is chosen from the cohort.

    Masks and landmarks lie beside their volume: for atlas.nii.gz they are atlas_lungs.nii.gz (or a folder atlas_lungs
    with one file per structure), atlas_organs.nii.gz and atlas_landmarks.csv (or .fcsv, .json).

    Raises
    ------
    InputError
        A named file does not exist.
    """
    settings = study.settings.atlas
    if not settings.volume:
        return None
    files = AtlasFiles(study.resolve(settings.volume), tuple(study.resolve(t) for t in settings.templates))
    for path in (files.volume, *files.templates):
        if not Path(path).is_file():
            raise InputError(f"{study.url}/study.toml: [atlas] names {path}, which is not there")
    return files


def hash_atlas(files: AtlasFiles) -> list[str]:
    """Hashes of all that the atlas is built from."""
    volumes = (files.volume, *files.templates)
    beside = (mask_beside, organs_beside, landmarks_beside)
    return [hash_path(str(p)) for v in volumes for p in (v, *(find(v) for find in beside)) if p]


def mask_beside(volume: str) -> Path | None:
    """The lung mask that lies beside a volume file: a file, or a folder with one file per structure."""
    return _beside(volume, "_lungs", (*MASK_ENDINGS, ""))


def organs_beside(volume: str) -> Path | None:
    """The label map of organs that lies beside a volume file."""
    return _beside(volume, "_organs", MASK_ENDINGS)


def landmarks_beside(volume: str) -> Path | None:
    """The landmarks that lie beside a volume file."""
    return _beside(volume, "_landmarks", (".csv", ".fcsv", ".mrk.json", ".json"))


def _beside(volume: str, suffix: str, endings: tuple[str, ...]) -> Path | None:
    path = Path(volume)
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    found = (path.with_name(f"{stem}{suffix}{ending}") for ending in endings)
    return next((p for p in found if p.exists()), None)


def handed_in_mask(study: Study, series_of_volume: pd.Series, volume_id: str) -> HandedIn:
    """The lung mask of a volume from another tool; an empty path where there is none.

    Raises
    ------
    InputError
        The folder that settings name does not exist.
    """
    folder = Path(study.resolve(study.settings.masks.folder))
    if not folder.is_dir():
        raise InputError(f"{study.url}/study.toml: [masks] folder names {folder}, which is not a folder")
    name = series_of_volume[volume_id]
    stem = next((name.removesuffix(e) for e in MASK_ENDINGS if name.endswith(e)), name)
    found = (folder / f"{stem}{ending}" for ending in (*MASK_ENDINGS, ""))
    path = next((p for p in found if p.exists()), None)
    return HandedIn("", "") if path is None else HandedIn(str(path), hash_path(str(path)))


def given_transform(study: Study, series_of_volume: pd.Series, volume_id: str) -> HandedIn:
    """The known transform of a volume.

    Raises
    ------
    InputError
        No folder is named, or it holds none for the volume.
    """
    folder = study.settings.normalize.given_folder
    if not folder:
        raise InputError(f"{study.url}/study.toml: transforms = 'given' needs [normalize] given_folder")
    path = Path(study.resolve(folder)) / f"{series_of_volume[volume_id]}.npz"
    if not path.is_file():
        raise InputError(f"{study.resolve(folder)}: there is no known transform of volume {volume_id}")
    return HandedIn(str(path), hash_local_file(str(path)))


def hash_local_file(path: str) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_file(study: Study, name: str) -> str:
    """SHA-256 of a file of the study, empty where there is none."""
    return hashlib.sha256(study.read_bytes(name)).hexdigest() if study.exists(name) else ""


def hash_path(path: str) -> str:
    """SHA-256 of a file, or over all files of a folder.

    Raises
    ------
    InputError
        There is nothing at the path.
    """
    fs, root = fsspec.core.url_to_fs(path)
    if not fs.exists(root):
        raise InputError(f"{path}: there is nothing here; check study.toml")
    files = sorted(fs.find(root)) if fs.isdir(root) else [root]
    digest = hashlib.sha256()
    for file in files:
        digest.update(fs.cat_file(file))
    return digest.hexdigest()


def _write_sources(study: Study, series: Mapping[str, SeriesFiles]) -> None:
    rows = [
        {"volume_id": v, "series_instance_uid": s.identity, "folder": str(Path(s.headers[0].path).parent)}
        for v, s in sorted(series.items())
        if s.headers
    ]
    path = Path(study.secret_path("sources.parquet"))
    aside = path.with_suffix(".aside")
    aside.touch(mode=0o600)
    pd.DataFrame(rows, columns=["volume_id", "series_instance_uid", "folder"]).to_parquet(aside)
    aside.replace(path)


def _fingerprint(series: SeriesFiles) -> str:
    """Changes when an image is added, taken away or replaced; not when the export moves to another folder."""
    images = sorted(_image(h) for h in series.headers)
    return hashlib.sha256(canonical([series.identity, list(series.problems), images])).hexdigest()


def _image(header: FileHeader) -> list[str | int]:
    return [header.sop_uid or header.identity, header.frame or 0, Path(header.path).stat().st_size]
