"""The sections of study.toml on what is learnt from a population: words, topics, groups, terms and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from popclust.settings_types import (
    LIMIT,
    PERSONAL,
    PLACE,
    TECHNICAL,
    ChosenBy,
    CohortColumn,
    Count,
    CountOrNone,
    Descriptor,
    ErrorRate,
    Level,
    Personal,
    Prior,
    ReportSection,
    Seed,
    Share,
    Technical,
    Text,
    Unit,
    Weight,
)


@dataclass(frozen=True)
class VocabularySettings:
    """Visual words, learnt out of core by mini-batch k-means."""

    n_words_haralick: Count = 200
    """Words of the texture vocabulary."""
    n_words_micro_sift: Count = 100
    """Words of the vocabulary of small shape features."""
    n_words_macro_sift: Count = 100
    """Words of the vocabulary of large shape features."""
    spatial_weight: Weight = 0.0
    """Weight of position against features, as a ratio of summed variances. Words of places tell persons apart."""
    block_rows: Count = 8192
    """Rows per block; each block is one mini-batch."""
    n_degraded: Annotated[CountOrNone, Unit("volumes")] = 10
    """Volumes of which noisier and blurred copies show what a scanner does to texture, to leave it out; 0: none."""
    nuisance_share: Share = 0.02
    """What the copies shift by more than this share of its variance is left out of texture."""
    n_passes: Count = 3
    """Times the training rows are gone through."""
    seed: Seed = 0
    """Seed of the initial centres and of the order of the rows."""


@dataclass(frozen=True)
class EncodeSettings:
    """Word counts and their masses."""

    mass_haralick: Weight = 5000.0
    """Sum that a volume's haralick counts are scaled to before vocabularies are concatenated."""
    mass_micro_sift: Weight = 500.0
    """The same for micro_sift."""
    mass_macro_sift: Weight = 500.0
    """The same for macro_sift."""
    mass_focal: Weight = 4000.0
    """What focal densities count at most, where lungs are full of them; in healthy ones next to nothing. 0: nothing."""
    half_focal: Annotated[float, Meta(gt=0, lt=1)] = 0.004
    """Share of texture samples near a focal density at which they count half of that: about one in a litre."""


@dataclass(frozen=True)
class TopicsSettings:
    """Latent Dirichlet allocation."""

    n_topics: Annotated[int, Meta(ge=2)] = 20
    """Topics (the paper's: 20)."""
    doc_topic_prior: Prior = 0.05
    """Dirichlet prior of a volume's topics."""
    topic_word_prior: Prior = 0.01
    """Dirichlet prior of a topic's words."""
    n_iterations: Count = 50
    """Variational passes over the population at most."""
    batch_limit: Annotated[CountOrNone, Unit("volumes")] = 5_000
    """Volumes up to which topics move after each pass over all of them; beyond, they start from those of 1,000
    volumes and move after every 256 (online), in two passes."""
    seed: Seed = 0
    """Seed of the initial topics."""


@dataclass(frozen=True)
class ClusterSettings:
    """Groups of volumes."""

    engine: Literal["auto", "exact", "minibatch"] = "auto"
    """'exact': scikit-learn's k-means; 'minibatch': dask-ml's, from the exact groups of a sample; 'auto': exact up to
    exact_limit volumes."""
    exact_limit: Annotated[CountOrNone, Unit("volumes")] = 50_000
    """Volumes up to which 'auto' is exact."""
    n_clusters_min: Annotated[int, Meta(ge=2)] = 2
    """Smallest number of groups tried."""
    n_clusters_max: Annotated[int, Meta(ge=2)] = 30
    """Largest number of groups tried; never more than a third of the volumes."""
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1)] = (0, 1, 2, 3, 4)
    """Seeds of k-means (the paper's: 5 of them)."""
    descriptors: Annotated[tuple[Descriptor, ...], Meta(min_length=1)] = (
        "haralick",
        "sift",
        "concatenated",
        "lda",
    )
    """Volume descriptors compared."""
    external: Annotated[str, PLACE] = ""
    """Vectors of another tool as one more descriptor, `external`: Parquet, CSV, TSV or zarr with volume_id or
    series_instance_uid and features. Reported only if [associate] descriptor asks for it."""


@dataclass(frozen=True)
class RepeatSettings:
    """The whole chain again: words, topics and groups over seeds and resamples of patients."""

    n_runs: CountOrNone = 8
    """Times that the chain is learnt again; 0: not at all, and how its groups come back is not known."""
    share: Annotated[float, Meta(ge=0.5, le=1)] = 0.8
    """Share of the patients that a run learns from; all are put into its groups."""
    seed: Seed = 0
    """Seed of the runs' seeds and of who is drawn."""


