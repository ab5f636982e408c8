"""Every planted fault has its one right outcome, compared voxel by voxel with the undamaged series."""

from __future__ import annotations

from pathlib import Path

import dicom_faults_acquisition  # noqa: F401 - they register their faults
import dicom_faults_geometry  # noqa: F401
import dicom_faults_identity  # noqa: F401
import dicom_faults_pictures  # noqa: F401
import dicom_faults_pixels  # noqa: F401
import pytest
from dicom_faults import FAULTS, Fault, outcome_of

# gdcm's SWIG modules warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning", "ignore:.*:UserWarning:pydicom")


@pytest.mark.parametrize("planted", FAULTS, ids=lambda one: one.name)
def test_fault(planted: Fault, tmp_path: Path) -> None:
    planted.plant(tmp_path / "in")
    assert outcome_of(planted, tmp_path / "in") == planted.outcome


def test_there_are_as_many_kinds_as_we_say() -> None:
    assert len({one.name for one in FAULTS}) == len(FAULTS) >= 120
