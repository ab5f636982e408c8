"""Declarations of the zarr stores and of the other files, as text that `popclust.schema` reads.

The first line says where it lies, the second what it holds; every other line is an array (name, dtype, dims, unit or -,
meaning) or, after an @, an attribute of the group. Arrays of one group that share a dimension agree
in its length, which is why grids that differ have dimensions of their own.
"""

_PREPARED = """
    image             float32  z,y,x  HU  what registration sees: isotropic, clipped, cropped to the lungs with a margin
    lungs             bool     z,y,x  -   lung mask on the grid of image
    @field_of_view_mm lowest and highest z, y, x of a voxel centre of the whole volume
    @landmarks_mm     landmarks by name, z, y, x
"""
_FIELD = "displacement along z, y, x at the nodes of a grid, linear in between"

STORES = {
    "volume": """
        volumes/<volume_id>.ome.zarr
        a volume as OME-Zarr 0.5, in one shard; z to the head, y to the back, x to the left; coarser ones aside
        0         int16  z,y,x  HU  voxels
        @ome      the image as OME-Zarr declares it: axes, orientation, spacing and position in mm, levels, volume_id
    """,
    "keypoints": """
        volumes/<volume_id>.keypoints.zarr
        the strongest keypoints of a volume, by which a person is known again; one row per location and frame
        position_mm float32  keypoint,axis            mm  position z, y, x in the patient's space
        scale_mm    float32  keypoint                 mm  sigma of the Gaussian at which it is an extremum
        diameter_mm float32  keypoint                 mm  size on the body, a multiple of the scale
        contrast    int8     keypoint                 -   1 where brighter than the surroundings, -1 where darker
        frame       float32  keypoint,frame_axis,axis -   directions z, y, x along which the descriptor was taken
        descriptor  uint8    keypoint,value           -   ranks 0 to 63 of a histogram of gradients
    """,
    "atlas": f"""
        atlas/reference.zarr
        the atlas
        {_PREPARED}
        @templates names of the templates that are used, in their order
    """,
    "template": f"""
        atlas/templates/<template_id>/template.zarr
        a template and its checked transforms
        {_PREPARED}
        to_atlas   float32  axis,template_z,template_y,template_x  mm  template to atlas: {_FIELD}
        from_atlas float32  axis,atlas_z,atlas_y,atlas_x           mm  atlas to template: {_FIELD}
    """,
    "normalized": f"""
        normalized/<volume_id>.zarr
        how a volume lies in the atlas
        to_volume         float32  axis,atlas_z,atlas_y,atlas_x     mm  atlas to volume: {_FIELD}
        to_atlas          float32  axis,volume_z,volume_y,volume_x  mm  volume to atlas: {_FIELD}
        lung              bool     z,y,x                            -   the atlas's lungs in the volume's space
        rotation_to_atlas float64  atlas_axis,axis                  -   of directions in the volume to the atlas's
        @template_id      the chosen template
        @ncc_of_templates correlation with the atlas by template
        @quality          the volume's row of quality.parquet, and more measures
    """,
    "external": """
        external.zarr
        vectors of another tool, as groups are formed on them
        vectors float64  volume,feature  -  mean 0, spread 1, divided by the root of the number of features
        volume  string   volume          -  pseudonym of the series
    """,
    "features": """
        features/<volume_id>.zarr
        what is sampled in a volume's lungs, with positions in the atlas
        haralick             float32  sample,feature      -   texture features, named by the attribute haralick_features
        haralick_position_mm float32  sample,axis         mm  position z, y, x in the atlas
        sift                 uint8    keypoint,value      -   3D-SIFT descriptors: ranks 0 to 63
        sift_position_mm     float32  keypoint,axis       mm  position z, y, x in the atlas
        scale_mm             float32  keypoint            mm  sigma of the Gaussian at which it was taken
        diameter_mm          float32  keypoint            mm  size on the body: small ones are micro_sift
        focal_mm             float32  sample              mm  distance of a texture sample to the nearest focal density
        zones                uint32   zone,bin            -   voxels of six zones of the lungs by density
        training_haralick    float32  haralick_row,haralick_column -  some rows for the vocabularies: features, position
        training_micro_sift  float32  micro_sift_row,sift_column   -  the same of the small keypoints
        training_macro_sift  float32  macro_sift_row,sift_column   -  the same of the large keypoints
        @haralick_features   names of the texture features
        @volume_id           pseudonym of the series
    """,
    "training": """
        vocabulary/training.zarr
        every volume's training rows, spread over the population
        haralick   float32  haralick_row,haralick_column  -  features, then position z, y, x in the atlas in mm
        micro_sift float32  micro_sift_row,sift_column    -  the same of the small keypoints
        macro_sift float32  macro_sift_row,sift_column    -  the same of the large keypoints
    """,
    "vocabulary": """
        vocabulary/<name>.zarr
        a visual vocabulary: haralick, micro_sift or macro_sift
        centres            float32  word,column  -   centres of the words: scaled features, then scaled position
        feature_centre     float64  feature      -   median of each feature
        feature_spread     float64  feature      -   interquartile range of each feature over 1.349
        projection         float64  feature,from_feature - scaled features without what a scanner does to them
        nuisance_share     float64  direction    -   share of the variance that degraded copies move, the largest first
        position_centre_mm float64  axis         mm  mean position z, y, x in the atlas
        position_spread_mm float64  axis         mm  standard deviation of the position
        @name              the vocabulary
        @spatial_weight    weight of the position against the features
        @n_removed         directions that are left out of the features
    """,
    "word_counts": """
        word_counts.zarr
        visual words counted in every volume
        volume     string  volume       -  pseudonym of the series
        vocabulary string  word         -  the word's vocabulary
        counts     uint32  volume,word  -  features assigned to each visual word
        zone_counts uint32 volume,zone,bin - voxels of six zones of the lungs by density
    """,
    "topics": """
        topics.zarr
        topics of the visual words
        volume           string   volume        -  pseudonym of the series
        vocabulary       string   word          -  the word's vocabulary
        topic_of_volume  float64  volume,topic  -  share of each topic, rows sum to 1
        word_of_topic    float64  topic,word    -  probability of each word, rows sum to 1
        components       float64  topic,word    -  variational parameters of the topics, for new volumes
        @doc_topic_prior Dirichlet prior of the topics of a volume
    """,
    "groupings": """
        groupings.zarr
        every grouping of the population
        volume     string   volume           -  pseudonym of the series
        descriptor string   grouping         -  volume descriptor
        n_clusters int64    grouping         -  number of groups K
        seed       int64    grouping         -  seed of k-means
        cluster    uint16   grouping,volume  -  group of each volume, 0 is the largest
        distance   float32  grouping,volume  -  Euclidean distance to the group's centre
        stability  float32  grouping,volume  -  mean Jaccard overlap with the best match under the other seeds
    """,
    "repeats": """
        repeats.zarr
        the chain learnt again, from words to groups, over seeds and resamples of patients
        volume     string   volume               -  pseudonym of the series
        descriptor string   grouping             -  volume descriptor
        n_clusters int64    grouping             -  number of groups K
        cluster    uint16   run,grouping,volume  -  group of each volume in each run
        learnt     bool     run,volume           -  the run learnt from the volume
        agreed     uint16   grouping,volume      -  group of k-means that begins with what the runs agree on
        distance   float32  grouping,volume      -  Euclidean distance to that group's centre
        stability  float32  grouping,volume      -  mean Jaccard overlap of that group with its best match in the runs
    """,
    "repeat_counts": """
        repeats/counts.zarr
        word counts of every run, while the stage is at work
        counts uint32 run,volume,word - features assigned to each visual word
    """,
    "repeat_groups": """
        repeats/groups.zarr
        groups of every run, while the stage is at work
        cluster   uint16  run,grouping,volume - group of each volume in each run
        pooled    float32 run,descriptor,volume,direction - leading directions of the run's descriptors
        agreed    uint16  grouping,volume     - group of k-means that begins with what the runs agree on
        distance  float32 grouping,volume     - Euclidean distance to that group's centre
        stability float32 grouping,volume     - mean Jaccard overlap of that group with its best match in the runs
    """,
    "terms": """
        terms.zarr
        terms of the reports by volume, volumes without a report left out
        volume   string  volume       -  pseudonym of the series
        term     string  term         -  RadLex identifier
        label    string  term         -  preferred name
        has_term bool    volume,term  -  the volume's report affirms the term
        @notice  licence of the lexicon
    """,
    "model": """
        model/groups.zarr
        the frozen model: what puts a new volume into the reported groups
        topic_components    float64  topic,word       -  variational parameters of the topics
        centres             float64  cluster,feature  -  centres of the groups
        word_centres        float64  cluster,word     -  mean roots of the groups' shares of words
        word_means          float64  word             -  mean roots of everybody's shares of words
        word_precision      float64  word,other_word  -  inverse of their shrunk covariance, 0 between vocabularies
        zone_means          float64  bin              -  mean roots of everybody's densities in zones of the lungs
        zone_precision      float64  bin,other_bin    -  inverse of their shrunk covariance
        spread              float64  part,cluster     -  usual distance from the centre: by descriptor, by words
        usual               float64  measure          -  what one in twenty volumes exceeds
        scores              float64  member           -  how strange the population's own volumes are, ascending
        @descriptor         volume descriptor of the grouping
        @vocabulary_of_word vocabulary of each word
        @masses             masses that the counts of the vocabularies are scaled to
        @doc_topic_prior    Dirichlet prior of the topics of a volume
        @error_rate         share of volumes of the groups that may be called none of these
    """,
}

