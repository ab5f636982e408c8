from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from popclust import settings
from popclust.errors import InputError
from popclust.evaluation.confounders import confounder_variables
from popclust.reports.package_tables import read_table
from popclust.schema import FORMAT_VERSION, TABLES
from popclust.settings import ALL, Kind, Settings
from popclust.settings_types import CohortColumn, ReportSection, Technical

PLACES = {
    *("ingest.sources", "ingest.key_file", "masks.folder", "normalize.given_folder"),
    *("atlas.volume", "atlas.templates", "terms.reports", "terms.lexicon"),
    *("ingest.sidecar", "cluster.external"),
}
DECLARED = {d.full_name: d for d in ALL}
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def test_the_template_holds_every_setting_and_reads_back_as_the_defaults():
    text = settings.template()
    assert settings.loads(text) == Settings()
    assert f"format_version = {FORMAT_VERSION}\n" in text
    for d in ALL:
        assert f"# {d.name} = " in text
    assert "Grey levels. [an integer from 2 to 256]\n# n_levels = 16\n" in text
    assert "Distance between sampling points. [mm: a number above 0]\n# step_mm = 6.0\n" in text


def test_every_setting_is_declared_once_with_a_meaning_and_a_default_that_is_wanted():
    assert len(DECLARED) == len(ALL) == sum(len(dataclasses.fields(s)) for s in settings.SECTIONS.values())
    for d in ALL:
        assert d.meaning
        assert d.read(d.default, "") == d.default
        assert settings.field_docs(settings.SECTIONS[d.section])[d.name] == d.meaning
        assert not d.name.endswith("_mm") or d.unit == "mm"


def test_places_and_limits():
    assert {d.full_name for d in ALL if d.kind is Kind.PLACE} == PLACES
    limits = {d.full_name for d in ALL if d.kind is Kind.LIMIT}
    compute = {f"compute.{f.name}" for f in dataclasses.fields(settings.ComputeSettings)}
    assert limits == compute | {"normalize.timeout_s", "normalize.max_memory_mb", "terms.min_joined"}


def test_choices_are_what_the_code_knows():
    cohort = pd.DataFrame(columns=[c.name for c in TABLES["cohort"]])
    quality = pd.DataFrame(columns=[c.name for c in TABLES["quality"]])
    assert set(Technical.__args__) == set(confounder_variables(cohort, quality).columns)
    assert set(CohortColumn.__args__) < {c.name for c in TABLES["cohort"] if c.dtype != "list"}
    assert set(ReportSection.__args__) == {row["section"] for row in read_table("sections.csv")}


@hypothesis_settings(deadline=None, max_examples=80)
@given(
    sources=st.lists(TEXTS, unique=True),
    key_file=TEXTS,
    spacing=st.floats(1e-300, 5.9) | st.integers(1, 5),
    seeds=st.lists(st.integers(0, 2**31 - 2), min_size=1, unique=True),
    masked=st.booleans(),
)
@example(["a\tb\n'\"\\", "\x7f\x1b", "C:\\ct", "C:\\it's", "ü\u2028\U0001f600"], "\\\n", 1e-300, [0], True)
def test_what_is_written_is_read_again(sources, key_file, spacing, seeds, masked):
    chosen = {
        "ingest": {"sources": sources, "key_file": key_file},
        "haralick": {"step_mm": spacing, "spacing_mm": spacing, "window_mm": 9.0 * spacing, "masked": masked},
        "cluster": {"seeds": seeds},
    }
    text = settings.template(chosen)
    read = settings.loads(text.encode().decode())
    assert read == settings.from_dict(chosen) == settings.from_dict(json.loads(json.dumps(settings.to_dict(read))))
    assert read.ingest.sources == tuple(sources)
    assert read.ingest.key_file == key_file
    assert (read.haralick.spacing_mm, read.haralick.masked, read.cluster.seeds) == (spacing, masked, tuple(seeds))
    assert settings.loads("\ufeff" + text) == read


