"""Declarations of the tables, as text that `popclust.schema` reads; a table lies at its name with `.parquet`.

The first line says what a row is; every other line is a column: name, dtype, unit (- for none), meaning.
"""

_GROUPING = """
    descriptor string  -  volume descriptor
    n_clusters int64   -  number of groups K
    seed       int64   -  seed of k-means; -1: begun with what runs of the chain agree on
"""
_TERM_OF_GROUP = f"""
    {_GROUPING}
    cluster    int64   -  group
    term_id    string  -  RadLex identifier
    term       string  -  preferred name
"""

TABLES = {
    "cohort": """
        a series that was seen, included or not
        volume_id          string        -      pseudonym of the series
        patient_id         string        -      pseudonym of the patient
        study_id           string        -      pseudonym of the examination
        accession_id       string        -      pseudonym of the accession number, by which reports may join
        series_number      Int64         -      as in the header, of at most six digits
        manufacturer       string        -      as in the header if it is known, else a keyed hash (unlisted-...)
        model              string        -      scanner model, likewise
        kernel             string        -      reconstruction kernel, its first value, likewise
        slice_thickness_mm float64       mm     as in the header
        slice_distance_mm  float64       mm     measured between slice positions
        n_images           Int64         -      images of the series that were seen
        n_slices           Int64         -      images in the stack, those used
        n_set_aside        Int64         -      images of the series outside the stack, copies apart
        set_aside          list[string]  -      codes of why these are, each with how many
        n_unreadable       Int64         -      images of the stack that cannot be decoded
        is_shortened       boolean       -      slices beyond the ends of the stack are among those set aside
        spacing_zyx_mm     list[float64] mm     voxel spacing
        age_years          float64       years  at the examination, 90 for more than 89
        sex                string        -      as in the header
        acquired_on        string        -      ISO date, shifted by a secret number of days per patient
        contrast           boolean       -      contrast agent given; may be missing
        noise_hu           float64       HU     noise in soft tissue, measured; missing where too little is seen
        edge_mm            float64       mm     width of the skin's edge, measured; the smaller the sharper
        sharpness          float64       -      noise and edges together, above 0 for sharp kernels
        hu_shift           float64       HU     departure from HU at 0 HU, by where fat and outside air stand
        hu_slope           float64       -      what one HU is, by the same; missing where either is not seen
        included           bool          -      taken into the population
        reasons            list[string]  -      codes of why not
    """,
    "duplicates": """
        a pair of volumes under different patient_ids whose keypoints say that they show one person
        volume_a  string  -  pseudonym of the one series, the first in order
        volume_b  string  -  pseudonym of the other
        n_votes   int64   -  descriptors of either that are nearer to one of the other than to anybody else's, by far
        n_matches int64   -  keypoint locations with a mutual nearest descriptor
        n_inliers int64   -  of these, the locations that one rigid map takes onto each other
        same_person_as string - patient_id by which the tests count the person, under whichever others it stands
    """,
    "atlas/templates": """
        a template that was offered for the atlas
        template_id           string       -   its name
        n_landmarks           int64        -   landmarks shared with the atlas
        landmark_error_mm     float64      mm  mean distance of the landmarks after registration
        landmark_error_max_mm float64      mm  largest distance of the same
        lung_dice             float64      -   overlap of the lungs carried over with the atlas's
        n_organs              int64        -   organs that both label maps show
        organ_dice            float64      -   mean overlap of the organs
        organ_dice_min        float64      -   smallest overlap of an organ
        ncc                   float64      -   correlation with the atlas inside its lungs
        folding               float64      -   share of lung voxels where the transform folds space
        used                  bool         -   volumes may be registered through it
        approved              bool         -   approved by name in the settings
        reasons               list[string] -   codes of the limits it breaks
    """,
    "quality": """
        a volume that was registered
        volume_id           string        -   pseudonym of the series
        template_id         string        -   chosen template
        ncc                 float64       -   correlation with the atlas inside its lungs
        wall_ncc            float64       -   correlation of the chest wall: fat, muscle, ribs and spine
        mediastinum_ncc     float64       -   correlation of what lies between the lungs
        sound_ncc           float64       -   correlation in the lungs and 1 cm around, without what is not aerated
        shift_drop          float64       -   how much worse wall, mediastinum and lungs agree when shifted by 20 mm
        turn_drop           float64       -   the same when turned by 12 degrees
        stretch_drop        float64       -   the same when stretched by 1.15
        aerated             float64       -   share of the lungs carried over that is aerated
        lung_dice           float64       -   overlap of the lungs carried over with independent intensity-based ones
        folding             float64       -   share of lung voxels where the transform folds space
        coverage            float64       -   share of the atlas lung in the field of view
        template_spread_mm  float64       mm  disagreement of the templates after the affine step; 0 with one template
        inverse_error_mm    float64       mm  mean distance in the lungs between a point and itself sent there and back
        start               string        -   what found where the volume lies: keypoints, search, size; or empty
        n_inliers           int64         -   keypoint locations that agree on one rigid map to the chosen template
        orientation         string        -   way round that fits best: upright, feet_first, face_down, mirrored
        extent_low_mm       list[float64] mm  lowest z, y, x of the field of view in the atlas
        extent_high_mm      list[float64] mm  highest z, y, x of the same
        failure_probability float64       -   how likely it is that the registration failed
        failure_probability_right float64 -   the same of the right side of the chest by itself
        failure_probability_left  float64 -   the same of the left side
        telling             list[string]  -   the three measures that moved this probability most, in words
        accepted            bool          -   taken into the population, wholly or in part
        trusted             list[string]  -   sides of the chest that are sampled: right, left, both or none
        reasons             list[string]  -   codes of why not, or why one side only
    """,
    "clusters": f"""
        a volume in the reported grouping; every grouping stands in groupings.zarr
        volume_id  string  -  pseudonym of the series
        {_GROUPING}
        cluster    int64   -  group, 0 is the largest
        distance   float64 -  Euclidean distance to the group's centre
        stability  float64 -  mean Jaccard overlap of its group with the best match in runs of the chain (or seeds)
        unstable   bool    -  stability is below .5: do not build on this group
    """,
    "mentions": """
        a place in a report that names a term, and a volume that the report is of
        volume_id string -  the report's volume
        term_id   string -  RadLex identifier
        term      string -  preferred name
        status    string -  affirmed, negated, uncertain, historical, hypothetical or other_person
        section   string -  section of the report
        start     int64  -  first character of the mention
        end       int64  -  one past its last character
        language  string -  en or de
    """,
    "reports": """
        a report and a volume that it is of
        volume_id  string -  the report's volume; empty where none is known
        patient_id string -  pseudonym of the patient; empty where none is known
        language   string -  en or de
        n_mentions int64  -  mentions found
    """,
    "associations": f"""
        a term in a group of one grouping
        unit       string  -  what is counted: volume or patient
        {_TERM_OF_GROUP}
        V          int64   -  units with the term in the group
        C          int64   -  units with the term
        R          int64   -  units in the group
        B          int64   -  units with a report
        odds_ratio float64 -  sample odds ratio
        ci_low     float64 -  lower end of its 95 % confidence interval
        ci_high    float64 -  upper end
        p_value    float64 -  two-sided Fisher's exact test
        p_holm     float64 -  corrected over the groups of the term
        q_fdr      float64 -  Benjamini-Yekutieli over all tests of the grouping
        direction  int64   -  1 more often, -1 less often than outside the group
    """,
    "criterion": f"""
        a grouping
        unit             string  -  what is counted
        {_GROUPING}
        Q                int64   -  significant (term, group) pairs
        gain             float64 -  nats by which groups foretell a left-out unit's terms better than frequency
        is_candidate     bool    -  of the numbers of groups so marked the smallest is reported
        Q_null_mean      float64 -  mean of Q over permutations at this K
        Q_null_p95       float64 -  95th percentile of the same
        p_value          float64 -  share of permutations with at least this Q at this K
        p_value_selected float64 -  the same where each permutation repeats the choice of K
    """,
    "validity/confounders": f"""
        a technical or personal variable in a group of the reported grouping
        {_GROUPING}
        cluster    int64   -  group
        variable   string  -  scanner, kernel, slice_thickness_mm, contrast, sex, age_years, ...
        kind       string  -  category or measurement
        n          int64   -  units in the group with a value
        n_missing  int64   -  units in the group without one
        effect     float64 -  Cramer's V, or the rank-biserial correlation of a measurement
        p_value    float64 -  group against the rest
        p_holm     float64 -  corrected over the groups of the variable
        level      string  -  the category that stands out
        inside     float64 -  its share (or the median) in the group
        outside    float64 -  the same in the rest
    """,
    "validity/stratified": f"""
        a reported association within strata of one variable
        {_TERM_OF_GROUP}
        variable      string  -  whose strata these are
        role          string  -  technical or personal: it decides; other
        n_strata      int64   -  strata that say something
        information   float64 -  variance of V within strata over that without
        odds_ratio    float64 -  common odds ratio of the strata (Mantel-Haenszel)
        ci_low        float64 -  lower end of its 95 % confidence interval
        ci_high       float64 -  upper end
        retained      float64 -  share of the log odds ratio that is left within strata
        retained_low  float64 -  lower end of the interval of that share
        retained_high float64 -  upper end
        shuffled_low  float64 -  least that is left where the variable is shuffled between patients, 2.5th percentile
        shuffled_high float64 -  most of the same, 97.5th percentile
        outcome       string  -  survives, explained away, or cannot tell
    """,
    "validity/gate": f"""
        a reported association
        {_TERM_OF_GROUP}
        outcome          string  -  against all technical variables: survives, explained away, or cannot tell
        because          string  -  technical variables that explain it away, or by which one cannot tell
        outcome_personal string  -  the same against age and sex
        because_personal string  -  which of these
        replication      string  -  on patients that were not learnt on: replicated, not replicated, or underpowered
        power            float64 -  probability that one half at least finds it and the other confirms it
    """,
    "validity/replication": f"""
        a reported association and a half of the patients that topics and groups are learnt on
        {_TERM_OF_GROUP}
        learnt_on        string  -  half of the patients learnt on: first or second
        cluster_of_half  int64   -  group of the half-model that overlaps it most; -1 where the half is too small
        overlap          float64 -  Jaccard overlap of the two
        found            bool    -  the half finds the association too
        odds_ratio       float64 -  as reported
        R                int64   -  units of the other half in the group, placed by the half-model
        C                int64   -  units of the other half with the term
        B                int64   -  units of the other half
        odds_ratio_again float64 -  in the other half
        ci_low           float64 -  lower end of its 95 % confidence interval
        ci_high          float64 -  upper end
        p_value          float64 -  two-sided Fisher's exact test in the other half
        power            float64 -  probability that the one half finds it and the other confirms it
        outcome          string  -  replicated, not replicated, or underpowered
    """,
    "replication": """
        an association of one study, tested on a second population that its frozen model placed
        cluster          int64   -  group
        term_id          string  -  RadLex identifier
        term             string  -  preferred name
        direction        int64   -  1 more often, -1 less often than outside the group, as found
        odds_ratio       float64 -  as found
        odds_ratio_safe  float64 -  end nearer to 1 of its 80 % interval, for which the power is stated
        V                int64   -  units of the second population with the term in the group
        C                int64   -  with the term
        R                int64   -  in the group
        B                int64   -  with a report
        odds_ratio_again float64 -  in the second population
        ci_low           float64 -  lower end of its 95 % confidence interval
        ci_high          float64 -  upper end
        p_value          float64 -  two-sided Fisher's exact test in the second population
        power            float64 -  probability of finding it there
        outcome          string  -  replicated, not replicated, or underpowered
    """,
    "validity/split_half": f"""
        a half of the patients on which the grouping was chosen
        chosen_on    string  -  half of the patients on which K and seed were chosen
        tested_on    string  -  the other half
        n_chosen     int64   -  units of the one
        n_tested     int64   -  units of the other
        {_GROUPING}
        Q_chosen     int64   -  Q where it was chosen
        Q_tested     int64   -  Q on the other half
        n_replicated int64   -  associations that both find, in the same direction
        Q_null_mean  float64 -  mean of Q on the other half over permutations
        Q_null_p95   float64 -  95th percentile of the same
        p_value      float64 -  share of permutations with at least this Q
    """,
    "validity/predicted": """
        a variable that is predicted from the topics
        variable string  -  technical or personal variable
        n        int64   -  units with a value
        n_levels int64   -  levels told apart
        chance   float64 -  accuracy of guessing
        accuracy float64 -  balanced accuracy of predicting it from the topics, across patients
    """,
    "validity/structure": f"""
        the reported number of groups against one population that was cut into as many
        {_GROUPING}
        p_value    float64 -  share of one-kind populations that k-means leaves as compact
        gap        float64 -  mean logarithm of their sum of squares within groups, less that of the volumes
        n_null     int64   -  one-kind populations drawn
        has_groups boolean -  p_value is at most .05; missing where fewer than 19 were drawn
    """,
    "validity/repeats": """
        a run of the chain, learnt again from other seeds and other patients
        run        int64   -  the run
        n_learnt   int64   -  volumes that it learnt from
        descriptor string  -  volume descriptor
        n_clusters int64   -  number of groups that the same rule chooses in this run
        agreement  float64 -  adjusted Rand index of its groups and those reported
        others     float64 -  mean adjusted Rand index of its groups and those of the other runs
    """,
    "validity/power": f"""
        a term in a group of the reported grouping
        {_TERM_OF_GROUP}
        C                int64   -  units with the term
        R                int64   -  units in the group
        B                int64   -  units with a report
        level            float64 -  Holm's strictest step
        power            float64 -  probability of finding it
        odds_ratio_above float64 -  smallest odds ratio above 1 that is found with that probability
        odds_ratio_below float64 -  largest below 1
    """,
    "validity/term_noise": """
        a simulated rate of errors of the term extractor
        errors             string  -  which errors of the term extractor are simulated
        miss_rate          float64 -  share of findings missed
        false_mention_rate float64 -  share of mentions made up
        Q                  int64   -  Q as found
        Q_mean             float64 -  mean of Q under the errors
        Q_p05              float64 -  5th percentile
        Q_p95              float64 -  95th percentile
        share_found_again  float64 -  share of the associations that are found again
    """,
    "quarantine": """
        a volume that is kept out of a stage
        volume_id string -  the volume kept out
        stage     string -  where it failed
        error     string -  short stable code
        message   string -  one line for a person
        attempts  int64  -  how often it was tried
        when      string -  UTC time
        marker    string -  what was tried: the volume is tried again once this changes
    """,
}
