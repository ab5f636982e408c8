"""What a person hands in beside the series: atlas files, lung masks, known transforms; found, and known by digests."""

from __future__ import annotations

import hashlib
import hmac
import json
import posixpath
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd

from popclust import storage
from popclust.errors import InputError
from popclust.imaging.label_maps import MASK_ENDINGS
from popclust.imaging.pseudonyms import create_key, load_key
from popclust.parts import canonical
from popclust.study import Study

_BLOCK_BYTES = 2**22


def study_key(study: Study) -> bytes:
    """The key of the study's pseudonyms; a new one for a study without parts.

    Raises
    ------
    InputError
        The key is missing though the study has parts that were named with it, or it cannot be read.
    """
    path = study.secret_path("key")
    if not study.settings.ingest.key_file:  # the folder is popclust's own
        storage.make_private(Path(path).parent)
    return load_key(path) if has_key(study) else create_key(path)


def has_key(study: Study) -> bool:
    """Whether the key is there; it may be missing only as long as nothing is named with it.

    Raises
    ------
    InputError
        It is missing though the study has parts.
    """
    path = study.secret_path("key")
    if Path(path).exists():
        return True
    if storage.names(study.path("markers", "ingest")):
        raise InputError(
            f"{path}: the key is missing, and the study's pseudonyms were made with it: bring it back from where you "
            "keep it, or start a new study; a new key would make every patient another one"
        )
    return False


@dataclass
class HandedIn:
    """Digests of what is handed in, keyed, and remembered beside the key for as long as a file stays as it is."""

    study: Study
    """The study."""
    key: bytes
    """Of its pseudonyms."""
    n_read: int = 0
    """Files read by this run."""
    n_changed: int = 0
    """Paths that are new, or whose content is another than was remembered."""
    _new: dict[str, Any] = field(default_factory=dict)

    def digest(self, path: str) -> str:
        """Keyed digest of a file's content, or of all files of a folder.

        Raises
        ------
        InputError
            There is nothing at the path.
        """
        fs, root = fsspec.core.url_to_fs(path)
        if not fs.exists(root):
            raise InputError(f"{path}: there is nothing here; check {self.study.url}/study.toml")
        files = sorted(fs.find(root)) if fs.isdir(root) else [root]
        state = [[posixpath.relpath(f, root), *_state(fs, f)] for f in files]
        known = self._known.get(path)
        if known is None or known[0] != state:
            digest = hmac.new(self.key, digestmod=hashlib.sha256)
            for file in files:
                digest.update(f"{posixpath.relpath(file, root)}\0".encode())
                with fs.open(file, "rb") as opened:
                    while block := opened.read(_BLOCK_BYTES):
                        digest.update(block)
            self.n_changed += known is None or known[1] != digest.hexdigest()
            known = self._new[path] = self._known[path] = [state, digest.hexdigest()]
            self.n_read += len(files)
        return str(known[1])

    def save(self) -> None:
        """Remember what was read."""
        if self._new:
            path = Path(self._path)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            storage.write_private(path, canonical(self._known))
            self._new.clear()

    @property
    def _path(self) -> str:
        return self.study.secret_path("handed_in.json")

    @cached_property
    def _known(self) -> dict[str, Any]:
        try:
            return dict(json.loads(Path(self._path).read_bytes()))
        except (FileNotFoundError, ValueError):  # what cannot be read is read anew
            return {}


def _state(fs: Any, path: str) -> list[Any]:
    """What changes when a file is replaced or mended in place."""
    info = fs.info(path)
    if fs.protocol == "file" or "file" in fs.protocol:
        stat = Path(path).stat()
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return [info.get("size"), str(info.get("ETag") or info.get("LastModified") or info.get("created"))]


@dataclass(frozen=True)
class AtlasFiles:
    """Files that the atlas is built from."""

    volume: str
    """The atlas volume."""
    templates: tuple[str, ...]
    """The template volumes."""

    @property
    def all(self) -> list[str]:
        """The volumes, and the masks and landmarks beside them."""
        beside = (mask_beside, organs_beside, landmarks_beside)
        return [str(p) for v in (self.volume, *self.templates) for p in (v, *(find(v) for find in beside)) if p]


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


def source_of_volumes(study: Study) -> pd.DataFrame:
    """The map from pseudonyms to sources (columns volume_id, series_instance_uid, folder), from beside the key.

    Raises
    ------
    InputError
        It is not there.
    """
    path = Path(study.secret_path("sources.parquet"))
    if not path.exists():
        raise InputError(f"{path}: the map from pseudonyms to sources is not here; it stays where ingest ran")
    return pd.read_parquet(path)


def series_of(study: Study, volume_id: str) -> str:
    """The name of a volume's series in its source, by which masks and transforms are handed in."""
    path = study.secret_path("sources.parquet")
    return str(_series_of_volumes(path, Path(path).stat().st_mtime_ns)[volume_id])


@lru_cache(maxsize=1)
def _series_of_volumes(path: str, changed_ns: int) -> dict[str, str]:
    frame = pd.read_parquet(path, columns=["volume_id", "series_instance_uid"])
    return dict(zip(frame["volume_id"], frame["series_instance_uid"], strict=True))


def mask_of(study: Study, series: str) -> str:
    """The lung mask from another tool of a series; empty where there is none.

    Raises
    ------
    InputError
        The folder that settings name does not exist.
    """
    if not study.settings.masks.folder:
        return ""
    folder = Path(study.resolve(study.settings.masks.folder))
    if not folder.is_dir():
        raise InputError(f"{study.url}/study.toml: [masks] folder names {folder}, which is not a folder")
    stem = next((series.removesuffix(e) for e in MASK_ENDINGS if series.endswith(e)), series)
    below = stem.partition("/")[2]  # a file is known by its source's name and the path below it
    stems = [one for one in (stem, below) if one]
    found = (folder / f"{one}{ending}" for one in stems for ending in (*MASK_ENDINGS, ""))
    return next((str(p) for p in found if p.exists()), "")


def transform_of(study: Study, series: str, volume_id: str) -> str:
    """The known transform of a series.

    Raises
    ------
    InputError
        There is none in the folder that settings name.
    """
    folder = study.resolve(study.settings.normalize.given_folder)
    path = Path(folder) / f"{series}.npz"
    if not path.is_file():
        raise InputError(f"{folder}: there is no known transform of volume {volume_id}")
    return str(path)