def test_settings_survive_json():
    changed = settings.from_dict({"haralick": {"range_hu": [-900, 200], "distances": [1, 2]}})
    assert settings.from_dict(settings.to_dict(changed)) == changed
    assert settings.from_dict(dataclasses.asdict(changed)) == changed
    assert changed.haralick.range_hu == (-900.0, 200.0)
    assert isinstance(changed.haralick.range_hu[0], float)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[ingst]\n", "study.toml: unknown section 'ingst'; did you mean 'ingest'?"),
        ("[ingest]\nmin_slice = 3\n", "study.toml [ingest]: unknown setting 'min_slice'; did you mean 'min_slices'?"),
        ("[haralick]\nn_levels = 1\n", "study.toml [haralick] n_levels: must be an integer from 2 to 256, got 1"),
        ("[haralick]\nn_levels = 257\n", "must be an integer from 2 to 256, got 257"),
        ("[haralick]\nn_levels = 16.0\n", "must be an integer from 2 to 256, got 16.0"),
        ("[haralick]\nspacing_mm = 0\n", "must be a number above 0 (mm), got 0"),
        ("[haralick]\nspacing_mm = nan\n", "must be a number above 0 (mm), got nan"),
        ("[haralick]\nspacing_mm = inf\n", "must be finite (mm), got inf"),
        ("[haralick]\nrange_hu = [-inf, 400.0]\n", "must be finite (HU), got [-inf, 400.0]"),
        ("[haralick]\nrange_hu = [1.0]\n", "must be a list of 2 numbers with the lower one first (HU), got [1.0]"),
        ("[haralick]\nrange_hu = [400, -1000]\n", "with the lower one first (HU), got [400, -1000]"),
        ("[haralick]\ndistances = []\n", "must be a list of one or more integers from 1 up (voxels), got []"),
        ("[haralick]\ndistances = [1, 1]\n", "must be a list without repeats (voxels), got [1, 1]"),
        ("[ingest]\nmin_slices = 'many'\n", "must be an integer from 1 up, got 'many'"),
        ("[ingest]\nmin_slices = true\n", "must be an integer from 1 up, got True"),
        ("[ingest]\naccept_missing_kernel = 1\n", "must be true or false, got 1"),
        ("[ingest]\nsources = 'x'\n", "must be a list of non-empty texts, got 'x'"),
        ("[ingest]\nsources = ['']\n", "must be a list of non-empty texts, got ['']"),
        ('[ingest]\nkey_file = "a\\u0000"\n', "must be text without NUL"),
        ("[ingest]\nkernel_pattern = '(B'\n", "kernel_pattern: must be text that is a regular expression, got '(B'"),
        ("[normalize]\nmin_lung_dice = 1.1\n", "must be a number from 0 to 1, got 1.1"),
        ("[normalize]\nseed = -1\n", "must be an integer from 0 to 2147483646, got -1"),
        ("[associate]\nalpha = 1.0\n", "must be a number above 0 and below 1, got 1.0"),
        ("[associate]\nstrata = ['reasons']\n", "must be a list of values of 'manufacturer', "),
        ("[topics]\ndoc_topic_prior = 0.0\n", "must be a number above 0, got 0.0"),
        ("[cluster]\nseeds = []\n", "must be a list of one or more integers"),
        ("[cluster]\nengine = 'fast'\n", "must be one of 'auto', 'exact', 'minibatch', got 'fast'"),
        ("ingest = 3\n", "study.toml: [ingest] must be a section, got 3"),
        ("[ingest\n", "study.toml: not valid TOML"),
    ],
)
def test_a_wrong_setting_gets_one_clear_line(text: str, says: str):
    with pytest.raises(InputError) as caught:
        settings.loads(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[atlas]\ntemplates = ['a']\n", "[atlas] volume: must be given where atlas.templates are, got ''"),
        ("[atlas]\nvolume = 'a'\ntemplates = ['a']\n", "[atlas] templates: must leave out atlas.volume"),
        ("[normalize]\ntransforms = 'given'\n", "[normalize] given_folder: must be given where transforms = 'given'"),
        ("[sift]\ndense_diameters_mm = []\n", "[sift] dense_diameters_mm: must not be empty where sampling = 'dense'"),
        ("[haralick]\nwindow_mm = 5\n", "[haralick] window_mm: must be 3 voxels (6 mm) or more, got 5.0"),
        ("[haralick]\nstep_mm = 1\n", "[haralick] step_mm: must be 1 voxel (2 mm) or more, got 1.0"),
        ("[haralick]\ndistances = [1, 9]\n", "[haralick] distances: must all be smaller than the window of 9 voxels"),
        ("[haralick]\nwindow_mm = 500\n", "[haralick] window_mm: must be smaller: 251 voxels with 16 levels"),
        ("[cluster]\nn_clusters_min = 31\n", "[cluster] n_clusters_min: must not be above n_clusters_max = 30, got 31"),
        ("[cluster]\ndescriptors = ['sift']\n", "[associate] descriptor: must be 'best' or among cluster.descriptors"),
        ("[encode]\nmass_haralick = 0\n", "[cluster] descriptors: must leave out haralick, to which encode gives no"),
    ],
)
def test_settings_that_contradict_each_other_get_one_clear_line(text: str, says: str):
    with pytest.raises(InputError) as caught:
        settings.loads(text, "s/study.toml")
    assert f"s/study.toml {says}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_seems_to_contradict_is_taken():
    settings.loads("[sift]\nsampling = 'keypoints'\ndense_diameters_mm = []\n")
    settings.loads("[cluster]\ndescriptors = ['sift']\n[associate]\ndescriptor = 'best'\n[encode]\nmass_haralick = 0\n")
    settings.loads("[normalize]\ntransforms = 'given'\ngiven_folder = 'x'\n[atlas]\nvolume = 'a'\ntemplates = ['b']\n")


