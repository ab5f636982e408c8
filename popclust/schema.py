"""Every stored table and array, declared once: names, types, units, meaning.

`Study.write_table` and `Study.write_dataset` check what they write against these declarations, so a column that
other people's scripts rely on cannot drift unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import xarray as xr

FORMAT_VERSION = 1
"""Version of the study folder. A folder of another version is refused, never guessed at."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: str
    """'string', 'bool', 'int64', 'Int64' and 'boolean' (may be missing), 'float64', or 'list'."""
    doc: str


@dataclass(frozen=True)
class Array:
    """One array of a store."""

    dims: tuple[str, ...]
    dtype: str
    doc: str


def _columns(text: str) -> tuple[Column, ...]:
    """Read 'name dtype meaning' lines."""
    rows = (line.split(maxsplit=2) for line in text.strip().splitlines())
    return tuple(Column(name, dtype, doc) for name, dtype, doc in rows)


_GROUPING = """
descriptor string  volume descriptor
n_clusters int64   number of groups K
seed       int64   seed of k-means
""".strip()
_ASSOCIATION = f"""
{_GROUPING}
cluster    int64   group
term_id    string  RadLex identifier
term       string  preferred name
""".strip()

TABLES: dict[str, tuple[Column, ...]] = {
    "cohort": _columns(
        """
        volume_id          string   pseudonym of the series
        patient_id         string   pseudonym of the patient
        study_id           string   pseudonym of the examination
        series_number      Int64    as in the header
        manufacturer       string   as in the header
        model              string   scanner model
        kernel             string   reconstruction kernel, its first value
        slice_thickness_mm float64  as in the header
        slice_distance_mm  float64  measured between slice positions
        n_slices           Int64    images in the stack
        spacing_zyx_mm     list     voxel spacing
        age_years          float64  at the examination, 90 for more than 89
        sex                string   as in the header
        acquired_on        string   ISO date, shifted by a secret number of days per patient
        contrast           boolean  contrast agent given; may be missing
        included           bool     taken into the population
        reasons            list     codes of why not
        same_person_as     list     volumes under another patient_id whose keypoints say that it is the same person
        """
    ),
    "quality": _columns(
        """
        volume_id           string  pseudonym of the series
        template_id         string  chosen template
        ncc                 float64 correlation with the atlas inside its lungs
        lung_dice           float64 overlap of the lungs carried over with independent intensity-based ones
        folding             float64 share of lung voxels where the transform folds space
        coverage            float64 share of the atlas lung in the field of view
        template_spread_mm  float64 disagreement of the templates after the affine step; 0 with one template
        inverse_error_mm    float64 mean distance in the lungs between a point and itself sent there and back
        start               string  what found where the volume lies: keypoints or search; empty: nothing did
        n_inliers           int64   keypoint locations that agree on one rigid map to the chosen template
        extent_low_mm       list    lowest z, y, x of the field of view in the atlas
        extent_high_mm      list    highest z, y, x of the same
        failure_probability float64 how likely it is that the registration failed
        accepted            bool    taken into the population
        reasons             list    codes of why not
        """
    ),
    "clusters": _columns(
        """
        volume_id  string  pseudonym of the series
        descriptor string  haralick, sift, concatenated or lda
        n_clusters int64   number of groups K
        seed       int64   seed of k-means
        cluster    int64   group, 0 is the largest
        distance   float64 Euclidean distance to the group's centre
        stability  float64 mean Jaccard overlap of the volume's group with its best match under the other seeds
        """
    ),
    "mentions": _columns(
        """
        volume_id string the report's volume
        term_id   string RadLex identifier
        term      string preferred name
        status    string affirmed, negated, uncertain, historical, hypothetical or other_person
        section   string section of the report
        start     int64  first character of the mention
        end       int64  one past its last character
        language  string en or de
        """
    ),
    "associations": _columns(
        """
        unit       string  what is counted: volume or patient
        descriptor string  volume descriptor
        n_clusters int64   number of groups K
        seed       int64   seed of k-means
        cluster    int64   group
        term_id    string  RadLex identifier
        term       string  preferred name
        V          int64   units with the term in the group
        C          int64   units with the term
        R          int64   units in the group
        B          int64   units with a report
        odds_ratio float64 sample odds ratio
        ci_low     float64 lower end of its 95 % confidence interval
        ci_high    float64 upper end
        p_value    float64 two-sided Fisher's exact test
        p_holm     float64 corrected over the groups of the term
        q_fdr      float64 Benjamini-Yekutieli over all tests of the grouping
        direction  int64   1 more often, -1 less often than outside the group
        """
    ),
    "criterion": _columns(
        """
        unit             string  what is counted
        descriptor       string  volume descriptor
        n_clusters       int64   number of groups K
        seed             int64   seed of k-means
        Q                int64   significant (term, group) pairs
        Q_null_mean      float64 mean of Q over permutations at this K
        Q_null_p95       float64 95th percentile of the same
        p_value          float64 share of permutations with at least this Q at this K
        p_value_selected float64 the same where each permutation repeats the choice of K
        """
    ),
    "validity/confounders": _columns(
        f"""
        {_GROUPING}
        cluster    int64   group
        variable   string  scanner, kernel, slice_thickness_mm, contrast, sex, age_years, ...
        kind       string  category or measurement
        n          int64   units in the group with a value
        n_missing  int64   units in the group without one
        effect     float64 Cramer's V, or the rank-biserial correlation of a measurement
        p_value    float64 group against the rest
        p_holm     float64 corrected over all groups and variables
        level      string  the category that stands out
        inside     float64 its share (or the median) in the group
        outside    float64 the same in the rest
        """
    ),
    "validity/stratified": _columns(
        f"""
        {_ASSOCIATION}
        variable    string  what it is stratified by
        n_strata    int64   strata that say something
        information float64 variance of V within strata over that without
        method      string  mantel_haenszel or exact
        odds_ratio  float64 common odds ratio of the strata
        ci_low      float64 lower end of its 95 % confidence interval
        ci_high     float64 upper end
        p_value     float64 of no association within strata
        q_fdr       float64 Benjamini-Hochberg over the associations repeated by this variable
        gate        bool    the gate asks for this variable
        survives    bool    still there, in the same direction
        """
    ),
    "validity/gate": _columns(
        f"""
        {_ASSOCIATION}
        survives   bool    not explained by any technical variable
        fails      string  technical variables that it does not survive
        """
    ),
    "validity/split_half": _columns(
        f"""
        chosen_on    string  half of the patients on which K and seed were chosen
        tested_on    string  the other half
        n_chosen     int64   units of the one
        n_tested     int64   units of the other
        {_GROUPING}
        Q_chosen     int64   Q where it was chosen
        Q_tested     int64   Q on the other half
        n_replicated int64   associations that both find, in the same direction
        Q_null_mean  float64 mean of Q on the other half over permutations
        Q_null_p95   float64 95th percentile of the same
        p_value      float64 share of permutations with at least this Q
        """
    ),
    "validity/predicted": _columns(
        """
        variable string  technical or personal variable
        n        int64   units with a value
        n_levels int64   levels told apart
        chance   float64 accuracy of guessing
        accuracy float64 balanced accuracy of predicting it from the topics, across patients
        """
    ),
    "validity/power": _columns(
        f"""
        {_ASSOCIATION}
        C                int64   units with the term
        R                int64   units in the group
        B                int64   units with a report
        level            float64 Holm's strictest step
        power            float64 probability of finding it
        odds_ratio_above float64 smallest odds ratio above 1 that is found with that probability
        odds_ratio_below float64 largest below 1
        """
    ),
    "validity/term_noise": _columns(
        """
        errors             string  which errors of the term extractor are simulated
        miss_rate          float64 share of findings missed
        false_mention_rate float64 share of mentions made up
        Q                  int64   Q as found
        Q_mean             float64 mean of Q under the errors
        Q_p05              float64 5th percentile
        Q_p95              float64 95th percentile
        share_found_again  float64 share of the associations that are found again
        """
    ),
    "quarantine": _columns(
        """
        volume_id string the volume kept out
        stage     string where it failed
        error     string short stable code
        message   string one line for a person
        attempts  int64  how often it was tried
        when      string UTC time
        marker    string what was tried: the volume is tried again once this changes
        """
    ),
    "reports": _columns(
        """
        volume_id string  the report's volume; empty where none is known
        patient_id string pseudonym of the patient; empty where none is known
        language  string  en or de
        n_mentions int64  mentions found
        """
    ),
}

