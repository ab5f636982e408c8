"""A study of all real CT there is: volume files and DICOM archives, with registration, to the summary page."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from popclust.dataflow.client import connect
from popclust.dataflow.pipeline import run
from popclust.settings import ComputeSettings
from popclust.study import Study

VOLUMES = (
    *("lidc0001.nii.gz", "lidc0002.nii.gz", "pyrad_lung1.nii.gz", "pyrad_lung2.nii.gz", "cip_ct64.nii.gz"),
    *("lungdx_a0002_B70f.nii.gz", "lungdx_a0002_B40f.nii.gz", "elastix_rightlung_result.mha"),
)
ARCHIVES = ("lungdx_a0002_B70f", "lungdx_a0002_B40f", "cip_ct64Dicom", "totalseg_abdomen_j2k", "one_slice_all_ts")
RELAXED = {
    "max_slice_thickness_mm": 10.0,
    "min_slices": 20,
    "kernel_pattern": ".*",
    "accept_missing_kernel": True,
}
TEXTS = (
    "Findings: Consolidation in the left lower lobe. No pleural effusion.",
    "Findings: Pulmonary nodule in the right upper lobe. No consolidation.",
    "Befund: Lungenemphysem. Kein Pleuraerguss.",
)


@pytest.mark.full
def test_every_real_volume_runs_to_the_page(data_path: Callable[[str], Path], tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    for name in VOLUMES:
        (source / name).symlink_to(data_path(f"ct/{name}"))
    for name in ARCHIVES:
        with tarfile.open(data_path(f"dicom/{name}.tar.xz")) as archive:
            archive.extractall(source / name, filter="data")
    settings = {
        "ingest": {"sources": ["source"], **RELAXED},
        "terms": {"reports": "reports.csv"},
        "associate": {"min_term_count": 1, "n_permutations": 50},
        "summarize": {"show_examples": True},
    }
    study = Study.create(str(tmp_path), settings)
    with connect("", ComputeSettings(n_workers=2)) as client:
        run(study, client, until="ingest")
        cohort = study.read_table("cohort")
        included = cohort.loc[cohort["included"], "volume_id"]
        texts = [TEXTS[i % len(TEXTS)] for i in range(len(included))]
        pd.DataFrame({"volume_id": included, "text": texts}).to_csv(tmp_path / "reports.csv", index=False)
        flow = run(study, client)
    print(cohort[["kernel", "slice_thickness_mm", "n_slices", "included", "reasons"]].to_string())
    print(study.read_table("quality").to_string())
    reasons = cohort["reasons"].map(list)
    assert (reasons.map(bool) == ~cohort["included"]).all()
    assert reasons.map(lambda r: "no_lung" in r).any(), "the abdomen has no lung"
    assert reasons.map(lambda r: "duplicate_series" in r).any(), "one CT lies there as a file and as DICOM"
    assert study.exists("summary", "index.html")
    assert flow.n_quarantined <= 1