def test_a_template_is_not_made_of_what_would_be_refused():
    with pytest.raises(InputError, match="n_levels: must be an integer from 2 to 256"):
        settings.template({"haralick": {"n_levels": 1}})
    with pytest.raises(InputError, match="text without NUL and halves"):
        settings.template({"ingest": {"key_file": "not UTF-8: \udce4"}})


def test_the_window_is_rounded_as_texture_rounds_it():
    from popclust.features.haralick import window_voxels

    for window_mm in (6.0, 7.9, 8.0, 18.0, 21.0):
        chosen = settings.HaralickSettings(window_mm=window_mm)
        wide = {"window_mm": window_mm, "distances": [window_voxels(chosen)]}
        with pytest.raises(InputError, match=f"the window of {window_voxels(chosen)} voxels"):
            settings.from_dict({"haralick": wide})
        settings.from_dict({"haralick": {**wide, "distances": [window_voxels(chosen) - 1]}})


@pytest.mark.parametrize("name", sorted(PLACES | {"normalize.timeout_s", "compute.n_workers"}))
def test_places_and_limits_shape_no_results(name: str):
    section, _, field = name.partition(".")
    value = {"timeout_s": 5.0, "n_workers": 7, "sources": ("secret",), "templates": ("secret",)}.get(field, "secret")
    changed = dataclasses.replace(getattr(Settings(), section), **{field: value})
    after = dataclasses.replace(Settings(), **{section: changed})
    assert after != Settings()
    assert settings.shaping(after, settings.SECTIONS) == settings.shaping(Settings(), settings.SECTIONS)


def test_shaping_is_of_the_sections_asked_for_and_json_gives_it_back():
    values = settings.shaping(Settings(), ["haralick", "compute", "masks"])
    assert list(values) == ["haralick", "compute", "masks"]
    assert values["compute"] == {}
    assert values["masks"] == {"lung_labels": []}
    assert values["haralick"]["range_hu"] == [-1000.0, 400.0]
    assert json.loads(json.dumps(values)) == values


def test_no_place_is_printed():
    chosen = {
        "ingest": {"sources": ["/home/Miller"], "key_file": "/home/Miller/key"},
        "atlas": {"volume": "/home/Miller/a.nii", "templates": ["/home/Miller/b.nii"]},
        "terms": {"lexicon": "/home/Miller/radlex.csv"},
    }
    shown = settings.printable(settings.from_dict(chosen))
    assert "Miller" not in json.dumps(shown)
    assert shown["ingest"]["sources"] == shown["terms"]["lexicon"] == "given"
    assert shown["terms"]["reports"] == shown["masks"]["folder"] == "not given"
    assert shown["haralick"] == settings.to_dict(Settings())["haralick"]
    assert {s: set(v) for s, v in shown.items()} == {s: set(v) for s, v in settings.to_dict(Settings()).items()}


def test_changes_name_what_differs():
    before = settings.shaping(Settings(), ["haralick", "sift"])
    after = settings.shaping(settings.from_dict({"haralick": {"n_levels": 32, "distances": [1, 2]}}), ["haralick"])
    assert settings.changes(before, before) == []
    assert settings.changes(before, json.loads(json.dumps(before))) == []
    found = settings.changes({"haralick": before["haralick"]}, after)
    assert found == [("haralick.distances", [1], [1, 2]), ("haralick.n_levels", 16, 32)]
    assert settings.changes({"a": {"x": 1}}, {"a": {}, "b": {"y": False}}) == [("a.x", 1, None), ("b.y", None, False)]


def test_the_reference_page_is_up_to_date():
    page = Path(__file__).parent.parent / "docs" / "settings.md"
    anew = "python -c 'from popclust import settings; print(settings.reference(), end=\"\")' > docs/settings.md"
    assert page.read_text() == settings.reference(), f"write it anew: {anew}"
