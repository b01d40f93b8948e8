"""`lcl score`: similarities against float64 by hand, ONNX models made here, and pictures that are told apart from end to end."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
from PIL import Image

from lcl.core.document import TextSegment, content_hash, sha256_hex
from lcl.core.files import read_json
from lcl.core.images import decode_image, encode_jpeg, to_pixels
from lcl.core.scores import NO, SCORES
from lcl.core.shards import ShardSet
from lcl.core.text_units import text_units
from lcl.crops import Crop, centre_box, cut
from lcl.evals.zero_shot import text_features
from lcl.features import Encoder
from lcl.onnx_scorer import OnnxConfig
from lcl.scorers import cosines
from lcl.scoring import ScoreConfig, score_set
from pipeline.tools.applying import ApplyConfig, apply_to_set
from tests.conftest import Run
from tests.made_encoders import toy_checkpoint
from tests.made_shards import file_bytes, file_states, made_document, made_image, made_set

DOCUMENTS = [made_document(number) for number in range(8)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_set(tmp_path_factory.mktemp("set") / "shards", DOCUMENTS, per_shard=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_checkpoint(tmp_path_factory.mktemp("model") / "toy")


def score(source: Path, output: Path, **options: Any) -> list[dict[str, Any]]:
    score_set(ScoreConfig(shards=(str(source),), output=str(output), **options))
    files = [output / name for name in read_json(output / "scores.json")["sha256"]]
    return [row for file in files for row in pq.read_table(file, schema=SCORES).to_pylist()]


def test_similarities_are_the_cosines_of_a_model_in_float64(source: Path, checkpoint: Path, tmp_path: Path) -> None:
    from lcl.features import load_model

    rows = score(source, tmp_path / "s", checkpoint=str(checkpoint))
    model, tokenizer = load_model(checkpoint)
    model = model.double()
    encoder = Encoder(model)
    found = {(row["key"], row["image"], row["text"]): row["value"] for row in rows}
    expected = {}
    for made in DOCUMENTS:
        texts = [item.text for item in text_units(made, "paragraph")]
        for number, image in enumerate(made.images):
            picture = decode_image(image.data, draft_px=encoder.image_px)
            pixels = to_pixels(cut(picture, Crop(centre_box(*picture.size), (1, 1)), patch_px=encoder.image_px))
            vector = encoder(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() / 255).pooled[0].numpy()
            for text, other in enumerate(text_features(model, tokenizer, texts).numpy()):
                expected[made.key, number, text] = vector @ other / np.sqrt((vector @ vector) * (other @ other))
    assert found.keys() == expected.keys() and len(expected) > 15
    assert max(abs(found[place] - expected[place]) for place in expected) < 1e-5
    assert len({round(value, 4) for value in expected.values()}) > 10
    contents = {made.key: content_hash(made) for made in DOCUMENTS}
    assert all(row["content"] == contents[row["key"]] for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no CUDA device")
def test_a_device_that_is_not_there_is_refused(source: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--device cuda: PyTorch sees no such device here"):
        score(source, tmp_path / "s", checkpoint=str(checkpoint), device="cuda")


def test_cosines_of_known_vectors() -> None:
    found = cosines(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.array([[1.0, 0.0], [0.0, 2.0]], np.float32))
    assert np.allclose(found, [[0.6, 0.8], [0.0, 0.0]])


def test_interrupted_and_run_again_gives_the_same_bytes(source: Path, checkpoint: Path, tmp_path: Path) -> None:
    score(source, tmp_path / "a", checkpoint=str(checkpoint))
    before = file_states(tmp_path / "a")
    for name in ("scores.json", "scores-000001.parquet"):  # as a kill leaves it
        (tmp_path / "a" / name).unlink()
    with pytest.raises(ValueError, match="holds no scores: .* let it finish"):
        apply_to_set(ApplyConfig(shards=(str(source),), output=str(tmp_path / "b"), similarities=str(tmp_path / "a")))
    score(source, tmp_path / "a", checkpoint=str(checkpoint))
    after = file_states(tmp_path / "a")
    assert {name: data for name, (data, _) in before.items()} == {name: data for name, (data, _) in after.items()}
    assert after["scores-000000.parquet"] == before["scores-000000.parquet"]
    with pytest.raises(ValueError, match="holds scores of other documents or settings"):
        score(source, tmp_path / "a", checkpoint=str(checkpoint), unit="sentence")


# ---- ONNX: vectors are mean colours, and texts the colours that they name

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "grey": (128, 128, 128)}


def of_mean_colour(path: Path, *, weights: np.ndarray | None = None, batch: int | str = "n", layout: str = "nchw") -> Path:
    """An ONNX file that gives the mean of each channel, or that times `weights` (3 x columns)."""
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx and the package onnx")
    shape = [batch, 3, 8, 8] if layout == "nchw" else [batch, 8, 8, 3]
    nodes = [onnx.helper.make_node("ReduceMean", ["pixels", "axes"], ["mean" if weights is not None else "out"], keepdims=0)]
    constants = [onnx.numpy_helper.from_array(np.array([2, 3] if layout == "nchw" else [1, 2]), "axes")]
    if weights is not None:
        nodes.append(onnx.helper.make_node("MatMul", ["mean", "weights"], ["out"]))
        constants.append(onnx.numpy_helper.from_array(weights.astype(np.float32), "weights"))
    return save_onnx(path, nodes, [("pixels", onnx.TensorProto.FLOAT, shape)], constants)


def of_named_colours(path: Path, words: list[str]) -> Path:
    """An ONNX file that gives the sum of the colours, in [-1, 1], of the words that are colours."""
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx and the package onnx")
    table = np.array([np.array(COLOURS[word]) / 127.5 - 1 if word in COLOURS else (0, 0, 0) for word in words], np.float32)
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["vectors"]), onnx.helper.make_node("Cast", ["attention_mask"], ["mask"], to=1),
        onnx.helper.make_node("Unsqueeze", ["mask", "last"], ["column"]), onnx.helper.make_node("Mul", ["vectors", "column"], ["masked"]),
        onnx.helper.make_node("ReduceSum", ["masked", "places"], ["out"], keepdims=0),
    ]  # fmt: skip
    constants = [onnx.numpy_helper.from_array(values, name) for name, values in {"table": table, "places": np.array([1]), "last": np.array([2])}.items()]
    return save_onnx(path, nodes, [(name, onnx.TensorProto.INT64, ["n", "length"]) for name in ("ids", "attention_mask")], constants)


def save_onnx(path: Path, nodes: list, inputs: list[tuple], constants: list) -> Path:
    import onnx

    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    described = [onnx.helper.make_tensor_value_info(*item) for item in inputs]
    output = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "made", described, [output], constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


WORDS = ["<pad>", "<unk>", "a", "wall", *COLOURS]


def make_pair(folder: Path, **options: Any) -> OnnxConfig:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return OnnxConfig(
        image=str(of_mean_colour(folder / "image.onnx", **options)), text=str(of_named_colours(folder / "text.onnx", WORDS)),
        tokenizer=str(folder / "tokenizer.json"), text_length=6, side_px=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), layout=options.get("layout", "nchw"),
    )  # fmt: skip


def plain(colour: str, number: int = 0) -> Any:
    """A picture of one colour."""
    data = encode_jpeg(Image.new("RGB", (24, 16), COLOURS[colour]), quality=95)
    image = made_image(number)
    return replace(image, data=data, metadata=replace(image.metadata, sha256=sha256_hex(data), alt=colour))


@pytest.fixture
def walls(tmp_path: Path) -> Path:
    """A document of four walls behind its text, one of them grey, and no text of a grey one."""
    made = made_document(1)
    text = "\n\n".join(f"a {colour} wall" for colour in ("red", "green", "blue", "yellow"))
    pictures = [plain(colour, number) for number, colour in enumerate(("blue", "grey", "red", "yellow"))]
    return made_set(tmp_path / "walls", [replace(made, segments=(TextSegment(text), *pictures), order="none")])


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"batch": 1, "layout": "nhwc"}], ids=str)
def test_pictures_find_their_texts_and_those_without_one_are_told_apart(walls: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    rows = score(walls, tmp_path / "s", onnx=make_pair(tmp_path, **options))
    values = np.array([row["value"] for row in rows]).reshape(4, 4)
    wanted = {colour: np.array(COLOURS[colour]) / 127.5 - 1 for colour in COLOURS}
    for row, image in zip(values, ("blue", "grey", "red", "yellow"), strict=True):
        for value, text in zip(row, ("red", "green", "blue", "yellow"), strict=True):
            if image != "grey":  # of next to no colour: its direction is rounding
                assert value == pytest.approx(wanted[image] @ wanted[text] / (np.linalg.norm(wanted[image]) * np.linalg.norm(wanted[text])), abs=0.03)
    command = ApplyConfig(shards=(str(walls),), output=str(tmp_path / "b"), similarities=str(tmp_path / "s"), assign="unordered", min=("similarity=0.9",))
    report = apply_to_set(command)
    (document,) = ShardSet([tmp_path / "b"])
    assert [item.text if item.kind == "text" else item.metadata.alt for item in document.segments] == [
        "red", "a red wall\n\na green wall", "blue", "a blue wall", "yellow", "a yellow wall",
    ]  # fmt: skip
    assert report["images"]["dropped"] == {"image_score": 1} and document.scores["similarity_min"] > 0.97


def test_an_image_model_gives_one_score_of_each_image(walls: Path, tmp_path: Path) -> None:
    weights = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.5]])
    path = str(of_mean_colour(tmp_path / "nsfw.onnx", weights=weights))
    base = OnnxConfig(image=path, side_px=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    (document,) = ShardSet([walls])
    means = np.stack([to_pixels(decode_image(image.data)).reshape(-1, 3).mean(axis=0) / 255 for image in document.images])
    logits = means @ weights
    for name, options, expected in (
        ("none", {"column": 1}, logits[:, 1]),
        ("sigmoid", {"activation": "sigmoid"}, 1 / (1 + np.exp(-logits[:, 0]))),
        ("softmax", {"activation": "softmax", "column": 1}, np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)),
    ):
        rows = score(walls, tmp_path / name, onnx=replace(base, **options))
        assert [(row["image"], row["text"]) for row in rows] == [(number, NO) for number in range(4)]
        assert [row["value"] for row in rows] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="--onnx.column 2: the output of .* has 2 columns"):
        score(walls, tmp_path / "e", onnx=replace(base, column=2))


def test_preprocessing_is_as_said(tmp_path: Path) -> None:
    """Left half red, right half blue: all of it, or its centre; each interpolation is Pillow's."""
    picture = Image.new("RGB", (40, 16), COLOURS["red"])
    picture.paste(COLOURS["blue"], (14, 0, 40, 16))
    data = encode_jpeg(picture, quality=95)
    image = replace(made_image(0), data=data)
    folder = made_set(tmp_path / "a", [replace(made_document(1), segments=(TextSegment("a"), image))])
    path = str(of_mean_colour(tmp_path / "m.onnx", weights=np.array([[1.0], [0.0], [0.0]])))
    base = OnnxConfig(image=path, side_px=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for fit, box in (("centre", (12, 0, 28, 16)), ("squash", (0, 0, 40, 16))):
        for interpolation in ("bicubic", "bilinear", "lanczos", "nearest"):
            (row,) = score(folder, tmp_path / f"{fit}-{interpolation}", onnx=replace(base, fit=fit, interpolation=interpolation))
            decoded = decode_image(data, draft_px=8)
            resized = decoded.resize((8, 8), Image.Resampling[interpolation.upper()], box=tuple(side * decoded.width / 40 for side in box))
            assert row["value"] == pytest.approx(to_pixels(resized)[:, :, 0].mean() / 255, abs=1e-6)
        assert row["value"] == pytest.approx({"centre": 2 / 16, "squash": 14 / 40}[fit], abs=0.08)


def no_onnx(folder: Path) -> dict[str, Any]:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    (folder / "x.onnx").write_bytes(b"nothing")
    return {"onnx": OnnxConfig(image=str(folder / "x.onnx"))}


def wrong_side(folder: Path) -> dict[str, Any]:
    return {"onnx": replace(make_pair(folder), side_px=9)}


def two_inputs(folder: Path) -> dict[str, Any]:
    return {"onnx": OnnxConfig(image=make_pair(folder).text)}


def halves_of_two_models(folder: Path) -> dict[str, Any]:
    pair = make_pair(folder)
    return {"onnx": replace(pair, image=str(of_mean_colour(folder / "other.onnx", weights=np.ones((3, 2)))))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda folder: {}, "give either --checkpoint, .* or --onnx.image"),
        (lambda folder: {"checkpoint": "a", "onnx": OnnxConfig(image="b")}, "give either --checkpoint"),
        (lambda folder: {"checkpoint": str(folder / "none")}, "none: no such run or checkpoint folder"),
        (lambda folder: {"onnx": OnnxConfig(image="none.onnx")}, r"none.onnx: no such file \(--onnx.image\)"),
        (lambda folder: {"onnx": OnnxConfig(image="none.onnx", text="b")}, "--onnx.text and --onnx.tokenizer go together"),
        (lambda folder: {"onnx": OnnxConfig(image="none.onnx", std=(1.0, 0.0, 1.0))}, "--onnx.std .* has a zero"),
        (no_onnx, "x.onnx cannot be read as an ONNX model"),
        (wrong_side, r"image.onnx does not take pixels \(\d+, 3, 9, 9\) .*--onnx.side-px, layout and text-length must be the model's"),
        (two_inputs, "text.onnx has the inputs ids, attention_mask: --onnx.image takes one; export it so"),
        (halves_of_two_models, "images have vectors of 2 numbers, texts of 3: give the two halves of one model"),
        (lambda folder: {"onnx": replace(make_pair(folder), image_output="pooled")}, "image.onnx has the outputs out: say which with --onnx.image-output"),
        (lambda folder: {"onnx": replace(make_pair(folder), tokenizer=str(folder / "image.onnx"))}, "image.onnx is no tokenizer.json"),
        (lambda folder: {"onnx": make_pair(folder), "device": "cuda"}, "--device cuda: this onnxruntime has only"),
    ],
)  # fmt: skip
def test_mistakes_are_refused(source: Path, tmp_path: Path, options: Callable[[Path], dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(source, tmp_path / "s", **options(tmp_path))


def test_without_onnxruntime_its_installation_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"pip install 'lcl\[onnx\]'"):
        score(source, tmp_path / "s", onnx=OnnxConfig(image=str(tmp_path / "x.onnx")))


def test_as_a_command(run: Run, source: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ("python", "-m", "lcl.cli", "score", "--shards", source, "--checkpoint", checkpoint, "--output", tmp_path / "s")
    result = run(*words)
    assert result.returncode == 0 and "scores of pairs in 8 documents" in result.stdout, result.stderr
    assert read_json(tmp_path / "s" / "scores.json")["unit"] == "paragraph" and len(file_bytes(tmp_path / "s")) == 4
