"""Each protocol by a hand-computed case, a slow plain version and its controls."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lcl.evals.attentive_probe import AttentiveProbe, AttentiveProbeConfig, attentive_probe, num_heads, token_statistics
from lcl.evals.classification import score_rows
from lcl.evals.examples import Examples, accuracy, joined
from lcl.evals.intervals import balanced_accuracy, clustered_bootstrap, clustered_share, mean_of_seeds, share, wilson_interval
from lcl.evals.knn import KnnConfig, knn_probe
from lcl.evals.linear_probe import LinearProbeConfig, linear_probe
from lcl.evals.retrieval import chance_of, ranks

QUICK = AttentiveProbeConfig(learning_rates=(1e-2,), weight_decays=(1e-4,), steps=150, batch=32)


def blobs(num: int, *, seed: int, spread: float = 0.3) -> Examples:
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    return Examples((np.eye(3, 8)[labels] * 2 + rng.normal(0, spread, (num, 8))).astype(np.float32), labels)


# linear probe


def test_a_linear_probe_finds_what_is_separable_and_is_at_chance_on_shuffled_labels() -> None:
    train, validation, test = blobs(240, seed=0), blobs(60, seed=1), blobs(300, seed=2)
    config = LinearProbeConfig()
    assert accuracy(linear_probe(train, validation, test.features, num_classes=3, settings=config).scores, test.labels) > 0.98
    rng = np.random.default_rng(3)
    mixed = (part.with_labels(rng.permutation(part.labels)) for part in (train, validation))
    assert abs(accuracy(linear_probe(*mixed, test.features, num_classes=3, settings=config).scores, test.labels) - 1 / 3) < 0.12


def test_a_linear_probe_equals_scikit_learn_on_what_it_is_refitted_on() -> None:
    train, validation, test = (blobs(num, seed=seed, spread=1.5) for num, seed in ((60, 0), (30, 1), (40, 2)))
    for refit, fitted in (("train", train), ("train+validation", joined(train, validation))):
        ours = linear_probe(train, validation, test.features, num_classes=4, settings=LinearProbeConfig(strengths=(0.1,), refit=refit))
        scaler = StandardScaler().fit(fitted.features)
        theirs = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(fitted.features), fitted.labels).predict_proba(scaler.transform(test.features))
        np.testing.assert_allclose(ours.scores[:, :3], theirs, atol=1e-3)
        assert not ours.scores[:, 3].any(), "a class without training images is never named"


def test_the_strength_is_chosen_on_validation_images_the_strongest_of_equal_ones() -> None:
    train, validation, test = (blobs(num, seed=seed, spread=1.5) for num, seed in ((60, 0), (60, 1), (40, 2)))
    outcome = linear_probe(train, validation, test.features, num_classes=3, settings=LinearProbeConfig())
    scores = {entry["C"]: entry["validation_accuracy"] for entry in outcome.sweep}
    assert outcome.chosen["C"] == min(strength for strength, score in scores.items() if score == max(scores.values()))
    assert linear_probe(train, train, train.features, num_classes=3, settings=LinearProbeConfig(strengths=(100.0, 0.01))).sweep[0]["C"] == 0.01
    part = linear_probe(train, validation, test.features[:7], num_classes=3, settings=LinearProbeConfig())
    assert np.array_equal(part.scores, outcome.scores[:7]), "what else is tested does not count"


# attentive probe


def needles(num: int, *, seed: int, patches: int = 6, width: int = 8) -> Examples:
    """One patch, anywhere, carries a mark and the class; a few others carry classes without the mark: their mean tells nothing."""
    rng = np.random.default_rng(seed)
    labels, tokens = np.arange(num) % 3, rng.normal(0, 0.1, (num, patches, width))
    for number in range(num):
        place, *others = rng.permutation(patches)[:5]
        tokens[number, place, labels[number]] += 1
        tokens[number, place, 7] += 2
        for decoy, other in zip(np.delete(np.arange(3), labels[number]).repeat(2), others, strict=True):
            tokens[number, other, decoy] += 0.5
    return Examples(tokens.astype(np.float16), labels)


def test_an_attentive_probe_finds_the_patch_that_matters() -> None:
    train, validation, test = (needles(num, seed=seed) for num, seed in ((240, 0), (60, 1), (150, 2)))
    outcome = attentive_probe(train, validation, test, num_classes=3, settings=QUICK)
    assert accuracy(outcome.scores, test.labels) > 0.95
    again = attentive_probe(train, validation, test.with_labels(test.labels * 0), num_classes=3, settings=QUICK)
    assert np.array_equal(again.scores, outcome.scores), "the same each time, and test labels are not read"
    part = attentive_probe(train, validation, test.chosen(np.arange(9)), num_classes=3, settings=QUICK)
    np.testing.assert_allclose(part.scores, outcome.scores[:9], atol=1e-5)
    rng = np.random.default_rng(3)
    mixed = (part.with_labels(rng.permutation(part.labels)) for part in (train, validation))
    assert abs(accuracy(attentive_probe(*mixed, test, num_classes=3, settings=QUICK).scores, test.labels) - 1 / 3) < 0.13


def test_an_attentive_probe_equals_attention_written_out() -> None:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 7, 12, generator=rng)
    valid = torch.arange(7) < torch.tensor([7, 3, 1, 7, 5])[:, None]
    probe = AttentiveProbe(12, 4, 3, tokens.mean(dim=(0, 1)), tokens.std(dim=(0, 1)), rng=rng)
    with torch.no_grad():
        probe.classifier.normal_(generator=rng)
        probe.query.normal_(generator=rng)
        found = probe(tokens, valid)
        for image in range(5):
            normal = ((tokens[image] - probe.mean) / probe.deviation)[valid[image]]
            keys, values = normal @ probe.keys.T, normal @ probe.values.T
            heads = []
            for head in range(4):
                chosen = slice(3 * head, 3 * head + 3)
                weights = (keys[:, chosen] @ probe.query[head] / math.sqrt(3)).softmax(dim=0)
                heads.append(weights @ values[:, chosen])
            torch.testing.assert_close(found[image], torch.cat(heads) @ probe.classifier.T + probe.bias, atol=1e-5, rtol=1e-5)


def test_patches_that_an_image_lacks_do_not_count() -> None:
    train, validation, test = (needles(num, seed=seed) for num, seed in ((90, 0), (30, 1), (30, 2)))
    rng = np.random.default_rng(0)

    def filled(part: Examples, garbage: float) -> Examples:
        more = np.concatenate([part.features, garbage * rng.normal(size=(len(part), 3, 8)).astype(np.float16)], axis=1)
        return Examples(more, part.labels, np.full(len(part), 6))

    few = replace(QUICK, steps=20)
    plain = attentive_probe(train, validation, test, num_classes=3, settings=few)
    padded = attentive_probe(filled(train, 9.0), filled(validation, 0.0), filled(test, 50.0), num_classes=3, settings=few)
    np.testing.assert_allclose(padded.scores, plain.scores, atol=1e-4)
    mean, deviation = token_statistics(filled(train, 9.0))
    every = train.features.reshape(-1, 8).astype(np.float64)
    np.testing.assert_allclose(mean, every.mean(axis=0))
    np.testing.assert_allclose(deviation, np.sqrt(every.var(axis=0) + 1e-6))


def test_the_rate_and_decay_are_the_best_on_validation_and_heads_divide_the_width() -> None:
    train, validation, test = (needles(num, seed=seed) for num, seed in ((90, 0), (60, 1), (30, 2)))
    outcome = attentive_probe(train, validation, test, num_classes=3, settings=replace(QUICK, learning_rates=(1e-6, 1e-2), weight_decays=(0.0, 1e-3), steps=60))
    assert len(outcome.sweep) == 4 and outcome.chosen["learning_rate"] == 1e-2
    assert [num_heads(width, most=12) for width in (768, 1024, 128, 48, 17)] == [12, 8, 8, 12, 1]


# nearest neighbours


def test_k_is_chosen_on_validation_by_hand() -> None:
    """Class 0 has one image beside each validation image; of three neighbours two are of class 1, so k = 1 is right and k = 3 is wrong."""
    train = Examples(np.array([[1.0, 0.0], [0.9, 0.44], [0.9, -0.44]], dtype=np.float32), np.array([0, 1, 1]))
    validation = Examples(np.array([[1.0, 0.01], [1.0, -0.01]], dtype=np.float32), np.array([0, 0]))
    config = KnnConfig(neighbours=(3, 1, 50), temperature=1.0, refit="train")
    outcome = knn_probe(train, validation, validation.features, num_classes=2, settings=config)
    assert [(entry["k"], entry["validation_accuracy"]) for entry in outcome.sweep] == [(1, 1.0), (3, 0.0)] and outcome.chosen == {"k": 1}
    np.testing.assert_allclose(outcome.scores, [[1, 0], [1, 0]])
    other = knn_probe(train, validation, validation.features, num_classes=2, settings=replace(config, neighbours=(3,)))
    near, far = (np.exp(value) for value in (math.cos(0.01), np.mean([0.9 * math.cos(0.0), 0.9])))
    assert other.scores[0, 0] == pytest.approx(near / (near + 2 * far), abs=0.01)
    assert knn_probe(train, validation, validation.features, num_classes=2, settings=replace(config, neighbours=(3,), refit="train+validation")).predicted.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"k \(10\) is more than the 3 training images: give smaller --knn.neighbours"):
        knn_probe(train, validation, validation.features, num_classes=2, settings=KnnConfig())


# ranks


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 9))
def test_ranks_equal_a_plain_count(seed: int, chunk: int) -> None:
    """Small integer vectors on few axes, so that many are equally near; several right candidates for a query."""
    rng = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(3), -np.eye(3), np.ones((1, 3))])
    groups = rng.integers(0, 4, 8)
    candidates, candidate_groups = axes[rng.integers(0, 7, 12)], np.concatenate([np.arange(4), rng.integers(0, 4, 8)])
    queries = axes[rng.integers(0, 7, 8)]
    found, nearest = ranks(*(torch.from_numpy(array) for array in (queries, candidates, groups, candidate_groups)), chunk=chunk)
    for number in range(8):
        similar = candidates @ queries[number] / np.linalg.norm(candidates, axis=1) / np.linalg.norm(queries[number])
        right = candidate_groups == groups[number]
        assert found[number] == 1 + sum(similar[~right] >= similar[right].max() - 1e-9)
        assert similar[nearest[number]] == pytest.approx(similar.max())


def test_a_constant_feature_finds_nothing_and_chance_is_that_of_drawing() -> None:
    same, groups = torch.ones(20, 4), torch.arange(20)
    assert ranks(same, same, groups, groups)[0].tolist() == [20] * 20
    assert chance_of(np.array([1, 1]), 20, k=5) == pytest.approx(5 / 20)
    assert chance_of(np.array([2]), 4, k=2) == pytest.approx(1 - (2 / 4) * (1 / 3))
    rng = torch.Generator().manual_seed(0)
    found, _ = ranks(torch.randn(2000, 8, generator=rng), torch.randn(50, 8, generator=rng), torch.arange(2000) % 50, torch.arange(50))
    assert float((found <= 5).mean()) == pytest.approx(0.1, abs=0.03)


# what is counted, and intervals


def test_wilson_interval_against_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3: 81 of 263, and 0 of 20."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert share(81, 263).value == 81 / 263


def test_student_interval_by_hand() -> None:
    """1, 2, 3 tenths: mean 0.2, sd 0.1, t(0.975, 2) = 4.303."""
    found = mean_of_seeds([0.1, 0.2, 0.3])
    assert (found.value, found.high) == pytest.approx((0.2, 0.2 + 4.3027 * 0.1 / 3**0.5), abs=1e-4) and found.low == 0.0
    with pytest.raises(ValueError, match="give more --seeds"):
        mean_of_seeds([0.5])


def test_accuracy_top_five_and_balanced_accuracy_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 6])
    scores = np.zeros((5, 7))
    scores[:, 0] = 3.0
    scores[3] = [5, 4, 3, 2, 1, 0, -1]     # class 1 is second
    scores[4] = [1, 1, 1, 1, 1, 0, 1]      # class 6 ties with five others: a constant answer is not among the first five
    rows = {row.metric: row.estimate for row in score_rows("x", scores, labels, ("accuracy", "top-5 accuracy", "balanced accuracy"))}
    assert rows["accuracy"].value == 3 / 5 and rows["top-5 accuracy"].value == 4 / 5 and rows["balanced accuracy"].value == pytest.approx(1 / 3)
    assert {row.metric for row in score_rows("x", scores[:, :3], np.zeros(5, dtype=int), ("accuracy", "top-5 accuracy"))} == {"accuracy"}


def test_bootstrap_intervals_hold_what_they_promise() -> None:
    """Against the normal approximation; clusters of equal values are as wide as their number says."""
    rng = np.random.default_rng(0)
    values = rng.random(400)
    found = clustered_bootstrap(values, [str(number) for number in range(400)], of="items")
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1) and found.low < values.mean() < found.high
    repeated = clustered_bootstrap(values.repeat(5), [str(number) for number in range(400) for _ in range(5)], of="items")
    assert repeated.high - repeated.low == pytest.approx(found.high - found.low, rel=0.1)
    median = clustered_bootstrap(values, [str(number) for number in range(400)], of="items", statistic="median")
    assert median.value == np.median(values) and median.low < median.value < median.high
    labels, predicted = np.repeat([0, 2], [100, 50]), np.repeat([0, 2, 2, 0], [80, 20, 40, 10])
    balanced = balanced_accuracy(predicted, labels)
    assert balanced.value == pytest.approx(0.8) and balanced.high - balanced.low == pytest.approx(2 * 1.96 * 0.5 * math.sqrt(0.16 / 100 + 0.16 / 50), rel=0.12)


@pytest.mark.parametrize("recalls", [(0.5, 0.9, 0.1), (1.0, 0.0, 0.95), (0.97, 0.98, 0.99)])
def test_the_interval_of_balanced_accuracy_holds_the_truth_as_often_as_it_says(recalls: tuple[float, ...]) -> None:
    rng, counts = np.random.default_rng(1), (12, 25, 40)
    labels, held = np.repeat(np.arange(3), counts), 0
    for _ in range(1000):
        right = np.concatenate([rng.random(count) < recall for count, recall in zip(counts, recalls, strict=True)])
        found = balanced_accuracy(np.where(right, labels, 3), labels)
        held += found.low <= np.mean(recalls) <= found.high
    assert 900 <= held  # of 1,000: 914 in the last case, where a bootstrap's hold 696


def test_what_is_all_right_or_all_wrong_is_not_certain() -> None:
    labels = np.repeat([0, 1, 2], 8)
    right, constant = balanced_accuracy(labels, labels), balanced_accuracy(np.zeros(24, dtype=int), labels)
    assert right.value == right.high == 1 and right.low < 0.9 and constant.low < 0.25 and constant.high > 0.4
    names = [str(number) for number in range(12) for _ in range(5)]
    every, none = (clustered_share(np.full(60, value), names, of="images") for value in (True, False))
    assert (every.low, every.high) == wilson_interval(12, 12) and (none.low, none.high) == wilson_interval(0, 12) and every.n == 60
