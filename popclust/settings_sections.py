"""The sections of study.toml, one frozen dataclass each: every setting, declared once.

A field is a setting: its default, its type with range, unit and kind, and under it the docstring that is its meaning.
All else follows (see :mod:`popclust.settings`): the text and check of study.toml, what markers hash, what a page may
print. A setting without a kind shapes results. No default is "the paper's" unless it says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from popclust.settings_learning import (
    AssociateSettings,
    ClusterSettings,
    EncodeSettings,
    FreezeSettings,
    RepeatSettings,
    TermsSettings,
    TopicsSettings,
    VocabularySettings,
)
from popclust.settings_types import (
    LIMIT,
    LOWER_FIRST,
    PLACE,
    REGULAR_EXPRESSION,
    Correlation,
    Count,
    CountOrNone,
    Millimetres,
    PictureKind,
    Seed,
    Share,
    Text,
    Unit,
    Weight,
)


@dataclass(frozen=True)
class IngestSettings:
    """What is read, and which series are included."""

    sources: Annotated[tuple[Text, ...], PLACE] = ()
    """Folders or files with DICOM series, NIfTI, MetaImage or NRRD volumes; relative to study.toml."""
    sidecar: Annotated[str, PLACE] = ""
    """Table (CSV, Parquet) that says of volume files what their format cannot: file, patient, kernel, age_years ..."""
    key_file: Annotated[str, PLACE] = ""
    """Secret key of the pseudonyms, kept outside the study; empty: beside it, in <study>.secret/."""
    max_slice_thickness_mm: Millimetres = 3.0
    """Thicker slices are excluded (the paper's rule: 3 mm)."""
    min_slices: Count = 101
    """Series with fewer slices are excluded (the paper's rule: more than 100)."""
    kernel_pattern: Annotated[str, REGULAR_EXPRESSION] = (
        r"(?i)^([BIU][6-9]\d[a-z]*|[BIQ][rvf](5[6-9]|[6-9]\d)[a-z]*|[BIQ]l[5-9]\d[a-z]*|FC[58]\d|Y[A-E]|E[A-C]|[DEL]"
        r"|LUNG[ _]?[A-E]|((HD|FIRST|AICE)[ _]?)?(LUNG|BONE( ?PLUS)?|EDGE|ULTRA)|[BL]_V?SHARP\w*)([ /].*)?$"
    )
    """Sharp reconstruction kernels, as a regular expression: the paper's (Siemens B60, B70, B80, I70, I80 ...) and
    their like: Br56 and above, Bl50 and above; Canon FC5x, FC8x; Philips YA to YE, EA, D, E, L; GE LUNG, BONE ..."""
    kernel_rule: Literal["measured", "name"] = "measured"
    """'name' (the paper's): sharp is what kernel_pattern says; 'measured': where neither it nor a list of soft kernels
    knows the name, the voxels tell."""
    accept_missing_kernel: bool = False
    """Include series whose kernel is not known (NIfTI files never tell it), without measuring."""
    known_texts: tuple[Text, ...] = ()
    """Makers, models and kernels that are stored as they stand in headers though popclust does not know them; others
    that it does not know may hold a name, and a keyed hash takes their place before kernel_pattern is asked."""
    min_lung_ml: Annotated[float, Meta(ge=0), Unit("ml")] = 500.0
    """Series that show less aerated lung than this are excluded as another body part."""
    check_hu: bool = True
    """Exclude series in which air, fat and soft tissue do not stand where they do in Hounsfield units."""
    max_hu_shift: Annotated[float, Meta(gt=0), Unit("HU")] = 12.0
    """Largest departure at 0 HU, told from fat and outside air, before a series counts as no HU."""
    max_hu_slope_error: Annotated[float, Meta(gt=0, lt=1)] = 0.04
    """Largest departure of the distance between air and fat from what it should be, as a share of it."""
    max_gap_mm: Millimetres = 0.1
    """Largest departure of a slice from the regular distance before a series counts as irregular."""
    let_in: tuple[PictureKind, ...] = ()
    """Kinds of pictures that are taken though they are no slices as reconstructed, by the code of the reason that
    excludes them."""


@dataclass(frozen=True)
class AtlasSettings:
    """The reference space and the templates that lead to it."""

    volume: Annotated[str, PLACE] = ""
    """The atlas volume; empty: chosen from the cohort (healthy, of thin slices, central by the shape of the lungs)."""
    templates: Annotated[tuple[Text, ...], PLACE] = ()
    """Template volumes; the atlas itself is always a template too. Empty: chosen from the cohort."""
    n_from_cohort: CountOrNone = 3
    """How many templates to choose from the cohort when none is given; twice as many are tried."""
    spacing_mm: Millimetres = 2.0
    """Isotropic resolution of the reference space in which registration works (the paper's: 2 mm)."""
    max_landmark_error_mm: Millimetres = 10.0
    """A template whose mean landmark error is larger is refused unless approved."""
    min_lung_dice: Share = 0.9
    """A template whose lungs overlap the atlas's less is refused unless approved."""
    min_organ_dice: Share = 0.5
    """A template whose organs, where both have masks of them, overlap less in the mean is refused unless approved."""
    approved: tuple[Text, ...] = ()
    """Templates that a person looked at and approves in spite of the limits."""


@dataclass(frozen=True)
class MaskSettings:
    """Lung masks from other tools; without one a volume's lungs are segmented by intensity."""

    folder: Annotated[str, PLACE] = ""
    """Folder with one mask per series: <SeriesInstanceUID>.nii.gz, a folder of that name with one file per structure,
    or, for volumes that are files, the same path below it as below their source."""
    lung_labels: tuple[Count, ...] = ()
    """Labels of the lungs in label maps; empty: every label. TotalSegmentator's are 10, 11, 12, 13, 14."""


@dataclass(frozen=True)
class NormalizeSettings:
    """Registration of each volume to the atlas, and when it is accepted."""

    transforms: Literal["register", "given"] = "register"
    """'given' takes known transforms from given_folder instead of registering: for simulated populations only."""
    given_folder: Annotated[str, PLACE] = ""
    """Folder with one known transform per series, as `popclust simulate` writes it."""
    search: Literal["full", "pruned"] = "pruned"
    """'full': non-linear registration to every template; 'pruned': to the n_best after the affine step."""
    n_best: Count = 2
    """Templates that go on to the non-linear step when the search is pruned."""
    sure_ncc: Correlation = 0.9
    """If the best of these fits the atlas worse than this share of what templates do (NCC), all others go on too."""
    grid_spacing_mm: Millimetres = 10.0
    """Distance between the control points of the final B-spline grid."""
    n_resolutions: Annotated[int, Meta(ge=1, le=10)] = 5
    """Levels of the image pyramid in the non-linear step."""
    n_iterations: Count = 200
    """Iterations per level."""
    n_samples: Count = 5000
    """Random voxels per iteration."""
    metric: Literal["mi", "ncc"] = "mi"
    """Similarity that the non-linear step maximises; 'mi' (mutual information) bears changed density best."""
    bending_weight: Annotated[Weight, Unit("mm^2")] = 100.0
    """Weight of the bending energy penalty (in 1/mm^2) against the similarity."""
    edge_weight: Weight = 10.0
    """Weight of the lung edge channel against the image in the non-linear step."""
    min_edge_dice: Share = 0.82
    """Where the aerated lungs overlap less after the affine step, lung edges take part only away from airless lung."""
    landmark_weight: Weight = 0.01
    """Weight of landmarks where templates are registered to the atlas with them."""
    field_spacing_mm: Millimetres = 4.0
    """Distance between the nodes of the stored transform."""
    min_ncc: Correlation = 0.0
    """Volumes whose lungs correlate less with the atlas are not accepted; disease lowers it too, so this is no test."""
    min_lung_dice: Share = 0.5
    """Volumes whose carried-over lungs overlap the independent intensity-based ones less are not accepted."""
    min_lung_inside: Share = 0.6
    """Share of the intensity-based lungs that must lie within the carried-over ones; fluid does not lower it."""
    min_coverage: Share = 0.15
    """Share of the atlas lung that a volume must show, and that NCC is compared over."""
    max_folding: Share = 0.02
    """Largest share of lung voxels where the transform folds space."""
    check_orientation: bool = True
    """Try whether the volume fits the atlas better mirrored, feet first or face down."""
    max_flip_advantage: Annotated[float, Meta(ge=0, le=2)] = 0.05
    """Volumes that correlate better by more than this when turned over are not accepted, if the body says so too."""
    max_failure_probability: Share = 0.5
    """Volumes whose registration failed with a higher probability are not accepted."""
    seed: Seed = 0
    """Seed of elastix's random sampling."""
    timeout_s: Annotated[float, Meta(gt=0), Unit("s"), LIMIT] = 1800.0
    """A volume's registration (to all its templates) that takes longer is ended and costs it one attempt."""
    max_memory_mb: Annotated[int, Meta(ge=1), Unit("MB"), LIMIT] = 4000
    """Memory limit of the child process that registers."""


@dataclass(frozen=True)
class HaralickSettings:
    """Dense texture."""

    spacing_mm: Millimetres = 2.0
    """Isotropic resolution at which texture is measured."""
    window_mm: Millimetres = 18.0
    """Edge of the cubic window; rounded to an odd number of voxels."""
    step_mm: Millimetres = 6.0
    """Distance between sampling points."""
    at_one_breath: bool = True
    """Bring the median of the aerated lung to -850 HU first: the depth of a breath moves density more than most disease
    does. What is diffuse and even over both lungs is hidden with it."""
    smoothing_mm: Annotated[float, Meta(ge=0), Unit("mm")] = 2.5
    """Sigma of a Gaussian before co-occurrence; 0: none. At the scan's own noise texture tells the scanner."""
    n_levels: Annotated[int, Meta(ge=2, le=256)] = 16
    """Grey levels."""
    range_hu: Annotated[tuple[float, float], LOWER_FIRST, Unit("HU")] = (-1000.0, 400.0)
    """HU are clipped to this range before they are binned."""
    binning: Literal["equal_width", "equalized"] = "equal_width"
    """'equal_width': equal bins over range_hu, the same in all volumes; 'equalized': quantiles of the volume's lung."""
    distances: Annotated[tuple[Count, ...], Meta(min_length=1), Unit("voxels")] = (1,)
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

    spacing_mm: Millimetres = 2.0
    """Isotropic resolution at which keypoints are found."""
    sampling: Literal["keypoints", "dense"] = "dense"
    """'keypoints': extrema in scale space; 'dense': descriptors on a grid of positions and scales in the lung."""
    micro_macro_mm: Millimetres = 20.0
    """Diameter that parts micro from macro features (the paper's: 2 cm)."""
    diameter_sigmas: Annotated[float, Meta(gt=0)] = 4.0
    """A feature's diameter in sigmas of its scale: 2 (Toews' stored scale), 4 (the blob) or 8 (what is described)."""
    min_contrast_hu: Annotated[float, Meta(gt=0), Unit("HU")] = 11.5
    """Smallest difference of Gaussians at a keypoint."""
    max_edge_ratio: Annotated[float, Meta(ge=27)] = 140.0
    """Keypoints whose structure tensor has trace^3 / det above this lie on a plate or edge (Toews & Wells: 140); they
    come last, and need a contrast that grows with it."""
    max_locations: Count = 420
    """Keypoints of a volume at most; one location can have several orientation frames."""
    dense_step_mm: Millimetres = 16.0
    """Distance between the positions of dense sampling."""
    dense_diameters_mm: tuple[Millimetres, ...] = (14.0, 32.0)
    """Diameters of dense sampling: every position is described at each of them."""


@dataclass(frozen=True)
class ExtractSettings:
    """What each volume's features leave for the vocabularies to learn from."""

    training_rows: Count = 2000
    """Rows that each volume contributes to the training of each vocabulary at most."""
    seed: Seed = 0
    """Seed of their choice."""


@dataclass(frozen=True)
class SummarizeSettings:
    """The page and figures."""

    show_examples: bool = True
    """Show slices of volumes (pixel data of patients) in the figures and on the page."""
    population: str = ""
    """What population this is, in a line on top of the page."""
    seed: Seed = 0
    """Seed of the t-SNE map."""


@dataclass(frozen=True)
class ComputeSettings:
    """Where it runs: nothing here changes a result."""

    n_workers: Annotated[CountOrNone, LIMIT] = 0
    """Worker processes of the local Dask cluster; 0: one per core."""
    in_flight_per_thread: Annotated[Count, LIMIT] = 16
    """Tasks in flight per worker thread."""
    attempts: Annotated[Count, LIMIT] = 2
    """Attempts at one volume before it goes to quarantine, where its surroundings may have been at fault."""
    allow_plain_tcp: Annotated[bool, LIMIT] = False
    """Work on a Dask scheduler on another machine without TLS: only where the network is closed to others."""
    min_free_disk_mb: Annotated[CountOrNone, Unit("MB"), LIMIT] = 500
    """The run stops (exit code 3) before a disk with less room than this, a worker's scratch disk among them."""
    worker_memory_mb: Annotated[Count, Unit("MB"), LIMIT] = 1500
    """Memory of a worker with its child; workers with a lower limit are refused."""
    no_worker_s: Annotated[float, Meta(gt=0), Unit("s"), LIMIT] = 86400.0
    """The run stops (exit code 3) when no worker was there for so long; it says so every minute before."""
    silent_s: Annotated[float, Meta(gt=0), Unit("s"), LIMIT] = 300.0
    """A scheduler that does not answer for so long is lost, and tasks of a worker that does not go elsewhere."""


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
    repeat: RepeatSettings = field(default_factory=RepeatSettings)
    terms: TermsSettings = field(default_factory=TermsSettings)
    associate: AssociateSettings = field(default_factory=AssociateSettings)
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    summarize: SummarizeSettings = field(default_factory=SummarizeSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
