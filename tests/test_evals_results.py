"""What evaluations write and compare; every command once, on a toy model."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lcl import eval_knn
from lcl.core.files import read_json, write_json
from lcl.evals.all_tasks import AllTasksConfig, evaluate_all
from lcl.evals.attentive_probe import AttentiveProbeConfig
from lcl.evals.classification import evaluate_few_shot, evaluate_knn, evaluate_linear, evaluate_zero_shot
from lcl.evals.compare import compare, mcnemar
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.few_shot import FewShotConfig
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.evals.intervals import share
from lcl.evals.knn import KnnConfig
from lcl.evals.linear_probe import LinearProbeConfig
from lcl.evals.results import Predictions, Result, Row, check_output, publish, read_predictions, read_result
from lcl.evals.retrieval import evaluate_retrieval
from tests.conftest import Run, assert_one_line_error
from tests.made_checkpoint import COLOURS, made_checkpoint, made_picture, made_pictures, write_files

LINEAR = LinearProbeConfig(strengths=(0.01, 1.0))
KNN = KnnConfig(neighbours=(3, 5))
FEW = FewShotConfig(shots=(1, 3, 25))
ATTENTIVE = AttentiveProbeConfig(learning_rates=(1e-2,), weight_decays=(0.0,), steps=60, batch=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return EvaluatedModel.open(made_checkpoint(tmp_path_factory.mktemp("model") / "step-000007"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("images") / "colours", made_pictures({"train": 10, "validation": 4, "test": 12}))


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageSet:
    return open_image_set(folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


def test_all_protocols_find_colours_and_none_finds_shuffled_labels(model: EvaluatedModel, images: ImageSet, cache: FeatureCache) -> None:
    settings = AllTasksConfig(attentive=ATTENTIVE, linear=LINEAR, knn=KNN, few_shot=FEW)
    results = dict(evaluate_all(model, images, cache, settings=settings))
    assert list(results) == ["attentive_probe", "linear_probe", "knn", "few_shot", "zero_shot"]
    for name in ("attentive_probe", "linear_probe", "knn"):
        result = results[name]
        models = [row.model for row in result.rows if row.metric == "accuracy"]
        assert models == ["trained encoder", "shuffled labels", "random weights", "raw pixels (16 x 16)", "most frequent class", "chance"]
        assert result.value("trained encoder") > 0.8 > 0.6 > result.value("shuffled labels") and result.value("chance") == pytest.approx(1 / 3)
        assert all(row.estimate.low <= row.estimate.value <= row.estimate.high for row in result.rows)
        assert result.sweeps["trained encoder"]["chosen_on"] == "validation (official)"
    few, zero = results["few_shot"], results["zero_shot"]
    assert few.left_out == ["25 shots: blue has 14 training images"] and few.seeds == [0, 1, 2]
    assert few.value("trained encoder", "3-shot accuracy") > few.value("shuffled labels", "3-shot accuracy") + 0.2
    assert {row.metric for row in zero.rows} == {"accuracy", "balanced accuracy"} and {"trained encoder", "random weights"} < {row.model for row in zero.rows}


def test_test_labels_choose_nothing_and_controls_can_be_left_out(model: EvaluatedModel, images: ImageSet, cache: FeatureCache) -> None:
    labels = images.labels.copy()
    test = images.split("test")
    labels[test] = np.roll(labels[test], 1)
    other = ImageSet(images.name, images.classes, images.templates, images.ids, labels, images.captions, images.splits, images.readers)
    for evaluate, settings in ((evaluate_linear, LINEAR), (evaluate_knn, KNN)):
        one, two = (evaluate(model, given, cache, settings=settings, controls=()) for given in (images, other))
        assert one.sweeps == two.sweeps and list(one.predictions[0].predicted) == list(two.predictions[0].predicted) and len(one.predictions) == 1
        assert {row.model for row in one.rows} == {"trained encoder", "most frequent class", "chance"}


def test_without_an_official_validation_split_one_is_drawn_by_the_seed(model: EvaluatedModel, cache: FeatureCache, tmp_path: Path) -> None:
    images = open_image_set(write_files(tmp_path / "set", made_pictures({"train": 10, "test": 3})))
    result = evaluate_linear(model, images, cache, seed=4, settings=LINEAR)
    assert result.dataset["validation"] == "20% of train, drawn within each class, seed 4" and result.seeds == [4]
    single = open_image_set(write_files(tmp_path / "single", made_pictures({"train": 1, "test": 1})))
    for evaluate in (evaluate_linear, evaluate_few_shot):
        with pytest.raises(ValueError, match="every class needs at least 2 training images"):
            evaluate(model, single, cache)
    alone = open_image_set(write_files(tmp_path / "alone", {f"{split}/red/{number}.png": made_picture("red", number) for split in ("train", "test") for number in range(2)}))
    with pytest.raises(ValueError, match="its training images are of one class"):
        evaluate_linear(model, alone, cache)
    untaught = open_image_set(write_files(tmp_path / "untaught", made_pictures({"train": 4, "test": 2}) | {"test/Red/0.png": made_picture("red", 0)}))
    with pytest.raises(ValueError, match="untaught: Red: test images and no training images"):
        evaluate_knn(model, untaught, cache)
    few = open_image_set(write_files(tmp_path / "few", made_pictures({"train": 2, "test": 1})))
    with pytest.raises(ValueError, match=r"blue has 2 training images: lower --few-shot.shots \(5\)"):
        evaluate_few_shot(model, few, cache, settings=FewShotConfig(shots=(5,)))


def captioned(path: Path, said: str = "it is") -> Path:
    """Two captions for each test image."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(12):
            colour = sorted(COLOURS)[number % 3]
            for name, data in ((f"{number:02d}.png", made_picture(colour, number)), (f"{number:02d}.txt", f"a {colour} thing {number}\n{said} {colour}\n".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_retrieval_both_ways_with_two_captions(model: EvaluatedModel, cache: FeatureCache, tmp_path: Path) -> None:
    result = evaluate_retrieval(model, open_image_set(captioned(tmp_path / "test.tar")), cache)
    assert result.protocol["num_captions"] == 24 and result.protocol["num_images"] == 12
    n = {row.metric: row.estimate.n for row in result.rows if row.model == "trained encoder"}
    assert n == {f"{way} R@{k}": count for way, count in (("image to text", 12), ("text to image", 24)) for k in (1, 5, 10)}
    assert result.value("chance", "image to text R@1") == pytest.approx(2 / 24) and result.value("chance", "text to image R@5") == pytest.approx(5 / 12)
    ways = {one.metric: one for one in result.predictions if one.model == "trained encoder"}
    assert len(set(ways["text to image R@1"].clusters)) == 12
    others = evaluate_retrieval(model, open_image_set(captioned(tmp_path / "more" / "test.tar", "this is")), cache, controls=())
    assert others.dataset["index_sha256"] != result.dataset["index_sha256"], "with other captions it is another task, which `compare` refuses"
    with pytest.raises(ValueError, match="fewer than two of its test images have captions"):
        evaluate_retrieval(model, open_image_set(write_files(tmp_path / "set", made_pictures({"test": 1}))), cache)


def made_result(right: list[bool], *, task: str = "linear probe", index: str = "i", items: list[str] | None = None, clusters: tuple[str, ...] = (), seeds: int = 1) -> Result:
    items = items or [str(number) for number in range(len(right))]
    words = ["a" if one else "b" for one in right]
    predictions = [Predictions("trained encoder", "accuracy", items, ["a"] * len(right), words, right, [0.5] * len(right), seed=seed, clusters=clusters) for seed in range(seeds)]
    rows = [Row("trained encoder", "accuracy", share(sum(right), len(right)))]
    return Result(task, {"name": "x", "index_sha256": index}, {"path": "p", "weights_sha256": "0" * 64}, {}, rows, predictions, [0], 0.1)


def test_mcnemar_by_hand() -> None:
    """b = 1, c = 6: p = 2 (C(7, 0) + C(7, 1)) / 2^7 = 16 / 128."""
    first, second = np.array([True] * 3 + [False] * 8), np.array([True, True, False] + [True] * 6 + [False] * 2)
    assert mcnemar(first, second) == (1, 6, pytest.approx(16 / 128))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_a_comparison_is_paired_and_refuses_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = [True] * 3 + [False] * 8, [True, True, False] + [True] * 6 + [False] * 2
    cases = {
        "first": made_result(first), "second": made_result(second), "task": made_result(first, task="nearest neighbours"), "index": made_result(first, index="j"),
        "items": made_result(first[:5]), "seeds": made_result(second, seeds=2), "clusters": made_result(second, clusters=tuple("aabbccddeef")),
    }  # fmt: skip
    for name, result in cases.items():
        publish(result, tmp_path / f"{name}.json")
    (found,) = compare(tmp_path / "first.json", tmp_path / "second.json")
    assert (found.first, found.second) == (3 / 11, 8 / 11) and found.difference.value == pytest.approx(5 / 11) and found.p_value == pytest.approx(16 / 128)
    assert found.difference.low < 5 / 11 < found.difference.high and (found.only_first, found.only_second) == (1, 6)
    same = compare(tmp_path / "first.json", tmp_path / "first.json")[0]
    assert (same.difference.low, same.difference.high, same.p_value) == (0, 0, 1)
    for name, note in (("seeds", ""), ("clusters", "no independent coins")):
        other = compare(tmp_path / f"{name}.json", tmp_path / f"{name}.json")[0]
        assert note in other.p_value_note and other.difference.value == 0
    for name, message in (("task", "different tasks"), ("index", "different images"), ("items", r"different items of accuracy \(11 and 5\)")):
        with pytest.raises(ValueError, match=message):
            compare(tmp_path / "first.json", tmp_path / f"{name}.json")
    (tmp_path / "second.predictions.parquet").write_bytes((tmp_path / "seeds.predictions.parquet").read_bytes())
    with pytest.raises(ValueError, match="second.predictions.parquet is of another run than second.json"):
        compare(tmp_path / "first.json", tmp_path / "second.json")
    (tmp_path / "second.predictions.parquet").unlink()
    with pytest.raises(ValueError, match="second.predictions.parquet is missing"):
        read_predictions(tmp_path / "second.json")
    capsys.readouterr()


def test_a_result_says_all_that_made_it(model: EvaluatedModel, images: ImageSet, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    publish(evaluate_linear(model, images, cache, settings=LINEAR), tmp_path / "deep" / "linear.json")
    printed = capsys.readouterr().out
    assert "linear probe: colours" in printed and "raw pixels (16 x 16)" in printed and "intervals of accuracy: Wilson" in printed
    record = read_result(tmp_path / "deep" / "linear.json")
    assert record["dataset"]["splits"] == {"train": 30, "validation": 12, "test": 36} and len(record["dataset"]["index_sha256"]) == 64
    assert record["model"]["step"] == 7 and record["protocol"]["settings"]["refit"] == "train+validation" and record["protocol"]["preprocessing"]["cut"] == "centred square, 16 px"
    assert {"commit", "command", "versions"} <= set(record["environment"]) and record["seconds"] > 0 and record["seeds"] == [0]
    assert [set(entry) for entry in record["sweeps"]["random weights"]["tried"]] == [{"C", "validation_accuracy"}] * 2
    table = pq.read_table(tmp_path / "deep" / "linear.predictions.parquet")
    trained = [row for row in table.to_pylist() if row["model"] == "trained encoder"]
    assert len(trained) == 36 and {row["item"] for row in trained} == {images.ids[place] for place in images.split("test")}
    assert sum(row["right"] for row in trained) / 36 == record["rows"][0]["value"] and all((row["label"] == row["predicted"]) == row["right"] for row in trained)


def test_results_of_another_version_or_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    old = {"schema": "lcl-evaluation/1"}
    for content, message in ((old, "of another version .* run its evaluation again"), ([], "is no result of an evaluation"), ({"schema": "y"}, "is no result")):
        write_json(path, content)
        with pytest.raises(ValueError, match=message):
            read_result(path)
    with pytest.raises(ValueError, match="no such result"):
        read_result(tmp_path / "nothing.json")
    for name in ("result", "result.txt"):
        with pytest.raises(ValueError, match="give one that ends in .json"):
            check_output(tmp_path / name)
    for content in ("{}", "no JSON", '{"schema": "lcl-comparison/1"}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="x.json is there and holds something else"):
            check_output(path)
    write_json(path, old | {"task": "linear probe"})
    assert check_output(path) == check_output(path, task="linear probe") == path
    with pytest.raises(ValueError, match="x.json is there and holds something else .nearest neighbours would"):
        check_output(path, task="nearest neighbours")
    (tmp_path / "y.predictions.parquet").write_text("precious")
    with pytest.raises(ValueError, match="y.predictions.parquet is there and holds no predictions"):
        check_output(tmp_path / "y.json")


def test_commands(run: Run, model: EvaluatedModel, folder: Path, tmp_path: Path) -> None:
    common = ["--checkpoint", model.path, "--data", folder]
    small = ["--tasks.attentive.steps", 3, "--tasks.linear.strengths", "0.1", "--tasks.knn.neighbours", 5, "--tasks.few-shot.shots", 1, 2]
    result = run("lcl", "eval", "all", *common, "--output", tmp_path / "all", *small)
    assert result.returncode == 0, result.stderr
    assert {path.stem for path in (tmp_path / "all").glob("*.json")} == {"attentive_probe", "linear_probe", "knn", "few_shot", "zero_shot"}
    of = {"checkpoint": str(model.path), "data": str(folder), "cache": str(tmp_path / "all" / "lcl-cache")}
    eval_knn.main(eval_knn.EvalKnnConfig(output=str(tmp_path / "knn.json"), knn=KnnConfig(neighbours=(3,)), controls=("random",), **of))
    assert "shuffled" not in (tmp_path / "knn.json").read_text()
    compared = run("lcl", "eval", "compare", tmp_path / "all" / "knn.json", tmp_path / "knn.json", "--output", tmp_path / "difference.json")
    assert compared.returncode == 0 and "McNemar" in compared.stdout, compared.stderr
    difference = read_json(tmp_path / "difference.json")
    assert difference["differences"][0]["n"] == 36 and difference["settings_apart"] == {"settings.neighbours": [[5], [3]]}
    assert "not the same in both: settings.neighbours, [5] and [3]" in compared.stdout
    onto_itself = run("lcl", "eval", "compare", tmp_path / "all" / "knn.json", tmp_path / "knn.json", "--output", tmp_path / "knn.json")
    assert_one_line_error(onto_itself, "knn.json is there and holds something else")
    refused = run("lcl", "eval", "compare", tmp_path / "all" / "linear_probe.json", tmp_path / "knn.json", "--output", tmp_path / "difference.json")
    assert_one_line_error(refused, "different tasks")
    assert json.loads((tmp_path / "knn.json").read_text())["predictions"]["file"] == "knn.predictions.parquet"


def test_zero_shot_alone_needs_no_training_images(model: EvaluatedModel, cache: FeatureCache, tmp_path: Path) -> None:
    images = open_image_set(write_files(tmp_path / "set", made_pictures({"test": 2})))
    assert evaluate_zero_shot(model, images, cache).rows[0].estimate.n == 6
    with pytest.raises(ValueError, match="set has no train split"):
        evaluate_knn(model, images, cache)
