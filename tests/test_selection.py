"""The inclusion rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from popclust.errors import InputError
from popclust.imaging.kernels import explain_kernel
from popclust.imaging.selection import REASONS, SeriesRecord, is_sharp, mark_duplicates, reasons_for_exclusion
from popclust.settings import IngestSettings

PAPER = IngestSettings()
ELIGIBLE = SeriesRecord(
    volume_id="v1",
    patient_id="p1",
    study_id="s1",
    kernel="B70f",
    slice_thickness_mm=1.0,
    slice_distance_mm=0.7,
    n_slices=400,
    lung_ml=4000.0,
)


def test_eligible_series() -> None:
    assert reasons_for_exclusion(ELIGIBLE, PAPER) == ()


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"slice_thickness_mm": 3.0, "slice_distance_mm": 3.0, "n_slices": 101}, ()),
        ({"slice_thickness_mm": 3.01}, ("thickness_above_limit",)),
        ({"slice_distance_mm": 10.0}, ("distance_above_limit",)),
        ({"slice_thickness_mm": None}, ()),
        ({"slice_thickness_mm": None, "slice_distance_mm": 5.0}, ("distance_above_limit",)),
        ({"slice_thickness_mm": None, "slice_distance_mm": None}, ("thickness_unknown",)),
        ({"n_slices": 100}, ("too_few_slices",)),
        ({"n_slices": 1, "slice_distance_mm": None}, ("single_slice", "too_few_slices")),
        ({"kernel": "B40f"}, ("kernel_not_sharp",)),
        ({"kernel": None}, ("kernel_unknown",)),
        ({"lung_ml": 499.0}, ("no_lung",)),
        ({"lung_ml": None}, ()),
        ({"problems": ("gantry_tilt",)}, ("gantry_tilt",)),
        ({"n_slices": 0, "kernel": None, "problems": ("unreadable_header",)}, ("unreadable_header",)),
        (
            {"problems": ("not_ct",), "n_slices": 30, "slice_thickness_mm": 8.0, "kernel": "STANDARD"},
            ("not_ct", "too_few_slices", "thickness_above_limit", "kernel_not_sharp"),
        ),
    ],
)
def test_rules(change: dict, reasons: tuple[str, ...]) -> None:
    assert reasons_for_exclusion(replace(ELIGIBLE, **change), PAPER) == reasons
    assert set(reasons) <= REASONS.keys()


def test_missing_kernel_can_be_accepted() -> None:
    rules = replace(PAPER, accept_missing_kernel=True)
    assert reasons_for_exclusion(replace(ELIGIBLE, kernel=None), rules) == ()


SHARP = """
B60|B60f|B60s|B70f|B70s|B75f|B80f|B80s|I70|I70f|I80s|U70u|U90s|B70f ASA
Br56|Br59d|Br64f|Br68|Br76u|Bf64|Qr59|Qr69|Bl50|Bl56f|Bl57d|Bl57f|Bl57d/3|Bl60|Bl64
FC50|FC51|FC52|FC56|FC80|FC81|FC86|AICE LUNG
YA|YB|YC|YD|YE|EA|D|E|L|LungB
LUNG|Lung|BONE|BONEPLUS|BONE PLUS|EDGE|ULTRA|HD LUNG|LUNG/AR40
B_SHARP_C|B_VSHARP_C|L_SHARP_A
"""
SOFT = """
B10f|B20f|B30f|B31f|B35f|B40f|B45f|B50f|I26f|I31f|I40f|I50f|H31s|T20f
Br32d|Br36|Br38f|Br40d|Br44f|Br49|Bv40|Qr40d
FC01|FC08|FC10|FC13|FC18|FC21|FC30|BODY
A|B|C|UB|SA
STANDARD|SOFT|STND|DETAIL|CHST|HD STANDARD|STANDARD/AR40|SOFT TISSUE
B_SOFT_B|BLADE|DEFAULT|LARGE|60
"""


@pytest.mark.parametrize("kernel", SHARP.replace("\n", "|").strip("|").split("|"))
def test_sharp_kernels(kernel: str) -> None:
    assert is_sharp(kernel, PAPER.kernel_pattern)


@pytest.mark.parametrize("kernel", SOFT.replace("\n", "|").strip("|").split("|"))
def test_soft_kernels(kernel: str) -> None:
    assert not is_sharp(kernel, PAPER.kernel_pattern)


@pytest.mark.parametrize(
    ("kernel", "rule", "sharpness", "lung_ml", "reasons"),
    [
        ("B50f", "measured", None, None, ()),  # the voxels are to be read
        ("B50f", "measured", 0.4, 4000.0, ()),
        ("B50f", "measured", -0.4, 4000.0, ("kernel_not_sharp",)),
        ("B50f", "measured", None, 4000.0, ("kernel_unknown",)),
        ("B50f", "name", 0.4, 4000.0, ("kernel_not_sharp",)),
        (None, "measured", 0.4, 4000.0, ()),
        (None, "measured", -0.4, 4000.0, ("kernel_not_sharp",)),
        (None, "name", 0.4, 4000.0, ("kernel_unknown",)),
        ("B70f", "measured", -0.4, 4000.0, ()),  # what the paper's rule takes is taken
        ("B30f", "measured", 0.4, 4000.0, ("kernel_not_sharp",)),
    ],
)
def test_what_names_leave_open_is_measured(kernel, rule, sharpness, lung_ml, reasons) -> None:
    record = replace(ELIGIBLE, kernel=kernel, sharpness=sharpness, lung_ml=lung_ml)
    assert reasons_for_exclusion(record, replace(PAPER, kernel_rule=rule)) == reasons


@pytest.mark.parametrize("kernel", SHARP.replace("\n", "|").strip("|").split("|"))
def test_the_pattern_and_the_list_agree(kernel: str) -> None:
    assert explain_kernel(kernel).side == "sharp"


def test_names_are_explained() -> None:
    assert explain_kernel(" br40f ").side == "soft"
    assert explain_kernel("B50f").side == explain_kernel("XYZ").side == explain_kernel(None).side == "unknown"
    assert explain_kernel(None, "Thorax HRCT").side == "sharp"
    assert explain_kernel("B", "HRCT").side == "soft"  # the kernel's name goes before
    assert (
        explain_kernel("XYZ", "MEDIASTEN").why
        == "the name is in no list; described as of the mediastinum or soft tissue"
    )


def test_pattern_that_is_none() -> None:
    with pytest.raises(InputError, match="kernel_pattern"):
        is_sharp("B70f", "(B")


def test_duplicates_leave_the_first_included_one() -> None:
    def record(volume_id: str, content_hash: str | None, included: bool = True) -> SeriesRecord:
        return replace(ELIGIBLE, volume_id=volume_id, content_hash=content_hash, included=included)

    records = [record("v4", "x"), record("v2", "x"), record("v1", "x", included=False), record("v3", "y")]
    records += [record("v5", None), record("v6", None), record("v7", "y")]
    marked = mark_duplicates(records)
    assert [one.volume_id for one in marked] == ["v1", "v2", "v3", "v4", "v5", "v6", "v7"]
    assert [one.included for one in marked] == [False, True, True, False, True, True, False]
    assert [one.volume_id for one in marked if "duplicate_series" in one.reasons] == ["v4", "v7"]
    assert mark_duplicates(reversed(records)) == marked


def test_every_reason_has_a_sentence() -> None:
    assert all(text.endswith(".") and text[0].isupper() for text in REASONS.values())
