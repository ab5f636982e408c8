"""Tables of a made-up study: series seen, registrations, what is in quarantine."""

from __future__ import annotations

import numpy as np
import pandas as pd

SCANNERS = (("SIEMENS", "Sensation 64"), ("SIEMENS", "Definition AS"), ("GE MEDICAL SYSTEMS", "LightSpeed VCT"))
KERNELS = ("B70f", "B60f", "I70f", "LUNG")
SPACING_MM = (7.0, 5.5, 5.5)


def cohort_table(rng: np.random.Generator, ids: list[str], n_excluded: int) -> pd.DataFrame:
    rows = []
    codes = (
        ["kernel_not_sharp"],
        ["thickness_above_limit", "too_few_slices"],
        ["no_lung"],
        ["localizer", "single_slice"],
    )
    for i in range(len(ids) + n_excluded):
        included = i < len(ids)
        manufacturer, model = SCANNERS[int(rng.integers(len(SCANNERS)))]
        rows.append(
            {
                "volume_id": ids[i] if included else f"x{i:07x}",
                "patient_id": f"p{i // 2 if i < 20 else i:06x}",
                "study_id": f"s{i:06x}",
                "accession_id": f"a{i:06x}",
                "series_number": i,
                "manufacturer": manufacturer,
                "model": model,
                "kernel": KERNELS[int(rng.integers(len(KERNELS)))] if included else "B31f",
                "slice_thickness_mm": float(rng.choice([1.0, 1.5, 3.0])),
                "slice_distance_mm": 1.0,
                "noise_hu": float(rng.uniform(5, 40)),
                "edge_mm": float(rng.uniform(0.8, 4.5)),
                "hu_shift": float(rng.uniform(-9, 9)) if included else None,
                "hu_slope": None,
                "sharpness": float(rng.uniform(0, 1)) if included else None,
                "n_images": 301,
                "n_slices": 300,
                "n_set_aside": 1,
                "set_aside": ["localizer 1"],
                "n_unreadable": 0,
                "is_shortened": False,
                "spacing_zyx_mm": list(SPACING_MM),
                "age_years": float(rng.integers(30, 90)),
                "sex": str(rng.choice(["F", "M"])),
                "acquired_on": f"1971-0{int(rng.integers(1, 9))}-11",
                "contrast": None,
                "included": included,
                "reasons": [] if included else list(codes[i % len(codes)]),
            }
        )
    return pd.DataFrame(rows)


def quality_table(rng: np.random.Generator, ids: list[str]) -> pd.DataFrame:
    n = len(ids)
    frame = pd.DataFrame(
        {
            "volume_id": ids,
            "template_id": rng.choice(["t0", "t1", "t2"], n),
            "ncc": rng.normal(0.62, 0.07, n).clip(-1, 1),
            "lung_dice": rng.normal(0.95, 0.02, n).clip(0, 0.99),
            **dict.fromkeys(("wall_ncc", "mediastinum_ncc", "sound_ncc", "aerated"), 0.9),
            **dict.fromkeys(("shift_drop", "turn_drop", "stretch_drop"), 0.5),
            "telling": [["chest wall like the atlas's: 0.90, usual 0.73"]] * n,
            "folding": rng.exponential(0.001, n),
            "coverage": rng.uniform(0.93, 1.0, n),
            "template_spread_mm": np.linspace(3, 9, n),
            "inverse_error_mm": np.linspace(0.05, 0.2, n),
            "start": "search",
            "orientation": "upright",
            "n_inliers": np.arange(n) % 12,
            "failure_probability": rng.exponential(0.01, n).clip(0, 1),
            **dict.fromkeys(("failure_probability_right", "failure_probability_left"), 0.01),
            "accepted": True,
        }
    )
    frame["extent_low_mm"] = [[-150.0, -120.0, -170.0] for _ in range(n)]
    frame["extent_high_mm"] = [[150.0, 120.0, 170.0] for _ in range(n)]
    frame["reasons"] = [[] for _ in range(n)]
    frame["trusted"] = [["right", "left"] for _ in range(n)]
    bad = frame.index[:2]
    frame.loc[bad, ["ncc", "lung_dice", "failure_probability"]] = [0.12, 0.41, 0.97]
    frame.loc[bad, "accepted"] = False
    for i in bad:
        frame.at[i, "reasons"] = ["low_ncc", "low_lung_dice"]
        frame.at[i, "trusted"] = []
    if n > 3:
        frame.at[3, "trusted"], frame.at[3, "reasons"] = ["right"], ["one_sided"]
    return frame


def quarantine_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "volume_id": ["x00000aa", "x00000ab"],
            "stage": "normalize",
            "error": "no_overlap",
            "message": "the lungs found no overlap with any template",
            "attempts": 2,
            "when": "2026-01-02T03:04:05+00:00",
            "marker": "00",
        }
    )
