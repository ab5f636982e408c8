"""Topics of co-occurring visual words: latent Dirichlet allocation on scaled word counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import LatentDirichletAllocation

from popclust.population.vocabulary import VOCABULARIES
from popclust.settings import EncodeSettings, TopicsSettings


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
    keeps zeros there.

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
    return scaled


def fit_topics(scaled_counts: NDArray[np.float64], settings: TopicsSettings) -> TopicModel:
    """Learn topics by variational Bayes (Blei et al. 2003, as scikit-learn implements it).

    Parameters
    ----------
    scaled_counts : (volume, word) array
        Word counts scaled to the vocabularies' masses.
    settings : TopicsSettings
        Number of topics, priors, passes and seed.
    """
    lda = LatentDirichletAllocation(
        settings.n_topics,
        doc_topic_prior=settings.doc_topic_prior,
        topic_word_prior=settings.topic_word_prior,
        max_iter=settings.n_iterations,
        learning_method="batch",
        mean_change_tol=1e-4,
        random_state=settings.seed,
    )
    lda.fit(scaled_counts)
    return TopicModel(np.asarray(lda.components_), settings.doc_topic_prior)


def _exp_dirichlet_expectation(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(E[log beta]) for beta ~ Dirichlet(components)."""
    from scipy.special import psi

    return np.asarray(np.exp(psi(components) - psi(components.sum(axis=1, keepdims=True))))
