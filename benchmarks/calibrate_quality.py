"""Fit the failure probability of a registration to cases whose outcome is known.

    python benchmarks/registration.py ... --failures 4 --table CASES     (and --fragments N --table CASES)
    python benchmarks/calibrate_quality.py CASES... [--study STUDY --population PEOPLE] [--json]

A planted failure failed; so did a good map that was moved (weight 0.3), and a fragment or a simulated person's volume
whose lung is more than 10 mm off in the mean; a good variant did not. Left out are mirror images and single lungs:
their maps are right, and limits of their own find them. Cases are half failures; the intercept is that of populations
of which `--share` failed. Printed are the weights for normalization/quality.py and, from ten-fold cross-validation,
the Brier score (beside that of the mere share of failures) and how often a registration failed by predicted
probability.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from popclust.dataflow.demo import registration_errors_mm, truth_of_volumes
from popclust.normalization.quality import WEIGHTS, Measures, predictors
from popclust.study import Study

OWN_LIMITS = ("mirrored", "one_lung")
"""Planted faults whose map is right."""
MOVED_WEIGHT = 0.3
"""A good map that was moved is no failure as registration makes them."""
FAILED_MM = 10.0
"""A registration that is further off in the mean failed."""


def main() -> None:
    """Read, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Path)
    parser.add_argument("--study")
    parser.add_argument("--population", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [json.loads(line) for path in args.cases for line in path.read_text().splitlines()]
    rows = [row for row in rows if row["kind"] not in OWN_LIMITS]
    if args.study:
        rows += _simulated(Study.open(args.study), args.population)
    values = np.array([_predictors(row) for row in rows])
    failed = np.array([_failed(row) for row in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight=None))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    weight = np.array([MOVED_WEIGHT if row["kind"] == "wrong" else 1.0 for row in rows])
    weighted = {"logisticregression__sample_weight": weight}
    predicted = cross_val_predict(model, values, failed, cv=folds, method="predict_proba", params=weighted)[:, 1]
    model.fit(values, failed, **weighted)
    scale, fit = model[0], model[1]
    weights = fit.coef_[0] / scale.scale_
    among_cases = float(np.average(failed, weights=weight))
    intercept = fit.intercept_[0] - float(weights @ scale.mean_) + _log_odds(args.share) - _log_odds(among_cases)
    figures = {
        "n_cases": len(rows),
        "n_failed": int(failed.sum()),
        "intercept": round(intercept, 3),
        "weights": {name: round(float(w), 3) for name, w in zip(WEIGHTS, weights, strict=True)},
        "brier": round(float(np.mean((predicted - failed) ** 2)), 4),
        "brier_of_share": round(float(np.mean((failed.mean() - failed) ** 2)), 4),
        "reliability": _reliability(predicted, failed),
    }
    print(json.dumps(figures) if args.json else "\n".join(f"{k:16} {v}" for k, v in figures.items()))


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


def _simulated(study: Study, population: Path) -> list[dict[str, object]]:
    """Quality records of a study of simulated people with their true errors."""
    truth = truth_of_volumes(study, population)
    return [
        {"kind": "simulated", "final_mm": float(registration_errors_mm(study, truth, [v]).mean()), **quality}
        for v, quality in study.records("normalize").items()
    ]


def _predictors(row: dict[str, object]) -> list[float]:
    return list(
        predictors(Measures(**{name: float(str(row[name])) for name in Measures.__dataclass_fields__})).values()
    )


def _failed(row: dict[str, object]) -> bool:
    is_planted = row["kind"] not in ("good", "fragment", "simulated")
    return is_planted or float(str(row.get("final_mm", 0.0))) > FAILED_MM


def _reliability(predicted: np.ndarray, failed: np.ndarray) -> dict[str, str]:
    bins = pd.cut(predicted, [0, 0.05, 0.2, 0.5, 0.8, 1], include_lowest=True)
    table = pd.DataFrame({"bin": bins, "failed": failed}).groupby("bin", observed=True)["failed"].agg(["mean", "size"])
    return {str(k): f"{row['mean']:.2f} of {int(row['size'])}" for k, row in table.iterrows()}


if __name__ == "__main__":
    main()
