"""Topics of co-occurring visual words: latent Dirichlet allocation on scaled word counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import LatentDirichletAllocation

from popclust.errors import InputError
from popclust.population.vocabulary import FOCAL, VOCABULARIES
from popclust.settings import EncodeSettings, TopicsSettings

ONLINE_BATCH = 256
"""Volumes after which topics move where they are learnt online."""
_SAMPLE = 1000
"""Volumes whose topics online learning starts from."""
_SAMPLE_PASSES = 25
"""Passes over these at most."""
_PASSES = 2
"""Online passes over the population at most."""


@dataclass(frozen=True)
class TopicModel:
    """A fitted LDA, as arrays."""

    components: NDArray[np.float64]
    """(topic, word) variational parameters of the topics' word distributions."""
    doc_topic_prior: float
    """Dirichlet prior of a volume's topics."""

    @property
    def word_of_topic(self) -> NDArray[np.float64]:
        """(topic, word) probabilities, rows sum to 1."""
        return self.components / self.components.sum(axis=1, keepdims=True)

    def transform(self, scaled_counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(volume, topic) shares of each topic, rows sum to 1."""
        n_topics, n_words = self.components.shape
        lda = LatentDirichletAllocation(n_topics, doc_topic_prior=self.doc_topic_prior, mean_change_tol=1e-4)
        # What fit() leaves behind that transform() needs, without unpickling anything.
        lda.components_ = self.components
        lda.n_features_in_ = n_words
        lda.doc_topic_prior_ = self.doc_topic_prior
        lda.exp_dirichlet_component_ = _exp_dirichlet_expectation(self.components)
        lda.random_state_ = np.random.RandomState(0)
        return np.asarray(lda.transform(scaled_counts))


def scale_counts(
    counts: NDArray[np.integer], vocabulary_of_word: NDArray, settings: EncodeSettings
) -> NDArray[np.float64]:
    """Scale each volume's counts so that every vocabulary has its stated mass.

    Without it some 10^4 texture samples would drown some 10^2 keypoints. A volume with no feature of a vocabulary
    keeps zeros there. Focal densities are few whatever they mean, so their share s of the texture samples counts as
    ``mass s^2 / (s^2 + half^2)``: next to nothing where lungs have one by chance, all where they are full of them.

    Parameters
    ----------
    counts : (volume, word) array
        Word counts.
    vocabulary_of_word : (word,) array of str
        The vocabulary of each word.
    settings : EncodeSettings
        The masses.

    Returns
    -------
    (volume, word) array
    """
    masses = {v: getattr(settings, f"mass_{v}") for v in VOCABULARIES}
    scaled = counts.astype(np.float64)
    for name, mass in masses.items():
        own = np.asarray(vocabulary_of_word) == name
        sums = scaled[:, own].sum(axis=1, keepdims=True)
        scaled[:, own] *= np.divide(mass, sums, out=np.zeros_like(sums), where=sums > 0)
    is_focal, is_texture = (np.asarray(vocabulary_of_word) == name for name in (FOCAL, "haralick"))
    scaled[:, is_focal] = focal_mass(counts[:, is_focal], counts[:, is_texture].sum(axis=1, keepdims=True), settings)
    return scaled


def focal_mass(n_near: ArrayLike, n_samples: ArrayLike, settings: EncodeSettings) -> NDArray[np.float64]:
    """What texture samples near focal densities count, of so many samples."""
    share = np.asarray(n_near, np.float64) / np.maximum(n_samples, 1)
    return np.asarray(settings.mass_focal * share**2 / (share**2 + settings.half_focal**2))


def fit_topics(scaled_counts: NDArray[np.float64], settings: TopicsSettings) -> TopicModel:
    """Learn topics by variational Bayes, as scikit-learn implements it.

    Up to `batch_limit` volumes topics move after each pass over all of them (Blei et al. 2003). Beyond, those of a
    sample are the start, from which topics move after every :data:`ONLINE_BATCH` volumes in random order (Hoffman et
    al. 2010): begun at random, as they usually are, online topics are worse than these and than those of all.

    Parameters
    ----------
    scaled_counts : (volume, word) array
        Word counts scaled to the vocabularies' masses.
    settings : TopicsSettings
        Number of topics, priors, passes, seed, and the volumes up to which all are gone through.

    Raises
    ------
    InputError
        No word in any volume, or counts that are no numbers.

    References
    ----------
    Hoffman M, Blei D, Bach F. Online learning for latent Dirichlet allocation. NeurIPS 2010.
    """
    _check_counts(scaled_counts)
    lda = LatentDirichletAllocation(
        settings.n_topics,
        doc_topic_prior=settings.doc_topic_prior,
        topic_word_prior=settings.topic_word_prior,
        max_iter=settings.n_iterations,
        learning_method="batch",
        batch_size=ONLINE_BATCH,
        total_samples=len(scaled_counts),
        mean_change_tol=1e-4,
        random_state=settings.seed,
    )
    if len(scaled_counts) <= settings.batch_limit:
        lda.fit(scaled_counts)
    else:
        _fit_online(lda, scaled_counts, settings)
    return TopicModel(np.asarray(lda.components_), settings.doc_topic_prior)


def _fit_online(lda: LatentDirichletAllocation, scaled_counts: NDArray[np.float64], settings: TopicsSettings) -> None:
    n_volumes = len(scaled_counts)
    order = np.random.default_rng(settings.seed).permutation(n_volumes)
    sample = order[:_SAMPLE]
    lda.set_params(max_iter=min(settings.n_iterations, _SAMPLE_PASSES)).fit(scaled_counts[sample])
    lda.components_ *= n_volumes / len(sample)  # what the sample would weigh if it were all volumes
    lda.exp_dirichlet_component_ = _exp_dirichlet_expectation(lda.components_)
    for _ in range(min(settings.n_iterations, _PASSES)):
        for start in range(0, n_volumes, ONLINE_BATCH):  # by number: the matrix is not copied
            lda.partial_fit(scaled_counts[order[start : start + ONLINE_BATCH]])


def _check_counts(scaled_counts: NDArray[np.float64]) -> None:
    if not np.isfinite(scaled_counts).all():
        n_bad = int((~np.isfinite(scaled_counts)).any(axis=1).sum())
        raise InputError(
            f"topics: the word counts of {n_bad} of {len(scaled_counts)} volumes are missing or infinite; count them "
            "again with `popclust run --from encode`"
        )
    if not scaled_counts.any():
        raise InputError(
            f"topics: no visual word was counted in any of {len(scaled_counts)} volumes; topics need features: look "
            "at what `popclust status` says of extract, and at the masses in [encode]"
        )


def _exp_dirichlet_expectation(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(E[log beta]) for beta ~ Dirichlet(components)."""
    from scipy.special import psi

    return np.asarray(np.exp(psi(components) - psi(components.sum(axis=1, keepdims=True))))
