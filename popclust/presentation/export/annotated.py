"""The population as AnnData, which scanpy and its kin open: volumes by visual words."""

from __future__ import annotations

from io import BytesIO

import anndata
import numpy as np
import pandas as pd
import xarray as xr
from scipy import sparse

from popclust import schema
from popclust.errors import InputError
from popclust.population.clustering import BASELINE, DESCRIPTORS, matrix_of
from popclust.population.groupings import GRID
from popclust.presentation.export.tables import with_lists_as_text
from popclust.presentation.view import StudyView, read_or_empty, read_store
from popclust.study import Study

_OF_QUALITY = ("volume_id", "template_id", "ncc", "lung_dice", "folding", "coverage", "failure_probability")
_OF_GROUPS = ("volume_id", "cluster", "distance", "stability")
_IN_UNS = ("associations", "criterion", "validity/gate")


def annotated(view: StudyView) -> anndata.AnnData:
    """The population: word counts in X, and around them all that is known of the volumes.

    Returns
    -------
    AnnData
        ``X`` (volume, word) counts; ``obs`` cohort, quality and reported group; ``var`` the word's vocabulary;
        ``obsm`` the descriptors, the topics, the groups under every grouping (listed in ``uns["groupings"]``), the
        terms of the reports (missing without a report), the map; ``varm`` the words' probabilities in each topic;
        ``uns`` tests and the meaning of every column.

    Raises
    ------
    InputError
        Words or topics are not there yet.
    """
    study = view.study
    words, topics = read_store(study, "word_counts"), read_store(study, "topics")
    if words is None or topics is None:
        raise InputError(f"{study.url}: nothing is counted yet; `popclust run {study.url} --until topics` does it")
    ids = [str(v) for v in words["volume"].to_numpy()]
    topics = topics.sel(volume=words["volume"].to_numpy())
    out = anndata.AnnData(
        X=sparse.csr_matrix(words["counts"].to_numpy().astype(np.float32)), obs=_volumes(view, ids), var=_words(words)
    )
    for name in (*DESCRIPTORS, BASELINE):
        out.obsm[f"X_{name}"] = matrix_of(name, words, topics, study.settings.encode).astype(np.float32)
    out.obsm["X_topics"] = topics["topic_of_volume"].to_numpy()
    out.varm["topics"] = topics["word_of_topic"].to_numpy().T.copy()
    _add_groupings(out, study)
    _add_terms(out, study)
    _add_map(out, study)
    _add_tables(out, view)
    return out


def _volumes(view: StudyView, ids: list[str]) -> pd.DataFrame:
    """One row per volume, in the order given."""
    rows = pd.DataFrame({"volume_id": ids})
    for part in (view.cohort, view.quality[list(_OF_QUALITY)], view.groups[list(_OF_GROUPS)]):
        rows = rows.merge(part, on="volume_id", how="left", validate="one_to_one")
    z, y, x = (rows["spacing_zyx_mm"].map(lambda s, i=i: np.nan if s is None else s[i]) for i in range(3))
    rows = rows.assign(spacing_z_mm=z, spacing_y_mm=y, spacing_x_mm=x)
    rows["has_report"] = rows["volume_id"].isin(set(view.reports["volume_id"]))
    left_out = ["included", "reasons", "spacing_zyx_mm"]
    out = storable(rows.drop(columns=left_out)).set_index("volume_id")
    out["cluster"] = rows["cluster"].astype("Int64").astype("string").astype(object).to_numpy()
    out["cluster"] = out["cluster"].astype("category")
    return out


def _words(words: xr.Dataset) -> pd.DataFrame:
    vocabulary = pd.Series([str(v) for v in words["vocabulary"].to_numpy()], dtype=object)
    number = vocabulary.groupby(vocabulary).cumcount()
    return pd.DataFrame(
        {"vocabulary": pd.Categorical(vocabulary), "number": number.to_numpy()},
        index=[f"{v}_{i:04}" for v, i in zip(vocabulary, number, strict=True)],
    )


def _add_groupings(out: anndata.AnnData, study: Study) -> None:
    groupings = read_store(study, "groupings")
    if groupings is None:
        return
    out.obsm["groupings"] = groupings["cluster"].sel(volume=out.obs_names.to_numpy(object)).to_numpy().T.copy()
    out.uns["groupings"] = storable(groupings[GRID].to_dataframe()[GRID])


def _add_terms(out: anndata.AnnData, study: Study) -> None:
    terms = read_store(study, "terms")
    if terms is None:
        return
    of_volume = pd.DataFrame(
        terms["has_term"].to_numpy().astype(np.float32),
        index=[str(v) for v in terms["volume"].to_numpy()],
        columns=[str(t) for t in terms["term"].to_numpy()],
    )
    out.obsm["terms"] = of_volume.reindex(out.obs_names).to_numpy()
    labels = [str(label) for label in terms["label"].to_numpy()]
    out.uns["terms"] = storable(pd.DataFrame({"term_id": list(of_volume.columns), "term": labels}))


def _add_map(out: anndata.AnnData, study: Study) -> None:
    if study.exists("figures", "map.csv"):
        place = pd.read_csv(BytesIO(study.read_bytes("figures", "map.csv"))).set_index("volume_id")
        out.obsm["X_map"] = place[["x", "y"]].reindex(out.obs_names).to_numpy()


def _add_tables(out: anndata.AnnData, view: StudyView) -> None:
    for name in _IN_UNS:
        table = read_or_empty(view.study, name)
        if view.reported is not None and len(table):
            rows = table if name == "criterion" else view.reported.of(table)
            out.uns[name.rpartition("/")[2]] = storable(rows)
    columns = {c.name: c for name in ("cohort", "quality", "clusters") for c in schema.TABLES[name]}
    known = [columns[c] for c in out.obs.columns if c in columns]
    meaning = {"column": [c.name for c in known], "unit": [c.unit for c in known], "meaning": [c.doc for c in known]}
    out.uns["obs_dictionary"] = storable(pd.DataFrame(meaning))
    if view.reported is not None:
        out.uns["reported"] = vars(view.reported)


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as HDF5 can hold it: text as plain objects, what is missing of it empty, lists as JSON text."""
    out = with_lists_as_text(frame)
    is_text = [c for c in out if pd.api.types.is_string_dtype(out[c])]
    out = out.assign(**{c: out[c].astype(object).where(out[c].notna(), "") for c in is_text})
    out.index = out.index.astype(str).astype(object)
    out.columns = out.columns.astype(object)
    return out
