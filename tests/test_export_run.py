"""The export of a study that really ran: it names nobody, and maps as the run did."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK

from popclust.dataflow.flow import Flow
from popclust.imaging.ome_zarr import read_ome_zarr
from popclust.normalization.normalized import Normalized
from popclust.presentation.export.folder import PARTS, export


@pytest.fixture(scope="module")
def out(finished: Flow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export-run") / "out"
    export(finished.study, str(folder), PARTS)
    return folder


def _readable(path: Path) -> bytes:
    """What somebody finds who looks into a file."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix in (".h5", ".h5ad"):
        found: list[str] = []
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.extend([name, *_texts(item)]))
        return "\n".join(found).encode()
    return path.read_bytes()


def _texts(item: h5py.Group | h5py.Dataset) -> list[str]:
    values = [str(v) for v in item.attrs.values()]
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "OS":
        values += [str(v) for v in np.ravel(item[()])]
    return values


def test_nothing_in_it_leads_back_to_a_person(finished: Flow, population: Path, out: Path):
    secrets = {str(population), finished.study.url, Path(finished.study.secret_path("key")).read_text().strip()}
    series = {p.parent: p for p in sorted((population / "DICOM").rglob("*")) if p.is_file()}
    for path in series.values():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for name in ("PatientName", "PatientID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber"):
            secrets.add(str(header.get(name, "")))
    for text in pd.read_csv(population / "reports.csv")["text"]:
        secrets.update(s.strip() for s in re.split(r"[.\n]", text) if len(s.strip()) > 25)
    secrets.discard("")
    assert len(secrets) > 30
    files = [p for p in out.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".csv", ".gz", ".h5", ".h5ad", ".mha", ".dcm", ".json", ".md", ".py"}
    for path in files:
        data = _readable(path)
        assert [s for s in secrets if s.encode() in data] == [], path.name


def test_it_maps_as_the_run_did(finished: Flow, out: Path):
    study = finished.study
    volume_id = anndata.read_h5ad(out / "population.h5ad").obs_names[0]
    normalized = Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))
    volume = read_ome_zarr(study.path("volumes", f"{volume_id}.ome.zarr"))
    points = volume.index_to_mm(np.random.default_rng(0).uniform(0, np.array(volume.shape) - 1, (200, 3)))
    transform = SimpleITK.ReadTransform(str(out / "transforms" / f"{volume_id}_to_atlas.h5"))
    mapped = np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points])
    np.testing.assert_allclose(mapped, normalized.to_atlas(points), atol=1e-3)
