"""Every export is opened by the program that it is for, and compared with the study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import fsspec
import highdicom
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK
from made_study import make_study, phantom, run_card
from numpy.typing import NDArray

from popclust import schema
from popclust.cli import main
from popclust.errors import InputError
from popclust.imaging.volume import Volume
from popclust.normalization.atlas import Atlas, Template
from popclust.normalization.normalized import Normalized
from popclust.normalization.preparation import Prepared
from popclust.normalization.transform import DisplacementField
from popclust.presentation.export.folder import PARTS, export
from popclust.presentation.export.transforms import covering
from popclust.study import Study

N_VOLUMES = 12
_FEW: dict[str, dict[str, object]] = {"associate": {"min_term_count": 2}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A made study with an atlas, maps that move, and a run card."""
    made = make_study(
        tmp_path_factory.mktemp("export") / "s", N_VOLUMES, numbers_of_clusters=range(2, 4), overrides=_FEW
    ).study
    made.write_json(run_card(), "runs", f"{run_card()['run_id']}.json")
    made.write_bytes(b"volume_id,cluster,x,y\n" + _place(made).encode(), "figures", "map.csv")
    rng = np.random.default_rng(3)
    image, lungs = phantom(rng, 0)
    prepared = Prepared(image.with_values(image.voxels.astype(np.float32)), lungs, ((-150.0,) * 3, (150.0,) * 3))
    still = DisplacementField(np.zeros((3, 1, 1, 1), np.float32), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    Atlas(prepared, {}, tuple(Template(n, prepared, still, still, {}) for n in ("atlas", "t1"))).save(
        made.path("atlas")
    )
    for volume_id in _accepted(made):
        group = made.open_group("normalized", f"{volume_id}.zarr")
        loaded = Normalized.load(group)
        fields = [
            DisplacementField(
                rng.normal(0, 9, (3, 5, 6, 7)).astype(np.float32), (40.0, 41.0, 42.0), (-90.0, -80.0, -70.0)
            )
            for _ in range(2)
        ]
        moved = Normalized("atlas", {}, *fields, loaded.lung, np.eye(3), {})
        moved.save(made.open_group("normalized", f"{volume_id}.zarr", mode="w"))
    return made


@pytest.fixture(scope="module")
def out(study: Study) -> Path:
    """All of it, exported through the command line."""
    folder = Path(study.url).parent / "out"
    assert main(["export", study.url, str(folder), "--dicom"]) == 0
    return folder


def _place(study: Study) -> str:
    return "".join(f"{v},0,{i / 100},0.5\n" for i, v in enumerate(study.read_table("clusters")["volume_id"]))


def _accepted(study: Study) -> list[str]:
    quality = study.read_table("quality")
    return sorted(quality.loc[quality["accepted"], "volume_id"])


def _normalized(study: Study, volume_id: str) -> Normalized:
    return Normalized.load(study.open_group("normalized", f"{volume_id}.zarr"))


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- tables --------------------------------------------------------------------------------------------------------


def test_tables_read_back_as_they_are(study: Study, out: Path):
    names = [n for n in schema.TABLES if study.exists(f"{n}.parquet")]
    assert sorted(p.stem for p in (out / "tables").rglob("*.csv")) == sorted([*names, "data_dictionary"])
    for name in names:
        there = study.read_table(name)
        numbers = {c: str for c in there.columns if there[c].dtype.kind == "f"}  # as written, to the last digit
        read = pd.read_csv(out / "tables" / f"{name}.csv", dtype=numbers)
        assert list(read.columns) == list(there.columns)
        for column in there.columns:
            values = there[column]
            if column in {c.name for c in schema.TABLES[name] if c.is_list}:
                assert [json.loads(v) for v in read[column]] == [list(v) for v in values]
            elif values.dtype.kind == "f":
                np.testing.assert_array_equal([float(v) for v in read[column]], values)
            else:
                assert [str(v) for v in read[column].dropna()] == [str(v) for v in values.dropna() if v != ""]


def test_every_column_is_in_the_dictionary(study: Study, out: Path):
    dictionary = pd.read_csv(out / "tables" / "data_dictionary.csv").set_index(["file", "column"])
    for path in (out / "tables").rglob("*.csv"):
        name = path.relative_to(out / "tables").as_posix()
        if name != "data_dictionary.csv":
            assert set(pd.read_csv(path, nrows=0).columns) == set(dictionary.loc[name].index)
    assert dictionary.loc[("quality.csv", "inverse_error_mm"), "unit"] == "mm"
    assert dictionary["meaning"].notna().all()


# -- AnnData -------------------------------------------------------------------------------------------------------


def test_anndata_opens_the_population(study: Study, out: Path):
    read = anndata.read_h5ad(out / "population.h5ad")
    words, topics, groupings = (study.read_dataset(n) for n in ("word_counts", "topics", "groupings"))
    ids = list(words["volume"].values)
    assert list(read.obs_names) == ids
    np.testing.assert_array_equal(read.X.toarray(), words["counts"])
    np.testing.assert_array_equal(read.obsm["X_topics"], topics["topic_of_volume"].sel(volume=ids))
    np.testing.assert_allclose(read.obsm["X_lda"] ** 2, read.obsm["X_topics"], atol=1e-6)
    np.testing.assert_array_equal(read.varm["topics"], topics["word_of_topic"].T)
    assert list(read.var["vocabulary"]) == list(words["vocabulary"].values)

    reported = study.reported
    own = reported.clusters.set_index("volume_id")["cluster"]
    assert [int(c) for c in read.obs["cluster"]] == list(own.loc[ids])
    (row,) = np.flatnonzero(reported.grouping.rows(read.uns["groupings"]))
    assert list(read.obsm["groupings"][:, row]) == list(own.loc[ids])
    np.testing.assert_array_equal(read.obsm["groupings"], groupings["cluster"].sel(volume=ids).T)

    cohort = study.read_table("cohort").set_index("volume_id").loc[ids]
    np.testing.assert_array_equal(read.obs["age_years"], cohort["age_years"])
    assert list(read.obs["sex"].astype(str)) == list(cohort["sex"])
    terms = study.read_dataset("terms")
    has = pd.DataFrame(read.obsm["terms"], read.obs_names, read.uns["terms"]["term_id"])
    for volume_id in ids:
        if volume_id in terms["volume"].values:
            np.testing.assert_array_equal(has.loc[volume_id], terms["has_term"].sel(volume=volume_id))
        else:
            assert has.loc[volume_id].isna().all()
    assert read.obs["has_report"].sum() == N_VOLUMES - 2 - 3
    assert set(read.uns["obs_dictionary"]["column"]) <= set(read.obs.columns)
    assert len(read.uns["associations"]) == len(reported.grouping.of(study.read_table("associations")))
    assert read.obsm["X_map"].shape == (len(ids), 2)


def test_a_population_without_reports_is_written_too(tmp_path: Path):
    made = make_study(tmp_path / "s", 24, with_reports=False, with_volumes=False).study
    made.write_json(run_card(), "runs", f"{run_card()['run_id']}.json")
    export(made, str(tmp_path / "out"), ["tables", "anndata"])
    read = anndata.read_h5ad(tmp_path / "out" / "population.h5ad")
    assert "terms" not in read.obsm
    assert not read.obs["has_report"].any()


# -- NIfTI and ITK -------------------------------------------------------------------------------------------------


def _same_place_by_place(path: Path, volume: Volume) -> None:
    """Both readers find every voxel where the study has it, with its value."""
    index = np.argwhere(np.ones(volume.shape, bool))
    there = volume.index_to_mm(index)[:, ::-1]
    values = volume.voxels.astype(float)
    by_nibabel = nibabel.load(path)
    ras = nibabel.affines.apply_affine(by_nibabel.affine, index[:, ::-1])
    np.testing.assert_allclose(ras * [-1, -1, 1], there, atol=1e-4)
    np.testing.assert_array_equal(by_nibabel.get_fdata().transpose(2, 1, 0), values)
    by_itk = SimpleITK.ReadImage(str(path))
    corners = [index[0], index[len(index) // 3], index[-1]]
    found = [by_itk.TransformIndexToPhysicalPoint([int(i) for i in c[::-1]]) for c in corners]
    np.testing.assert_allclose(found, [volume.index_to_mm(c)[::-1] for c in corners], atol=1e-4)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(by_itk), values)


def test_masks_lie_where_the_study_has_them(study: Study, out: Path):
    assert sorted(p.name for p in (out / "masks").iterdir()) == [f"{v}_lungs.nii.gz" for v in _accepted(study)]
    for volume_id in _accepted(study)[:3]:
        _same_place_by_place(out / "masks" / f"{volume_id}_lungs.nii.gz", _normalized(study, volume_id).lung)


def test_the_atlas_lies_where_the_study_has_it(study: Study, out: Path):
    atlas = Atlas.load(study.path("atlas"))
    for template in atlas.templates:
        _same_place_by_place(out / "atlas" / f"{template.template_id}.nii.gz", template.prepared.image)
        _same_place_by_place(out / "atlas" / f"{template.template_id}_lungs.nii.gz", template.prepared.lungs)


def _mapped(transform: SimpleITK.Transform, points_mm: NDArray) -> NDArray:
    return np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points_mm])


