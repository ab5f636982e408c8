"""Fit the failure probability of a registration to cases whose outcome is known, and say how far it is to be believed.

    python benchmarks/registration.py ... --failures 4 --table CASES     (and --fragments N --table CASES)
    python benchmarks/calibrate_quality.py CASES... [--study STUDY --population PEOPLE] [--plot FILE] [--json]

CASES are files with one JSON per line, a registration's row of quality.parquet with `kind` and `person`. Registrations
of other people join them as the kind `bent`, with the overlap of the lungs carried over and the true ones, where those
are known, as `true_dice`.

A planted failure failed; so did a good map that was moved (weight 0.3), a fragment or a simulated person's volume
whose lung is more than 10 mm off in the mean, and what overlaps the true lungs (`true_dice`, where a case has it) by
less than 0.8; what overlaps them by 0.8 to 0.85 is neither good nor failed and left out. A good variant did not fail.
Left out are mirror images, single lungs and wrong slice distances too: their maps are right, and limits of their own
find them.

Two functions are judged: the one that popclust ships, and one fitted anew to the other persons' cases (grouped
cross-validation: no person is judged by a function that saw another case of theirs). Cases are weighted as in a
population of which `--share` failed; of each function the Brier score is printed (beside that of saying the share of
everybody), which good ones it would reject and which failures it catches at the limit, and how often a registration
failed by predicted probability, which `--plot` draws. The weights are those for normalization/quality.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from popclust.dataflow.demo import registration_errors_mm, truth_of_volumes
from popclust.normalization.quality import INTERCEPT, WEIGHTS
from popclust.settings import NormalizeSettings
from popclust.study import Study

OWN_LIMITS = ("mirrored", "one_lung", "spacing_z_doubled", "spacing_z_halved")
"""Planted faults whose map is right: of the left side on the right, of what is there, and to the true distances."""
MOVED_WEIGHT = 0.3
"""A good map that was moved is no failure as registration makes them."""
FAILED_MM = 10.0
"""A registration that is further off in the mean failed."""
FAILED_DICE, GOOD_DICE = 0.8, 0.85
"""One that overlaps the true lungs by less than the first failed, by more than the second is good."""
SHIPPED_SHARE = 0.1
"""The share of failures that the shipped intercept is for."""
MAX_FOLDS = 20
BINS = (0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 1.0)


def main() -> None:
    """Read, fit, print."""
    args = _arguments()
    cases = _cases(args)
    values, failed = cases[list(WEIGHTS)].to_numpy(np.float64), cases["failed"].to_numpy(bool)
    weight = np.where(cases["kind"] == "wrong", MOVED_WEIGHT, 1.0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0))
    weighted = {"logisticregression__sample_weight": weight}
    folds = GroupKFold(min(cases["person"].nunique(), MAX_FOLDS))
    decided = cross_val_predict(
        model, values, failed, groups=cases["person"], cv=folds, method="decision_function", params=weighted
    )
    model.fit(values, failed, **weighted)
    scale, fit = model[0], model[1]
    weights = fit.coef_[0] / scale.scale_
    as_cases = _log_odds(float(np.average(failed, weights=weight)))
    to_share = _log_odds(args.share) - as_cases
    judged = {
        "shipped": INTERCEPT + values @ list(WEIGHTS.values()) + _log_odds(args.share) - _log_odds(SHIPPED_SHARE),
        "anew": decided + to_share,
    }
    like_share = weight * np.where(failed, args.share / weight[failed].sum(), (1 - args.share) / weight[~failed].sum())
    predicted = {name: 1 / (1 + np.exp(-log_odds)) for name, log_odds in judged.items()}
    figures = {
        "n_cases": len(cases),
        "n_persons": int(cases["person"].nunique()),
        "n_failed": int(failed.sum()),
        "share": args.share,
        "intercept": round(float(fit.intercept_[0] - weights @ scale.mean_ + to_share), 3),
        "weights": {name: round(float(w), 3) for name, w in zip(WEIGHTS, weights, strict=True)},
        "brier_of_share": round(args.share * (1 - args.share), 4),
        **{name: _judged(cases, p, like_share) for name, p in predicted.items()},
    }
    if args.plot:
        _plot({name: _reliability(p, failed, like_share) for name, p in predicted.items()}, args.plot)
    print(json.dumps(figures) if args.json else "\n".join(f"{k:16} {v}" for k, v in figures.items()))


def _cases(args: argparse.Namespace) -> pd.DataFrame:
    """One row per case: kind, person, failed, and what the failure probability is computed from."""
    rows = [json.loads(line) for path in args.cases for line in path.read_text().splitlines()]
    if args.study:
        rows += _simulated(Study.open(args.study), args.population)
    cases = pd.DataFrame(rows)
    for column, usual in (("final_mm", 0.0), ("true_dice", 1.0)):
        cases[column] = cases[column].fillna(usual) if column in cases else usual
    cases = cases[~cases["kind"].isin(OWN_LIMITS) & ~cases["true_dice"].between(FAILED_DICE, GOOD_DICE)]
    is_planted = ~cases["kind"].isin(("good", "bent", "fragment", "simulated"))
    is_off = (cases["final_mm"] > FAILED_MM) | (cases["true_dice"] < FAILED_DICE)
    return cases.assign(failed=is_planted | is_off).reset_index(drop=True)


def _simulated(study: Study, population: Path) -> list[dict[str, Any]]:
    """Quality records of a study of simulated people with their true errors."""
    truth = truth_of_volumes(study, population)
    return [
        {
            "kind": "simulated", "person": v, "final_mm": float(registration_errors_mm(study, truth, [v]).mean()),
            **quality,
        }
        for v, quality in study.records("normalize", study.read_table("quality")["volume_id"]).items()
    ]  # fmt: skip


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


def _judged(cases: pd.DataFrame, predicted: NDArray[np.float64], weight: NDArray[np.float64]) -> dict[str, Any]:
    """What a predicted probability is worth."""
    failed, is_moved = cases["failed"].to_numpy(bool), (cases["kind"] == "wrong").to_numpy()
    is_caught = predicted > NormalizeSettings().max_failure_probability
    said = {"good_rejected": ~failed, "failed_caught": failed & ~is_moved, "moved_caught": is_moved}
    return {
        "brier": round(float(np.sum(weight * (predicted - failed) ** 2)), 4),
        **{name: f"{int(is_caught[which].sum())} of {int(which.sum())}" for name, which in said.items()},
        "reliability": {
            f"{row.low:g} to {row.high:g}": f"{row.failed:.3f} where {row.predicted:.3f} was said, of {row.n}"
            for row in _reliability(predicted, failed, weight).itertuples()
        },
    }


def _reliability(
    predicted: NDArray[np.float64], failed: NDArray[np.bool_], weight: NDArray[np.float64]
) -> pd.DataFrame:
    """By predicted probability (low, high]: mean of what was said, share that failed, as weighted, and how many."""
    rows = []
    for low, high in itertools.pairwise(BINS):
        own = (predicted > low) & (predicted <= high)
        if own.any():
            said, was = (float(np.average(v[own], weights=weight[own])) for v in (predicted, failed))
            rows.append((low, high, said, was, int(own.sum())))
    return pd.DataFrame(rows, columns=["low", "high", "predicted", "failed", "n"])


def _plot(curves: dict[str, pd.DataFrame], path: Path) -> None:
    """Share that failed against the probability that was said."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "popclust"
    from matplotlib import pyplot

    called = {"shipped": "as shipped", "anew": "fitted anew to the other persons"}
    figure, axes = pyplot.subplots(figsize=(5.2, 4.8), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="as it should be")
    for (name, table), style in zip(curves.items(), ("o-", "s--"), strict=True):
        axes.plot(table["predicted"], table["failed"], style, label=called[name])
    for row in curves["shipped"].itertuples():
        place = (row.predicted, row.failed)
        axes.annotate(f"{row.n}", place, textcoords="offset points", xytext=(6, -10), fontsize=8, color="0.3")
    axes.set(xlabel="failure probability that was said", ylabel="share that failed", aspect="equal")
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Path)
    parser.add_argument("--study")
    parser.add_argument("--population", type=Path)
    parser.add_argument("--share", type=float, default=SHIPPED_SHARE)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
