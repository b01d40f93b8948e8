"""Few-shot ridge regression against scikit-learn, and what it may and may not look at."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lcl.evals.few_shot import STRENGTHS, draw_shots, few_shot_accuracy, fit_ridge


def made(num: int, width: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a constant one among them, targets of +-1 for 3 classes, labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    features = rng.normal(size=(num, width)) * rng.uniform(0.1, 10, width) + rng.normal(size=width) + 0.5 * labels[:, None]
    features[:, 0] = 4.0
    return features, 2.0 * np.eye(3)[labels] - 1.0, labels


@pytest.mark.parametrize(("num", "width"), [(12, 40), (60, 7), (20, 20)])
@pytest.mark.parametrize("l2", [0.5, 30.0, 1024.0])
def test_equals_ridge_of_scikit_learn(num: int, width: int, l2: float) -> None:
    (features, targets, _), (test, _, _) = made(num, width, seed=0), made(30, width, seed=1)
    targets[0] = 1.0  # classes of unequal size: the bias is not the same for all
    ours = fit_ridge(features, targets, strengths=[l2])
    theirs = make_pipeline(StandardScaler(), Ridge(alpha=l2)).fit(features, targets)
    assert ours.l2 == l2
    np.testing.assert_allclose(test @ ours.weights + ours.bias, theirs.predict(test), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("num", "width"), [(12, 40), (60, 7)])
def test_the_strength_has_the_least_leave_one_out_error(num: int, width: int) -> None:
    features, targets, _ = made(num, width, seed=2)
    ours = fit_ridge(features, targets)
    scaled = StandardScaler().fit_transform(features)
    assert ours.l2 == RidgeCV(alphas=STRENGTHS).fit(scaled, targets).alpha_
    for l2 in (STRENGTHS[2], ours.l2):
        left_out = []
        for index in range(num):
            kept = np.arange(num) != index
            left_out.append(targets[index] - Ridge(alpha=l2).fit(scaled[kept], targets[kept]).predict(scaled[index : index + 1])[0])
        assert fit_ridge(features, targets, strengths=[l2]).squared_error == pytest.approx(float(np.square(left_out).mean()), rel=1e-6)


def test_arguments_are_not_changed_and_units_of_features_do_not_matter() -> None:
    features, targets, labels = made(30, 8, seed=3)
    kept = features.copy()
    found = few_shot_accuracy(features, labels, features, labels, shots=4)
    assert np.array_equal(features, kept)
    scaled = features * np.linspace(0.01, 100, 8) + 7
    assert few_shot_accuracy(scaled, labels, scaled, labels, shots=4) == pytest.approx(found)


def test_draws_are_balanced_different_and_repeatable() -> None:
    labels = np.repeat([3, 5, 9], [10, 20, 4])
    for shots in (1, 4):
        drawn = draw_shots(labels, shots=shots, seed=0)
        assert np.array_equal(np.bincount(labels[drawn], minlength=10)[[3, 5, 9]], [shots] * 3) and len(set(drawn)) == 3 * shots
    assert np.array_equal(draw_shots(labels, shots=4, seed=1), draw_shots(labels, shots=4, seed=1))
    assert not np.array_equal(draw_shots(labels, shots=4, seed=1), draw_shots(labels, shots=4, seed=2))
    with pytest.raises(ValueError, match="class 9 has 4 training images, 5 shots need as many: lower --shots"):
        draw_shots(labels, shots=5, seed=0)


def test_a_prediction_does_not_depend_on_what_else_is_tested() -> None:
    features, _, labels = made(60, 8, seed=4)
    test, _, wanted = made(200, 8, seed=5)
    whole = few_shot_accuracy(features, labels, test, wanted, shots=5)[0]
    halves = [few_shot_accuracy(features, labels, test[part], wanted[part], shots=5)[0] for part in (slice(100), slice(100, 200))]
    assert whole == pytest.approx(np.mean(halves)) and whole < 1


def test_digits_are_learned_better_with_more_shots_and_shuffled_labels_are_not() -> None:
    features, labels = load_digits(return_X_y=True)
    train, test = slice(900), slice(900, None)
    accuracies = [few_shot_accuracy(features[train], labels[train], features[test], labels[test], shots=shots) for shots in (1, 5, 20)]
    means = [mean for mean, _ in accuracies]
    assert 0.4 < means[0] < means[1] < means[2] and means[2] > 0.85 and all(0 < deviation < 0.1 for _, deviation in accuracies)
    shuffled = np.random.default_rng(0).permutation(labels[train])
    assert few_shot_accuracy(features[train], shuffled, features[test], labels[test], shots=20)[0] < 0.2


def test_labels_need_not_be_numbered_from_zero_and_the_deviation_is_that_of_the_seeds() -> None:
    features, _, labels = made(60, 8, seed=6)
    names = np.array([2, 11, 40])[labels]
    settings = {"shots": 3, "seeds": (4, 5)}
    mean, deviation = few_shot_accuracy(features[:30], names[:30], features[30:], names[30:], **settings)
    assert (mean, deviation) == pytest.approx(few_shot_accuracy(features[:30], labels[:30], features[30:], labels[30:], **settings))
    pairs = [few_shot_accuracy(features[:30], labels[:30], features[30:], labels[30:], shots=3, seeds=(seed, seed)) for seed in (4, 5)]
    assert [spread for _, spread in pairs] == [0, 0]
    one, two = (accuracy for accuracy, _ in pairs)
    assert (mean, deviation) == pytest.approx(((one + two) / 2, abs(one - two) / 2**0.5))
    with pytest.raises(ValueError, match="needs two seeds or more, not 1: give more --seeds"):
        few_shot_accuracy(features, labels, features, labels, shots=3, seeds=(0,))
