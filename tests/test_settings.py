from __future__ import annotations

import dataclasses

import pytest

from popclust import settings
from popclust.errors import InputError
from popclust.settings import Settings


def test_the_template_holds_every_setting_and_reads_back_as_the_defaults():
    text = settings.template()
    assert settings.loads(text) == Settings()
    for section in dataclasses.fields(Settings):
        for field in dataclasses.fields(getattr(Settings(), section.name)):
            assert f"# {field.name} = " in text


def test_every_setting_has_a_docstring():
    for section in dataclasses.fields(Settings):
        cls = type(getattr(Settings(), section.name))
        assert set(settings.field_docs(cls)) == {f.name for f in dataclasses.fields(cls)}


def test_overrides_are_set_in_the_template():
    chosen = {"ingest": {"sources": ["a b", "c'd"]}, "atlas": {"spacing_mm": 4.0}}
    read = settings.loads(settings.template(chosen))
    assert read.ingest.sources == ("a b", "c'd")
    assert read.atlas.spacing_mm == 4.0


def test_settings_survive_json():
    changed = settings.from_dict({"haralick": {"range_hu": [-900, 200], "distances": [1, 2]}})
    assert settings.from_dict(settings.to_dict(changed)) == changed
    assert changed.haralick.range_hu == (-900.0, 200.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[ingst]\n", "did you mean 'ingest'"),
        ("[ingest]\nmin_slice = 3\n", "did you mean 'min_slices'"),
        ("[ingest]\nmin_slices = 'many'\n", "must be int"),
        ("[ingest]\nmin_slices = true\n", "must be int"),
        ("[ingest]\nsources = 'x'\n", "must be a list"),
        ("[haralick]\nrange_hu = [1.0]\n", "must have 2 values"),
        ("[cluster]\nengine = 'fast'\n", "must be one of 'auto'"),
        ("ingest = 3\n", "must be a section"),
        ("[ingest\n", "not valid TOML"),
    ],
)
def test_a_wrong_setting_gets_one_clear_line(text: str, says: str):
    with pytest.raises(InputError, match=says) as caught:
        settings.loads(text)
    assert "\n" not in str(caught.value)