@dataclass(frozen=True)
class FreezeSettings:
    """The frozen model, which puts new volumes into the groups."""

    error_rate: Level = 0.05
    """Share of volumes of the groups themselves that may be called none of these."""


@dataclass(frozen=True)
class TermsSettings:
    """Terms in radiology reports."""

    reports: Annotated[str, PLACE] = ""
    """CSV, Parquet or Excel with `text` and one of series_instance_uid, study_instance_uid, accession_number,
    volume_id; or a folder of these, of DICOM SR or of FHIR DiagnosticReport files."""
    min_joined: Annotated[Share, LIMIT] = 0.2
    """Stop where a smaller share of the reports found a volume, and a smaller share of the volumes a report; 0: go
    on."""
    lexicon: Annotated[str, PLACE] = ""
    """RadLex file of your own (OWL, BioPortal CSV, or label,RID,parent[,language] CSV); empty: the built-in findings of
    the chest."""
    roots: Annotated[tuple[Text, ...], Meta(min_length=1)] = ("RID34785", "RID5")
    """Terms below these RadLex classes count (RID34785: clinical finding; RID5: imaging observation), and single RIDs.
    Not applied to the built-in lexicon."""
    builtin_synonyms: bool = True
    """Add the built-in English and German names to the same classes of your own lexicon, and the built-in findings that
    RadLex has no class for."""
    roll_up: tuple[Text, ...] = ("RID3875",)
    """RadLex classes that everything below them counts as (RID3875: a pulmonary nodule counts as a nodule; RID5350
    would do it for pneumonia)."""
    language: Literal["auto", "en", "de"] = "auto"
    """Language of the reports."""
    sections: tuple[ReportSection, ...] = ("findings", "impression")
    """Report sections that count, where a report has headings."""
    count_uncertain: bool = False
    """Count uncertain mentions as findings."""


@dataclass(frozen=True)
class AssociateSettings:
    """Which groups mean something."""

    descriptor: Literal["haralick", "sift", "concatenated", "lda", "best", "external"] = "lda"
    """Descriptor that is reported (the paper's: lda)."""
    choose_by: ChosenBy = "prediction"
    """'prediction': the fewest groups that foretell left-out reports as well as the best number, within a standard
    error of the difference; 'Q' (the paper's): the number of groups with the most significant associations."""
    unit: Literal["patient", "volume"] = "patient"
    """What is counted: one volume per patient, or every volume (the paper's)."""
    min_term_count: Count = 50
    """Terms in fewer units are not tested (the paper: more than 50); below 600 units: in fewer than a twelfth, or 5."""
    alpha: Level = 0.05
    """Level of a significant association after Holm's correction over the groups of a term."""
    n_one_kind: CountOrNone = 99
    """Populations of one kind that the reported groups are compared with; fewer than 19: it is not said whether there
    are groups at all."""
    n_permutations: CountOrNone = 1000
    """Permutations of the null distribution of Q; 0 leaves it out."""
    strata: tuple[CohortColumn, ...] = ()
    """Columns of the cohort within whose combinations reports are permuted, e.g. model."""
    technical: tuple[Technical, ...] = TECHNICAL
    """Variables within whose strata an association must hold to survive (scanner: manufacturer and model)."""
    personal: tuple[Personal, ...] = PERSONAL
    """Variables of the patient that the same is asked of, apart from the technical ones."""
    n_strata: Annotated[int, Meta(ge=2)] = 8
    """Quantile strata of a variable that is a measurement; fewer where one would hold less than 25 units."""
    n_shuffled: Annotated[int, Meta(ge=19)] = 99
    """Times that each such variable is shuffled between patients, to see what strata alone change."""
    power: Level = 0.8
    """Probability at which an odds ratio counts as detectable."""
    miss_rate: ErrorRate = 0.05
    """Share of findings that the term extractor misses, for terms other than the 22 that were measured singly on
    labelled reports of chest CT (their mean: .03)."""
    false_mention_rate: ErrorRate = 0.1
    """Share of extracted findings that are false, for the same terms (the mean of the 22: .07)."""
    n_noise_repeats: CountOrNone = 20
    """Repeats of that simulation; 0 leaves it out."""
    seed: Seed = 0
    """Seed of the permutations, the split into halves and the simulated errors."""
