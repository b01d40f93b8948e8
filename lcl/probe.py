"""A linear probe on frozen features: logistic regression whose strength is chosen on a part of the training set."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # C of scikit-learn, inverse regularisation
VALIDATION_PART = 0.2
MAX_ITERATIONS = 300


@dataclass(frozen=True)
class ProbeResult:
    predicted: Int[np.ndarray, " images"]
    strength: float
    validation_accuracy: float


@threadpool_limits.wrap(limits=1)  # with a thread for each of two cores it took five times as long
def linear_probe(
    train: Float[np.ndarray, "images width"], labels: Int[np.ndarray, " images"], test: Float[np.ndarray, "test_images width"], *, seed: int = 0
) -> ProbeResult:
    """Labels for `test` from an L-BFGS logistic regression on standardised features.

    C is the best of STRENGTHS on a stratified fifth of the training set, then all of it is used (protocol of Radford et
    al. 2021, A.3, with a coarser grid). The test set is never looked at. Raises ValueError if a class has under 2 images.
    """
    counts = np.bincount(labels)
    if counts[counts > 0].min() < 2:
        raise ValueError("every class needs at least 2 training images: one to fit, one to choose the strength on")
    fit_x, val_x, fit_y, val_y = train_test_split(train, labels, test_size=max(VALIDATION_PART, len(set(labels)) / len(labels)), stratify=labels, random_state=seed)
    scores = {strength: _fit(fit_x, fit_y, strength).score(val_x, val_y) for strength in STRENGTHS}
    best = max(scores, key=lambda strength: (scores[strength], -strength))
    return ProbeResult(_fit(train, labels, best).predict(test), best, scores[best])


def _fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest strengths need not converge to be compared
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)).fit(features, labels)


def wilson_interval(num_right: int, num: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    share = num_right / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))
