"""A linear probe on frozen features: logistic regression whose strength is chosen on validation images."""

import warnings
from typing import Annotated

import numpy as np
from jaxtyping import Float
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lcl.core.config import config
from lcl.evals.examples import Examples, Outcome, Refit, accuracy, best_of, joined


@config
class LinearProbeConfig:
    strengths: Annotated[tuple[float, ...], Field(min_length=1)] = tuple(10.0**power for power in range(-5, 4))
    """C of scikit-learn (inverse regularisation) to choose from, the strongest regularisation first."""
    max_iterations: Annotated[int, Field(ge=1)] = 300
    """Of L-BFGS."""
    refit: Refit = "train+validation"
    """What the chosen strength is fitted on in the end."""


def linear_probe(train: Examples, validation: Examples, test: Float[np.ndarray, "test_images width"], *, num_classes: int, settings: LinearProbeConfig) -> Outcome:
    """Class probabilities for `test`, from an L-BFGS logistic regression on standardised features.

    C is the best on the validation images (of equal ones the strongest regularisation), then the model is fitted again on `refit` (protocol of
    Radford et al. 2021, A.3, with a coarser grid). The test images are never looked at.
    """
    sweep = [
        {"C": strength, "validation_accuracy": accuracy(_fit_predict(train, validation.features, strength, num_classes, settings), validation.labels)}
        for strength in sorted(settings.strengths)
    ]
    chosen = {"C": best_of(sweep)["C"]}
    final = joined(train, validation) if settings.refit == "train+validation" else train
    return Outcome(_fit_predict(final, test, chosen["C"], num_classes, settings), chosen, sweep)


def _fit_predict(
    train: Examples, features: Float[np.ndarray, "images width"], strength: float, num_classes: int, settings: LinearProbeConfig
) -> Float[np.ndarray, "images classes"]:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=settings.max_iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest strengths need not converge to be compared
        classifier.fit(train.features, train.labels)
    scores = np.zeros((len(features), num_classes))
    scores[:, classifier.classes_] = classifier.predict_proba(features)
    return scores