def test_simpleitk_maps_points_as_the_study_does(study: Study, out: Path):
    volume_id = _accepted(study)[0]
    normalized, rng = _normalized(study, volume_id), np.random.default_rng(0)
    lung = normalized.lung
    inside = lung.index_to_mm(rng.uniform(0, np.array(lung.shape) - 1, (300, 3)))  # the field ends long before
    in_atlas = rng.uniform(-110, 110, (300, 3))
    for name, field, points in (
        (f"{volume_id}_to_atlas", normalized.to_atlas, inside),
        (f"atlas_to_{volume_id}", normalized.to_volume, in_atlas),
    ):
        ours = field(points)
        assert np.abs(ours - points).max() > 5
        transform = SimpleITK.ReadTransform(str(out / "transforms" / f"{name}.h5"))
        np.testing.assert_allclose(_mapped(transform, points), ours, atol=1e-4)
        image = SimpleITK.ReadImage(str(out / "fields" / f"{name}.mha"), SimpleITK.sitkVectorFloat64)
        np.testing.assert_allclose(_mapped(SimpleITK.DisplacementFieldTransform(image), points), ours, atol=1e-4)


def test_simpleitk_brings_the_atlas_s_lungs_onto_a_volume_as_the_study_does(study: Study, out: Path):
    """The direction that the guide names, whole image by whole image."""
    from popclust.normalization.normalized import carried_over

    volume_id = _accepted(study)[1]
    normalized = _normalized(study, volume_id)
    lungs = Atlas.load(study.path("atlas")).reference.lungs
    moving = SimpleITK.ReadImage(str(out / "atlas" / "atlas_lungs.nii.gz"), SimpleITK.sitkFloat32)
    grid = SimpleITK.ReadImage(str(out / "masks" / f"{volume_id}_lungs.nii.gz"))
    transform = SimpleITK.ReadTransform(str(out / "transforms" / f"{volume_id}_to_atlas.h5"))
    brought = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, grid, transform, SimpleITK.sitkLinear, 0.0)) > 0.5
    ours = carried_over(lungs, normalized.to_atlas, normalized.lung).voxels
    assert ours.sum() > 1000
    assert (brought != ours).mean() < 1e-4  # ties at one half fall either way


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2), (3, 4, 5)])
def test_a_field_that_covers_more_is_the_same_map(shape: tuple[int, int, int]):
    rng = np.random.default_rng(1)
    field = DisplacementField(rng.normal(size=(3, *shape)).astype(np.float32), (3.0, 4.0, 5.0), (1.0, 2.0, 3.0))
    box = np.array([[-20.0, 5.0, -7.0], [30.0, 6.0, 50.0]])
    grown = covering(field, box)
    points = rng.uniform(*box, (500, 3))
    np.testing.assert_allclose(grown(points), field(points), atol=1e-5)
    last = np.array(grown.origin_mm) + np.array(grown.spacing_mm) * (np.array(grown.displacement_mm.shape[1:]) - 1)
    assert (np.array(grown.origin_mm) <= box[0] + 1e-6).all() and (last >= box[1] - 1e-6).all()


