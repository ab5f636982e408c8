"""What of a header may stand in a study."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pandas as pd
import pytest
from dicom_writer import KEY, numbered, save, series_datasets
from hypothesis import given
from hypothesis import strategies as st

from popclust.dataflow.inputs import HandedIn, study_key
from popclust.imaging import dicom, headers
from popclust.imaging.deidentification import attributes, deidentification_record, page
from popclust.imaging.free_text import HASHED, is_plain, plain_text
from popclust.imaging.headers import list_files, scan_headers
from popclust.imaging.ingest import read_series
from popclust.imaging.kernels import explain_kernel
from popclust.imaging.series import group_series
from popclust.settings import IngestSettings
from popclust.study import Study

KNOWN = {
    "manufacturer": [
        *("SIEMENS", "Siemens Healthineers", "GE MEDICAL SYSTEMS", "Philips Medical Systems", "PNMS", "TOSHIBA_MEC"),
        *(
            "Canon Medical Systems",
            "Hitachi, Ltd.",
            "UIH",
            "Shanghai United Imaging Healthcare Co., Ltd."[9:],
            "CMS, Inc.",
        ),
    ],
    "model": [
        *("Sensation 10", "SOMATOM Definition AS+", "SOMATOM go.All", "NAEOTOM Alpha", "Emotion 16 (2007)"),
        *("LightSpeed VCT", "Discovery CT750 HD", "BrightSpeed", "Optima CT660", "Revolution EVO", "LightSpeed16"),
        *("iCT 256", "Brilliance 64", "Mx8000 IDT 16", "IQon - Spectral CT", "Brilliance Big Bore", "MX 16"),
        *("Aquilion ONE", "Aquilion/CX", "Aquilion PRIME SP", "TSX-101A", "uCT 760", "Pinnacle3", "XiO"),
    ],
    "kernel": [
        *("B70f", "Br40d", "Br40f 3", "I70f/3", "Hr64h", "T20s", "FC52", "FC08-H", "YA", "EA", "L", "LungB", "YB"),
        *(
            "STANDARD",
            "BONEPLUS",
            "BONE+",
            "LUNG",
            "DETAIL",
            "CHST",
            "SOFT TISSUE",
            "HD LUNG",
            "B_SHARP_C",
            "B_VSOFT_B",
        ),
    ],
}
NAMED = {
    "manufacturer": ["Mueller", "SIEMENS Mueller", "GE 19470812", "Philips / Erika", "Klinik St. Anna", "GE 4711"],
    "model": [
        *(
            "Mueller^Erika",
            "Sensation Mueller",
            "Sensation 4711",
            "Sensation 12 03 1947",
            "SOMATOM E M",
            "CT Ward 7",
        ),
        *("P0004711", "1.2.826.0.1", "Emotion\n16", "LightSpeed 47 11 08", "Brilliance M\u00fcller"),
    ],
    "kernel": [
        "Mueller",
        "B70f Mueller",
        "B70f 4711",
        "19470812",
        "P0004711",
        "E.M.",
        "Br40f\\Erika",
        "B7012",
        "EM47f",
    ],
}


def test_all_real_series_keep_what_they_say(data_path):
    frame = pd.read_csv(data_path("ct_headers/ctrate_valid_headers.csv"), keep_default_na=False)
    kernel = frame["ConvolutionKernel"].map(lambda k: ast.literal_eval(k)[0] if k.startswith("[") else k)
    columns = {"manufacturer": frame["Manufacturer"], "model": frame["ManufacturerModelName"], "kernel": kernel}
    for kind, values in columns.items():
        assert len(values) == 3039
        assert [v for v in values if plain_text(KEY, kind, v) != v] == [], kind  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in KNOWN.items() for text in texts])
def test_what_scanners_write_is_kept(kind, text: str):
    assert plain_text(KEY, kind, text) == text


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NAMED.items() for text in texts])
def test_what_may_be_a_name_is_hashed_under_the_key(kind, text: str):
    hashed = plain_text(KEY, kind, text)
    assert hashed is not None
    assert hashed.startswith(HASHED)
    assert len(hashed) == len(HASHED) + 16
    assert hashed == plain_text(KEY, kind, text)
    assert hashed != plain_text(bytes(32), kind, text)
    assert plain_text(KEY, kind, text, known=(text,)) == text
    assert explain_kernel(hashed).side == "unknown"


@given(st.text(min_size=1), st.text(min_size=1))
def test_equal_texts_stay_equal_and_others_apart(a: str, b: str):
    assert (plain_text(KEY, "model", a) == plain_text(KEY, "model", b)) == (a == b)
    assert len(plain_text(KEY, "model", a) or "") <= 64


@given(st.from_regex(r"[A-Z][a-z]{3,12}[\^, ][A-Z][a-z]{2,10}", fullmatch=True), st.integers(1000, 10**8))
def test_names_and_numbers_are_no_kernels(name: str, number: int):
    for text in (name, str(number), f"B70f {number}", f"{name} B70f"):
        assert not is_plain("kernel", text)


def test_nothing_stays_nothing():
    assert plain_text(KEY, "kernel", None) is None
    assert plain_text(KEY, "kernel", "") is None


def test_a_row_of_the_cohort_holds_what_is_known_and_no_more(tmp_path: Path):
    def edit(index, ds) -> None:
        ds.Manufacturer, ds.ManufacturerModelName, ds.ConvolutionKernel = "Dr. Mueller", "Sensation 10", "Erika"
        ds.SeriesNumber = 19470812

    save(series_datasets(numbered((3, 4, 4))), tmp_path, edit=edit)
    (series,) = group_series(scan_headers(list_files([tmp_path]), [tmp_path]))
    row = read_series(series, IngestSettings(known_texts=("Erika",)), KEY).record
    assert row.manufacturer == plain_text(KEY, "manufacturer", "Dr. Mueller")
    assert (row.model, row.kernel, row.series_number) == ("Sensation 10", "Erika", None)


def test_the_record_names_every_attribute_that_is_read():
    named = {row["attribute"]: row["action"] for row in attributes()}
    assert len(named) == len(list(attributes()))
    read = {*headers._KEYWORDS, *dicom._DESCRIPTION_TAGS}
    assert read <= named.keys()
    assert not [keyword for keyword in read if named[keyword] == "dropped"]
    record = deidentification_record()
    assert {row["action"] for row in record["attributes"]} == set(record["actions"])
    assert len(record["DeidentificationMethod"]) <= 64 * 2


def test_the_page_has_the_record():
    text = (Path(__file__).parents[1] / "docs" / "privacy.md").read_text()
    anew = "put what `python -c 'from popclust.imaging.deidentification import page; print(page())'` says at its end"
    assert text.endswith("\n" + page()), anew


def test_secrets_are_for_the_owner_alone(tmp_path: Path):
    before = os.umask(0)
    try:
        study = Study.create(str(tmp_path / "s"), {})
        folder = Path(f"{study.url}.secret")
        folder.mkdir(mode=0o755)  # by hand
        file = tmp_path / "reports.csv"
        file.write_text("text\n")
        handed_in = HandedIn(study, study_key(study))
        handed_in.digest(str(file))
        handed_in.save()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {"key": 0o600, "handed_in.json": 0o600}