STORES: dict[str, dict[str, Array]] = {
    "word_counts": {
        "counts": Array(("volume", "word"), "uint32", "features assigned to each visual word"),
    },
    "topics": {
        "topic_of_volume": Array(("volume", "topic"), "float64", "share of each topic, rows sum to 1"),
        "word_of_topic": Array(("topic", "word"), "float64", "probability of each word, rows sum to 1"),
        "components": Array(("topic", "word"), "float64", "variational parameters of the topics, for new volumes"),
    },
    "terms": {
        "has_term": Array(("volume", "term"), "bool", "the volume's report affirms the term"),
    },
}


def conform_table(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the declared columns in their order and types.

    Raises
    ------
    ValueError
        A declared column is missing.
    """
    declared = TABLES[name]
    missing = [c.name for c in declared if c.name not in frame.columns]
    if missing:
        raise ValueError(f"table {name!r}: columns {missing} are missing")
    out = frame[[c.name for c in declared]].reset_index(drop=True)
    return out.astype({c.name: "object" if c.dtype == "list" else c.dtype for c in declared})


def check_dataset(name: str, dataset: xr.Dataset) -> None:
    """Compare a dataset with its declaration.

    Raises
    ------
    ValueError
        An array is missing, or has other dims or another dtype.
    """
    for array_name, declared in STORES[name].items():
        if array_name not in dataset:
            raise ValueError(f"store {name!r}: array {array_name!r} is missing")
        array = dataset[array_name]
        if array.dims != declared.dims or str(array.dtype) != declared.dtype:
            raise ValueError(
                f"store {name!r}: {array_name!r} must be {declared.dtype} {declared.dims}, "
                f"got {array.dtype} {array.dims}"
            )