# -- DICOM ---------------------------------------------------------------------------------------------------------


def test_highdicom_reads_lungs_and_group(study: Study, out: Path):
    volume_id = _accepted(study)[0]
    lung = _normalized(study, volume_id).lung
    segmentation = highdicom.seg.segread(out / "dicom" / f"{volume_id}_lungs_seg.dcm")
    volume = segmentation.get_volume(combine_segments=True)
    index = np.argwhere(volume.array)
    there = nibabel.affines.apply_affine(volume.affine, index)
    ours = lung.index_to_mm(np.argwhere(lung.voxels))[:, ::-1]
    assert {tuple(p) for p in there.round(3)} == {tuple(p) for p in ours.round(3)}

    report = highdicom.sr.srread(out / "dicom" / f"{volume_id}_group_sr.dcm")
    (group,) = report.content.get_image_measurement_groups()
    row = study.reported.clusters.set_index("volume_id").loc[volume_id]
    values = {m.name.meaning: m.value for m in group.get_measurements()}
    assert values["Distance to the centre of the group"] == pytest.approx(row["distance"])
    (named,) = group.get_qualitative_evaluations()
    assert named.value.meaning.endswith(f"group {row['cluster']}")


def test_dicom_objects_name_nobody(study: Study, out: Path):
    cohort = study.read_table("cohort").set_index("volume_id")
    for path in (out / "dicom").iterdir():
        read = pydicom.dcmread(path)
        assert (
            read.PatientName == "" and read.PatientBirthDate in ("", None) and read.ReferringPhysicianName in ("", None)
        )
        assert read.PatientID == cohort.loc[path.name.split("_")[0], "patient_id"]


