"""The settings of a study: study.toml read into one frozen dataclass per section.

The docstring under each field is its documentation: `template` writes it as the comment of study.toml.
No default here is "the paper's" unless it says so: the paper leaves most of them open.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import tomllib
import types
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from popclust.errors import InputError


@dataclass(frozen=True)
class IngestSettings:
    """What is read, and which series are included."""

    sources: tuple[str, ...] = ()
    """Folders or files with DICOM series, NIfTI, MetaImage or NRRD volumes; relative to study.toml."""
    key_file: str = ""
    """Secret key of the pseudonyms, kept outside the study; empty: beside it, in <study>.secret/."""
    max_slice_thickness_mm: float = 3.0
    """Thicker slices are excluded (the paper's rule: 3 mm)."""
    min_slices: int = 101
    """Series with fewer slices are excluded (the paper's rule: more than 100)."""
    kernel_pattern: str = (
        r"(?i)^([BIU][6-9]\d[a-z]*|[BIQ][rvf](5[6-9]|[6-9]\d)[a-z]*|[BIQ]l[5-9]\d[a-z]*|FC[58]\d|Y[B-E]|[DEL]"
        r"|((HD|FIRST|AICE)[ _]?)?(LUNG|BONE( ?PLUS)?|EDGE|ULTRA)|[BL]_V?SHARP\w*)([ /].*)?$"
    )
    """Sharp reconstruction kernels, as a regular expression: the paper's (Siemens B60, B70, B80, I70, I80 ...) and
    their like: Br56 and above, Bl50 and above; Canon FC5x, FC8x; Philips YB to YE, D, E, L; GE LUNG, BONE, EDGE ..."""
    accept_missing_kernel: bool = False
    """Include series whose kernel is not known (NIfTI files never tell it)."""
    min_lung_ml: float = 500.0
    """Series that show less aerated lung than this are excluded as another body part."""
    max_gap_mm: float = 0.1
    """Largest departure of a slice from the regular distance before a series counts as irregular."""


@dataclass(frozen=True)
class AtlasSettings:
    """The reference space and the templates that lead to it."""

    volume: str = ""
    """The atlas volume; empty: chosen from the cohort (medoid of lung shape among volumes of thin slices)."""
    templates: tuple[str, ...] = ()
    """Template volumes; the atlas itself is always a template too. Empty: chosen from the cohort."""
    n_from_cohort: int = 3
    """How many templates to choose from the cohort when none is given."""
    spacing_mm: float = 2.0
    """Isotropic resolution of the reference space in which registration works (the paper's: 2 mm)."""
    max_landmark_error_mm: float = 10.0
    """A template whose mean landmark error is larger is refused unless approved."""
    min_lung_dice: float = 0.9
    """A template whose lungs overlap the atlas's less is refused unless approved."""
    min_organ_dice: float = 0.5
    """A template whose organs, where both have masks of them, overlap less in the mean is refused unless approved."""
    approved: tuple[str, ...] = ()
    """Templates that a person looked at and approves in spite of the limits."""


@dataclass(frozen=True)
class MaskSettings:
    """Lung masks from other tools; without one a volume's lungs are segmented by intensity."""

    folder: str = ""
    """Folder with one mask per series: <SeriesInstanceUID>.nii.gz, a folder of that name with one file per structure,
    or, for volumes that are files, the same path below it as below their source."""
    lung_labels: tuple[int, ...] = ()
    """Labels of the lungs in label maps; empty: every label. TotalSegmentator's are 10, 11, 12, 13, 14."""


@dataclass(frozen=True)
class NormalizeSettings:
    """Registration of each volume to the atlas, and when it is accepted."""

    transforms: Literal["register", "given"] = "register"
    """'given' takes known transforms from given_folder instead of registering: for simulated populations only."""
    given_folder: str = ""
    """Folder with one known transform per series, as `popclust simulate` writes it."""
    search: Literal["full", "pruned"] = "pruned"
    """'full': non-linear registration to every template; 'pruned': to the n_best after the affine step."""
    n_best: int = 1
    """Templates that go on to the non-linear step when the search is pruned."""
    sure_ncc: float = 0.92
    """If the best of these correlates less with the atlas (in and around the lungs), all others go on too."""
    grid_spacing_mm: float = 10.0
    """Distance between the control points of the final B-spline grid."""
    n_resolutions: int = 5
    """Levels of the image pyramid in the non-linear step."""
    n_iterations: int = 200
    """Iterations per level."""
    n_samples: int = 5000
    """Random voxels per iteration."""
    metric: Literal["mi", "ncc"] = "mi"
    """Similarity that the non-linear step maximises; 'mi' (mutual information) bears changed density best."""
    bending_weight: float = 100.0
    """Weight of the bending energy penalty (in 1/mm^2) against the similarity."""
    edge_weight: float = 10.0
    """Weight of the lung edge channel against the image in the non-linear step."""
    min_edge_dice: float = 0.82
    """The lung edge takes part only if the intensity-based lungs overlap this much after the affine step."""
    landmark_weight: float = 0.01
    """Weight of landmarks where templates are registered to the atlas with them."""
    field_spacing_mm: float = 4.0
    """Distance between the nodes of the stored transform."""
    min_ncc: float = 0.1
    """Volumes whose lungs correlate less with the atlas are not accepted; disease lowers it too."""
    min_lung_dice: float = 0.5
    """Volumes whose carried-over lungs overlap the independent intensity-based ones less are not accepted."""
    min_lung_inside: float = 0.85
    """Share of the intensity-based lungs that must lie within the carried-over ones; fluid does not lower it."""
    min_coverage: float = 0.15
    """Share of the atlas lung that a volume must show, and that NCC is compared over."""
    max_folding: float = 0.02
    """Largest share of lung voxels where the transform folds space."""
    check_orientation: bool = True
    """Try whether the volume fits the atlas better mirrored, feet first or face down."""
    max_flip_advantage: float = 0.02
    """Volumes that correlate better by more than this when they are turned over are not accepted."""
    max_failure_probability: float = 0.5
    """Volumes whose registration failed with a higher probability are not accepted."""
    seed: int = 0
    """Seed of elastix's random sampling."""
    timeout_s: float = 1800.0
    """A volume's registration (to all its templates) that takes longer is ended and costs it one attempt."""
    max_memory_mb: int = 4000
    """Memory limit of the child process that registers."""


@dataclass(frozen=True)
class HaralickSettings:
    """Dense texture."""

    spacing_mm: float = 2.0
    """Isotropic resolution at which texture is measured."""
    window_mm: float = 18.0
    """Edge of the cubic window; rounded to an odd number of voxels."""
    step_mm: float = 6.0
    """Distance between sampling points."""
    n_levels: int = 16
    """Grey levels."""
    range_hu: tuple[float, float] = (-1000.0, 400.0)
    """HU are clipped to this range before they are binned."""
    binning: Literal["equal_width", "equalized"] = "equal_width"
    """'equal_width': equal bins over range_hu, the same in all volumes; 'equalized': quantiles of the volume's lung."""
    distances: tuple[int, ...] = (1,)
    """Distances between the voxels of a pair, in voxels."""
    aggregation: Literal["merged", "averaged"] = "merged"
    """'merged': one matrix summed over the 13 directions; 'averaged': features averaged over directions."""
    masked: bool = False
    """Count only pairs with both voxels inside the lung."""
    features: Literal["haralick13", "ibsi25"] = "haralick13"
    """Haralick's 13 features or all 25 of IBSI."""


@dataclass(frozen=True)
class SiftSettings:
    """3D-SIFT shape features."""

    spacing_mm: float = 2.0
    """Isotropic resolution at which keypoints are found."""
    sampling: Literal["keypoints", "dense"] = "dense"
    """'keypoints': extrema in scale space; 'dense': descriptors on a grid of positions and scales in the lung."""
    micro_macro_mm: float = 20.0
    """Diameter that parts micro from macro features (the paper's: 2 cm)."""
    diameter_sigmas: float = 4.0
    """A feature's diameter in sigmas of its scale: 2 (Toews' stored scale), 4 (the blob) or 8 (what is described)."""
    min_contrast_hu: float = 11.5
    """Smallest difference of Gaussians at a keypoint."""
    max_edge_ratio: float = 140.0
    """Keypoints whose structure tensor has trace^3 / det above this lie on a plate or edge (Toews & Wells: 140); they
    come last, and need a contrast that grows with it."""
    max_locations: int = 420
    """Keypoints of a volume at most; one location can have several orientation frames."""
    dense_step_mm: float = 16.0
    """Distance between the positions of dense sampling."""
    dense_diameters_mm: tuple[float, ...] = (14.0, 32.0)
    """Diameters of dense sampling: every position is described at each of them."""


@dataclass(frozen=True)
class ExtractSettings:
    """What each volume's features leave for the vocabularies to learn from."""

    training_rows: int = 2000
    """Rows that each volume contributes to the training of each vocabulary at most."""
    seed: int = 0
    """Seed of their choice."""


@dataclass(frozen=True)
class VocabularySettings:
    """Visual words, learnt out of core by mini-batch k-means."""

    n_words_haralick: int = 200
    """Words of the texture vocabulary."""
    n_words_micro_sift: int = 100
    """Words of the vocabulary of small shape features."""
    n_words_macro_sift: int = 100
    """Words of the vocabulary of large shape features."""
    spatial_weight: float = 0.5
    """Weight of the position in the atlas against the features, as a ratio of their summed variances."""
    block_rows: int = 8192
    """Rows per block; each block is one mini-batch."""
    n_passes: int = 3
    """Times the training rows are gone through."""
    seed: int = 0
    """Seed of the initial centres and of the order of the rows."""


@dataclass(frozen=True)
class EncodeSettings:
    """Word counts and their masses."""

    mass_haralick: float = 5000.0
    """Sum that a volume's haralick counts are scaled to before vocabularies are concatenated."""
    mass_micro_sift: float = 500.0
    """The same for micro_sift."""
    mass_macro_sift: float = 500.0
    """The same for macro_sift."""


@dataclass(frozen=True)
class TopicsSettings:
    """Latent Dirichlet allocation."""

    n_topics: int = 20
    """Topics (the paper's: 20)."""
    doc_topic_prior: float = 0.05
    """Dirichlet prior of a volume's topics."""
    topic_word_prior: float = 0.01
    """Dirichlet prior of a topic's words."""
    n_iterations: int = 50
    """Variational passes over the population."""
    seed: int = 0
    """Seed of the initial topics."""


@dataclass(frozen=True)
class ClusterSettings:
    """Groups of volumes."""

    engine: Literal["auto", "exact", "minibatch"] = "auto"
    """'exact': scikit-learn's k-means; 'minibatch': dask-ml's, out of core; 'auto': exact up to exact_limit volumes."""
    exact_limit: int = 50_000
    """Volumes up to which 'auto' is exact."""
    n_clusters_min: int = 2
    """Smallest number of groups tried."""
    n_clusters_max: int = 30
    """Largest number of groups tried; never more than a third of the volumes."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of k-means (the paper's: 5 of them)."""
    descriptors: tuple[Literal["haralick", "sift", "concatenated", "lda"], ...] = (
        "haralick",
        "sift",
        "concatenated",
        "lda",
    )
    """Volume descriptors compared."""


@dataclass(frozen=True)
class TermsSettings:
    """Terms in radiology reports."""

    reports: str = ""
    """CSV or Parquet with `text` and one of series_instance_uid, study_instance_uid, accession_number, volume_id; or a
    folder of DICOM SR or FHIR DiagnosticReport files."""
    lexicon: str = ""
    """RadLex file of your own (OWL, BioPortal CSV, or label,RID,parent CSV); empty: the built-in chest findings."""
    roots: tuple[str, ...] = ("RID34785",)
    """Terms below these RadLex classes count (RID34785: clinical finding; RID5: imaging observation), and single RIDs.
    Not applied to the built-in lexicon."""
    builtin_synonyms: bool = True
    """Add the built-in English and German synonyms to the same classes of your own lexicon."""
    roll_up: tuple[str, ...] = ()
    """RadLex classes that everything below them counts as (RID5350: every pneumonia counts as pneumonia)."""
    language: Literal["auto", "en", "de"] = "auto"
    """Language of the reports."""
    sections: tuple[str, ...] = ("findings", "impression")
    """Report sections that count, where a report has headings."""
    count_uncertain: bool = False
    """Count uncertain mentions as findings."""


@dataclass(frozen=True)
class AssociateSettings:
    """Which groups mean something."""

    descriptor: Literal["haralick", "sift", "concatenated", "lda", "best"] = "lda"
    """Descriptor that is reported (the paper's: lda)."""
    unit: Literal["patient", "volume"] = "patient"
    """What is counted: one volume per patient, or every volume (the paper's)."""
    min_term_count: int = 50
    """Terms in fewer units with a report are not tested (the paper: more than 50 volumes)."""
    alpha: float = 0.05
    """Level of a significant association after Holm's correction over the groups of a term."""
    n_permutations: int = 1000
    """Permutations of the null distribution of Q; 0 leaves it out."""
    strata: tuple[str, ...] = ()
    """Columns of the cohort within whose combinations reports are permuted, e.g. model."""
    technical: tuple[str, ...] = ("scanner", "kernel", "slice_thickness_mm", "contrast", "coverage")
    """Variables that an association must survive stratification by (scanner: manufacturer and model). Not ncc: disease
    itself lowers the correlation with a healthy atlas."""
    gate_fdr: float = 0.01
    """False discovery rate among the associations that survive such a stratification."""
    n_strata: int = 4
    """Quantile strata of a variable that is a measurement."""
    power: float = 0.8
    """Probability at which an odds ratio counts as detectable."""
    miss_rate: float = 0.11
    """Share of findings that the term extractor misses (1 - recall; 0.11 on labelled chest X-ray reports)."""
    false_mention_rate: float = 0.09
    """Share of extracted findings that are false (1 - precision; 0.09 on the same)."""
    n_noise_repeats: int = 20
    """Repeats of that simulation; 0 leaves it out."""
    seed: int = 0
    """Seed of the permutations, the split into halves and the simulated errors."""


@dataclass(frozen=True)
class SummarizeSettings:
    """The page and figures."""

    show_examples: bool = True
    """Show slices of volumes (pixel data of patients) in the figures and on the page."""
    seed: int = 0
    """Seed of the t-SNE map."""


@dataclass(frozen=True)
class ComputeSettings:
    """Where it runs: nothing here changes a result."""

    n_workers: int = 0
    """Worker processes of the local Dask cluster; 0: one per core."""
    in_flight_per_thread: int = 4
    """Tasks in flight per worker thread."""
    attempts: int = 2
    """Attempts at one volume before it goes to quarantine, where its surroundings may have been at fault."""
    allow_plain_tcp: bool = False
    """Work on a Dask scheduler on another machine without TLS: only where the network is closed to others."""
    min_free_disk_mb: int = 500
    """The run stops (exit code 3) before a disk with less room than this."""


@dataclass(frozen=True)
class Settings:
    """All sections of study.toml."""

    ingest: IngestSettings = field(default_factory=IngestSettings)
    atlas: AtlasSettings = field(default_factory=AtlasSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    normalize: NormalizeSettings = field(default_factory=NormalizeSettings)
    haralick: HaralickSettings = field(default_factory=HaralickSettings)
    sift: SiftSettings = field(default_factory=SiftSettings)
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    vocabulary: VocabularySettings = field(default_factory=VocabularySettings)
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    topics: TopicsSettings = field(default_factory=TopicsSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    terms: TermsSettings = field(default_factory=TermsSettings)
    associate: AssociateSettings = field(default_factory=AssociateSettings)
    summarize: SummarizeSettings = field(default_factory=SummarizeSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)


def loads(text: str, where: str = "study.toml") -> Settings:
    """Read settings from TOML text.

    Raises
    ------
    InputError
        Not TOML, an unknown section or name (with the nearest known one), a value of the wrong type.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not valid TOML: {error}") from None
    document.pop("format_version", None)
    return from_dict(document, where)


def from_dict(document: dict[str, Any], where: str = "settings") -> Settings:
    """Build settings from nested dictionaries, as TOML or JSON gives them."""
    sections = {f.name: f for f in dataclasses.fields(Settings)}
    _refuse_unknown(document, sections, where, "section")
    built = {name: _section(name, document.get(name, {}), where) for name in sections}
    return Settings(**built)


def to_dict(settings: Settings) -> dict[str, Any]:
    """Nested dictionaries, ready for JSON (tuples become lists)."""
    document = dataclasses.asdict(settings)
    return {s: {k: list(v) if isinstance(v, tuple) else v for k, v in d.items()} for s, d in document.items()}


def template(overrides: dict[str, dict[str, Any]] | None = None) -> str:
    """Text of a study.toml in which every setting stands, commented; the overridden ones are set."""
    overrides = overrides or {}
    lines = ["# Settings of a popclust study. What is commented out is the default.", "format_version = 1"]
    for name, section in _sections().items():
        docs, chosen = field_docs(section), overrides.get(name, {})
        lines += ["", f"# {inspect.getdoc(section)}", f"[{name}]"]
        for f in dataclasses.fields(section):
            is_set = f.name in chosen
            value = chosen[f.name] if is_set else f.default
            lines += [f"# {docs[f.name]}", f"{'' if is_set else '# '}{f.name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    docs: dict[str, str] = {}
    for before, after in itertools.pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[ast.unparse(before.target)] = " ".join(str(after.value.value).split())
    return docs


def _sections() -> dict[str, type]:
    hints = typing.get_type_hints(Settings)
    return {f.name: hints[f.name] for f in dataclasses.fields(Settings)}


def _section(name: str, values: Any, where: str) -> Any:
    cls = _sections()[name]
    if not isinstance(values, dict):
        raise InputError(f"{where}: [{name}] must be a section, got {values!r}")
    _refuse_unknown(values, {f.name for f in dataclasses.fields(cls)}, f"{where} [{name}]", "setting")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _checked(v, hints[k], f"{where} [{name}] {k}") for k, v in values.items()})


def _refuse_unknown(given: typing.Iterable[str], known: typing.Iterable[str], where: str, kind: str) -> None:
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{where}: unknown {kind} {name!r}; {hint}")


def _checked(value: Any, wanted: Any, where: str) -> Any:
    """`value` as the type `wanted`, or one clear line."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}: must be one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: must be a list, got {value!r}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise InputError(f"{where}: must have {len(items)} values, got {len(value)}")
        return tuple(_checked(v, t, where) for v, t in zip(value, items, strict=True))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(wanted, types.UnionType)
        or not isinstance(value, wanted)
        or (wanted is int and isinstance(value, bool))
    ):
        raise InputError(f"{where}: must be {wanted.__name__}, got {value!r}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value + "'" if "'" not in value else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)
