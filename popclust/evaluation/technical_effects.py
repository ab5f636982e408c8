"""Remove what scanners and protocols did to volume descriptors, and measure what that changed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from popclust.evaluation.confounders import is_measurement, pool_rare, predictability
from popclust.evaluation.strata import strata_codes

PREDICTED = ["variable", "n", "n_levels", "chance", "accuracy"]
"""Columns of the table of predictions."""


def remove_technical_effects(
    descriptors: NDArray[np.float64], technical: pd.DataFrame, keep: pd.DataFrame | None = None
) -> NDArray[np.float64]:
    """Volume descriptors without the mean and spread that technical variables explain.

    Every column is regressed on the technical variables, together with the variables to keep; the technical part is
    subtracted, and within each combination of technical categories the residuals are scaled to their common spread.

    Parameters
    ----------
    descriptors
        (volume, feature).
    technical
        (volume,) columns in the same order: categories one-hot (rare levels pooled, missing a level of its own),
        measurements linear (missing at their median).
    keep
        Variables of the patients, e.g. age and sex, whose effects are estimated beside and left in.

    Returns
    -------
    ndarray
        (volume, feature) with the columns' means unchanged. Topic shares may leave [0, 1] a little: they are positions
        for k-means, no shares any more.

    Raises
    ------
    ValueError
        The number of rows differs.

    References
    ----------
    Location and scale adjustment as in ComBat (Johnson WE et al. Biostatistics 2007), without its empirical prior:
    volumes are many here.
    """
    if len(technical) != len(descriptors) or (keep is not None and len(keep) != len(descriptors)):
        raise ValueError(f"technical, keep: wanted {len(descriptors)} rows, one per volume of descriptors")
    values = np.asarray(descriptors, dtype=np.float64)
    design = _design(technical)
    kept = _design(keep) if keep is not None else np.empty((len(values), 0))
    everything = np.column_stack([np.ones(len(values)), design, kept])
    coefficients = np.linalg.lstsq(everything, values, rcond=None)[0]
    residual = values - everything @ coefficients
    adjusted = kept @ coefficients[1 + design.shape[1] :] + residual * _scale(residual, technical)
    return adjusted + (values.mean(axis=0) - adjusted.mean(axis=0))


def _design(variables: pd.DataFrame) -> NDArray[np.float64]:
    """Centred columns of the linear model, without an intercept."""
    columns = []
    for name in variables.columns:
        values = variables[name].reset_index(drop=True)
        if is_measurement(values):
            x = values.to_numpy(np.float64, copy=True)
            x[~np.isfinite(x)] = np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else 0.0
            columns.append(x[:, None])
        else:
            labels = pool_rare(values.astype(object).where(values.notna(), "missing"))
            columns.append(pd.get_dummies(labels, drop_first=True).to_numpy(np.float64))
    design = np.column_stack(columns) if columns else np.empty((len(variables), 0))
    return design - design.mean(axis=0)


def _scale(residual: NDArray[np.float64], technical: pd.DataFrame) -> NDArray[np.float64]:
    """(volume, feature) factor that brings the residuals of every combination of categories to the common spread."""
    categories = [name for name in technical.columns if not is_measurement(technical[name])]
    factor = np.ones_like(residual)
    if not categories:
        return factor
    joined = technical[categories].astype(object).where(technical[categories].notna(), "missing").astype(str)
    codes = strata_codes(joined.agg("\x1f".join, axis=1).reset_index(drop=True), 0)
    common = residual.std(axis=0)
    for code in np.unique(codes):
        spread = residual[codes == code].std(axis=0)
        factor[codes == code] = np.divide(common, spread, out=np.ones_like(common), where=spread > 0)
    return factor


def predict_variables(
    descriptors: NDArray[np.float64], variables: pd.DataFrame, patient: NDArray, n_strata: int = 4, seed: int = 0
) -> pd.DataFrame:
    """How well descriptors, e.g. topics, predict each variable, e.g. the scanner.

    Parameters
    ----------
    descriptors
        (volume, feature).
    variables
        (volume,) columns in the same order; measurements are predicted as quantile strata.
    patient
        (volume,) patients in the same order.
    n_strata, seed
        Strata of a measurement; seed of the cross-validation.

    Returns
    -------
    DataFrame
        One row per variable: volumes and levels used, chance, cross-validated balanced accuracy (NaN where there are
        not two levels with patients enough).
    """
    rows = []
    for name in variables.columns:
        values = variables[name].reset_index(drop=True)
        if is_measurement(values):
            known = np.isfinite(values.to_numpy(np.float64))
            values = pd.Series(strata_codes(values.where(known), n_strata)).astype(str).where(known, None)
        found = predictability(descriptors, values, patient, seed)
        rows.append((str(name), found.n, found.n_levels, found.chance, found.balanced_accuracy))
    return pd.DataFrame(rows, columns=PREDICTED)


def removal_effect(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    technical: pd.DataFrame,
    patient: NDArray,
    n_strata: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """How well descriptors predict each technical variable, before and after its removal.

    Parameters are those of `predict_variables`, with the descriptors twice.

    Returns
    -------
    DataFrame
        The table of `predict_variables` for `before`, with accuracy_before and accuracy_after.
    """
    first = predict_variables(before, technical, patient, n_strata, seed)
    second = predict_variables(after, technical, patient, n_strata, seed)
    return first.rename(columns={"accuracy": "accuracy_before"}).assign(accuracy_after=second["accuracy"])