# -- RO-Crate ------------------------------------------------------------------------------------------------------


def test_the_crate_is_a_workflow_run_crate(out: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(out, broken, ignore=shutil.ignore_patterns("transforms", "fields", "dicom"))
    metadata = json.loads((broken / "ro-crate-metadata.json").read_text())
    del next(e for e in metadata["@graph"] if e["@id"] == "#run")["instrument"]
    (broken / "ro-crate-metadata.json").write_text(json.dumps(metadata))
    command = [sys.executable, str(Path(__file__).with_name("validate_crate.py")), str(out), str(broken)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    of_ours, of_broken = json.loads(answer.stdout.splitlines()[-1])
    assert of_ours == []
    assert of_broken != []


def test_the_crate_says_what_the_run_card_says(out: Path):
    metadata = json.loads((out / "ro-crate-metadata.json").read_text())
    entities = {e["@id"]: e for e in metadata["@graph"]}
    card = json.loads((out / "run" / "run_card.json").read_text())
    assert card == run_card()
    assert entities["pkg:pypi/numpy@2.4.0"]["softwareVersion"] == card["packages"]["numpy"]
    run = entities["#run"]
    assert (run["startTime"], run["endTime"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:09:06+00:00")
    assert {p["@id"] for p in run["result"]} >= {r.path for r in PARTS.values()}
    for part in entities["./"]["hasPart"]:
        assert (out / part["@id"]).exists()


# -- the folder ----------------------------------------------------------------------------------------------------


def test_equal_studies_give_equal_bytes_from_a_url_too(study: Study, out: Path, tmp_path: Path):
    memory = fsspec.filesystem("memory")
    memory.put(study.url, "/export-study", recursive=True)
    try:
        made = export(Study.open("memory://export-study"), str(tmp_path / "again"), PARTS)
    finally:
        memory.rm("/export-study", recursive=True)
    again, before = _files(tmp_path / "again"), _files(out)
    assert again.keys() == before.keys()
    assert [name for name in before if again[name] != before[name]] == []
    assert (made.n_files, made.n_bytes) == (len(before), sum(map(len, before.values())))
    assert made.n_volumes == N_VOLUMES - 2


def test_parts_and_volumes_can_be_chosen(study: Study, tmp_path: Path):
    volume_id = _accepted(study)[2]
    assert main(["export", study.url, str(tmp_path / "one"), "--only", "masks", "--volume", volume_id]) == 0
    assert [p.name for p in (tmp_path / "one" / "masks").iterdir()] == [f"{volume_id}_lungs.nii.gz"]
    assert not (tmp_path / "one" / "tables").exists()


def _nothing_changed(folder: Path) -> Callable[[], bool]:
    before = _files(folder)
    return lambda: _files(folder) == before


def test_bad_input_is_one_clear_line_and_leaves_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    is_as_before = _nothing_changed(tmp_path)
    with pytest.raises(InputError, match="something here already"):
        export(study, str(tmp_path / "full"))
    with pytest.raises(InputError, match="written to a local folder"):
        export(study, "memory://out")
    with pytest.raises(InputError, match="v0nobody: not accepted here"):
        export(study, str(tmp_path / "out"), volumes=["v0nobody"])
    with pytest.raises(InputError, match="no part 'slides'"):
        export(study, str(tmp_path / "out"), ["slides"])
    with pytest.raises(InputError, match="no run has left its card"):
        export(Study.create(str(tmp_path.parent / "new")), str(tmp_path / "out"))
    monkeypatch.setattr("popclust.presentation.export.folder.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'popclust\[export\]'"):
        export(study, str(tmp_path / "out"), ["anndata"])
    assert export(study, str(tmp_path / "out"), ["tables"]).n_files > 5
    shutil.rmtree(tmp_path / "out")
    assert is_as_before()


def test_an_export_that_fails_leaves_nothing(study: Study, tmp_path: Path):
    def fails(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(study, str(tmp_path / "out"), ["masks"], step=fails)
    assert list(tmp_path.iterdir()) == []