FILES = {
    "study.toml": "settings",
    "deidentification.json": "what became of each DICOM attribute; no other is in the study ([docs](privacy.md))",
    "markers/<stage>/<volume_id>.json": "completion marker of a part: what it read, what it wrote, both as digests",
    "records/<stage>/<volume_id>.json": "the small record that a finished part left",
    "recipes/<digest>.json": "stage, version and settings that parts were made with",
    "quarantine/<stage>/<volume_id>.json": "a row of quarantine.parquet, as soon as it is known",
    "runs/active.json": "what the run in progress is at",
    "runs/lease/<number>": "who may write to the study; the highest number holds",
    "runs/<run_id>.json": "run card: versions, settings, hashes of inputs, seeds, counts and seconds per stage",
    "runs/<run_id>.events.<number>.jsonl": "log of events: a line per part with stage, seconds, worker and memory peak",
    "runs/<run_id>.performance.html": "where the run's time went, drawn by `popclust performance`",
    "model/model.json": "manifest of the frozen model; copies of atlas/ and of the vocabularies lie beside it",
    "atlas/templates.png": "the templates carried over to the atlas, for a person's approval",
    "figures/<name>.png": "a figure of the summary",
    "figures/<name>.svg": "the same as drawing",
    "figures/captions.json": "captions of the figures, in their order",
    "figures/words.csv": "share of every visual word, and where in the lungs it lives, in plain words",
    "figures/topics.csv": "every topic: its share of the population, and where in the lungs it lives",
    "figures/map.csv": "places of the volumes on the map of the population",
    "summary/index.html": "the summary, one page that needs nothing else",
}
