"""Exports: what the other library gives equals ours, on images of tests' own; and where it does not, nothing is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import open_clip
import pytest
import timm
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers
from torch.nn.functional import normalize

from lcl.core.files import read_json, write_json
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.evals.evaluated import EvaluatedModel
from lcl.evals.zero_shot import text_features
from lcl.export import ExportConfig, main
from lcl.exports import timm_model
from lcl.exports.card import USE
from lcl.exports.check import require_equal
from lcl.exports.open_clip_tower import register_tower
from lcl.exports.timm_names import from_timm, to_timm
from lcl.features import Encoder, load_encoder, load_model
from lcl.text import TextConfig
from lcl.vision import PIXEL_MEAN, PIXEL_STD, Tower, normalise
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.made_encoders import FLEXIBLE, SQUARE, checkpoint_of, random_model, seeded

SETTINGS = {"vit": SQUARE, "naflex": FLEXIBLE}
TARGETS = ("timm", "hf", "open_clip", "onnx")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: checkpoint_of(random_model(settings), tmp_path_factory.mktemp(kind) / "step-1") for kind, settings in SETTINGS.items()}


@pytest.fixture(scope="module")
def exported(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Each export of each kind, made when it is asked for first."""
    folder = tmp_path_factory.mktemp("exported")

    class Exports(dict):
        def __missing__(self, key: tuple[str, str]) -> Path:
            kind, to = key
            main(ExportConfig(checkpoint=str(checkpoints[kind]), to=to, output=str(folder / f"{kind}_{to}")))
            self[key] = folder / f"{kind}_{to}"
            return self[key]

    return Exports()


def images(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=seeded(7))


@torch.no_grad()
@pytest.mark.parametrize("kind", SETTINGS)
def test_timm_loads_it(kind: str, checkpoints: dict[str, Path], exported: dict) -> None:
    """Also at another size: positions are resized there as here."""
    folder, ours = exported[kind, "timm"], load_encoder(checkpoints[kind])
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert isinstance(model, timm.models.VisionTransformer if kind == "vit" else timm.models.NaFlexVit)
    for size in ((16, 16), (24, 12)):
        features, inputs = ours(images(*size)), normalise(images(*size), dtype=torch.float32)
        torch.testing.assert_close(model.forward_features(inputs)[:, -features.tokens.shape[1] :], features.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(inputs), features.tokens.mean(dim=1), atol=1e-5, rtol=1e-5)
    record = read_json(folder / "config.json")
    data = timm.data.resolve_model_data_config(model)
    assert "num_classes" not in record["model_args"] and record["pretrained_cfg"]["tag"] == "lcl" and "license" not in record["pretrained_cfg"]
    assert (tuple(data["mean"]), tuple(data["std"]), tuple(data["input_size"]), data["crop_pct"]) == (PIXEL_MEAN, PIXEL_STD, (3, 16, 16), 1.0)


@torch.no_grad()
@pytest.mark.parametrize("kind", SETTINGS)
def test_transformers_load_the_same_folder(kind: str, checkpoints: dict[str, Path], exported: dict) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder, features = exported[kind, "hf"], load_encoder(checkpoints[kind])(images())
    model = AutoModel.from_pretrained(folder).eval()
    found = model(normalise(images(), dtype=torch.float32))
    torch.testing.assert_close(found.last_hidden_state[:, -16:], features.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooler_output, features.tokens.mean(dim=1), atol=1e-5, rtol=1e-5)
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "TimmWrapperImageProcessor" and not list(folder.glob("*.py"))
    beside = exported[kind, "timm"]
    assert all((folder / name).read_bytes() == (beside / name).read_bytes() for name in ("config.json", "model.safetensors", "pooling.safetensors"))


@torch.no_grad()
@pytest.mark.parametrize("to", ["timm", "hf", "open_clip"])
@pytest.mark.parametrize("kind", SETTINGS)
def test_load_encoder_gives_the_checkpoints_features_again(kind: str, to: str, checkpoints: dict[str, Path], exported: dict) -> None:
    """Bit for bit, pooled latents too, which timm and transformers do not know."""
    again, ours = load_encoder(exported[kind, to]), load_encoder(checkpoints[kind])
    found, features = again(images(9, 21), layers=(1,)), ours(images(9, 21), layers=(1,))
    assert torch.equal(found.pooled, features.pooled) and torch.equal(found.tokens, features.tokens) and torch.equal(found.layers[0], features.layers[0])
    assert again.fingerprint == ours.fingerprint == read_json(exported[kind, to] / "lcl.json")["fingerprint"]


@torch.no_grad()
@pytest.mark.parametrize("kind", SETTINGS)
def test_onnxruntime_takes_any_number_of_images(kind: str, checkpoints: dict[str, Path], exported: dict) -> None:
    session = onnxruntime.InferenceSession(exported[kind, "onnx"] / "model.onnx", providers=["CPUExecutionProvider"])
    ours = load_encoder(checkpoints[kind])
    for count in (1, 2, 5):
        batch = torch.rand(count, 3, 16, 16, generator=seeded(count))
        pooled, tokens = session.run(["pooled", "tokens"], {"images": batch.numpy()})
        np.testing.assert_allclose(pooled, ours(batch).pooled.numpy(), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(tokens, ours(batch).tokens.numpy(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="is an export to onnx, a graph for onnxruntime: give the checkpoint"):
        load_encoder(exported[kind, "onnx"])


TEXTS = ["a photo of a dog", "Ünïcode: 1,024 <eot>", "so many words that " * 30 + "the start is lost"]


@torch.no_grad()
@pytest.mark.parametrize("kind", SETTINGS)
def test_open_clip_scores_images_and_texts_as_we_do(kind: str, checkpoints: dict[str, Path], exported: dict) -> None:
    folder = exported[kind, "open_clip"]
    assert register_tower(folder) == register_tower(folder)
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    theirs.eval()
    model, tokenizer = load_model(checkpoints[kind])
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert ids.shape == (3, 16) and ids[0, 0] == tokenizer.sot and (ids == tokenizer.eot).sum(dim=1).tolist() == [1, 1, 1]
    assert ids[2, 1:-1].tolist() == tokenizer.encode(TEXTS[2])[-14:]
    text = normalize(text_features(model, tokenizer, TEXTS), dim=-1)
    torch.testing.assert_close(theirs.encode_text(ids, normalize=True), text, atol=1e-5, rtol=1e-5)
    pooled = normalize(Encoder(model)(images()).pooled, dim=-1)
    torch.testing.assert_close(theirs.encode_image(normalise(images(), dtype=torch.float32), normalize=True), pooled, atol=1e-5, rtol=1e-5)
    assert float(theirs.logit_scale) == pytest.approx(float(model.logit_scale[0])) and text.std() > 0.05
    rows = theirs.text.token_embedding.weight
    assert torch.equal(rows[tokenizer.eot], rows[tokenizer.soi]) and torch.equal(rows[: tokenizer.eot], model.text.token_embedding.weight[: tokenizer.eot])


@torch.no_grad()
def test_a_shorter_context_changes_no_text_that_fits(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    main(ExportConfig(checkpoint=str(checkpoints["vit"]), to="open_clip", output=str(tmp_path / "short"), context_length=8))
    register_tower(tmp_path / "short")
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'short'}")
    model, tokenizer = load_model(checkpoints["vit"])
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'short'}")(["dog", "a cat"])
    assert ids.shape == (2, 8) and len(tokenizer.encode("a cat")) <= 6
    torch.testing.assert_close(theirs.eval().encode_text(ids), text_features(model, tokenizer, ["dog", "a cat"]), atol=1e-5, rtol=1e-5)


def byte_pairs(path: Path) -> Path:
    """A byte-level tokenizer.json with an added token and letters of both cases."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["a photo of a dog and a Photo"] * 20, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False))
    bpe.save(str(path))
    return path


def test_a_tokenizer_of_ones_own_goes_along(tmp_path: Path) -> None:
    settings = replace(SQUARE, tokenizer=TokenizerConfig(file=str(byte_pairs(tmp_path / "tokenizer.json"))))
    model, tokenizer = random_model(settings), Tokenizer(settings.tokenizer)
    checkpoint_of(model, tmp_path / "step-1")
    tokenizer.save(tmp_path / "step-1")
    main(ExportConfig(checkpoint=str(tmp_path / "step-1"), to="open_clip", output=str(tmp_path / "out")))
    assert str(tmp_path) not in (tmp_path / "out" / "lcl.json").read_text()
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["a Photo", "<s> dog"])
    for row, text in zip(ids.tolist(), ["a Photo", "<s> dog"], strict=True):
        wanted = [tokenizer.sot, *tokenizer.encode(text), tokenizer.eot]
        assert row == wanted + [tokenizer.image] * (16 - len(wanted))


def test_names_go_to_timm_and_back() -> None:
    state = Encoder(random_model(SQUARE)).visual.state_dict()
    there = to_timm(state, kind="vit")
    assert there.keys() == timm.create_model("vit_base_patch16_clip_224", num_classes=0, depth=3, fc_norm=False).state_dict().keys()
    back = from_timm(there, kind="vit")
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())


def test_towers_that_timm_builds_and_others() -> None:
    tower = Tower(16, 4, 24, 3, 8, 4.0)
    assert timm_model._architecture(replace(tower, options=(("quick_gelu", True),)), "ViT-B-32-quickgelu") == "vit_base_patch16_clip_quickgelu_224"
    for options in ((("ls_init_value", 0.1),), (("act_kwargs", {"approximate": "tanh"}),), (("norm_kwargs", {"eps": 1e-6}),)):
        with pytest.raises(ValueError, match="the tower of open_clip's X has .*, which timm's vision transformer does not build: take --to open_clip or onnx"):
            timm_model._architecture(replace(tower, options=options), "X")


def test_what_counts_as_equal() -> None:
    values = torch.tensor([0.5, -0.25])
    assert require_equal(values, values, what="it") == 0
    assert require_equal(values * 100 + 4e-4, values * 100, what="it") == pytest.approx(8e-6, rel=0.02), "a share of the largest value"
    for wrong in (values + 2e-5, values * torch.nan, values[:1]):
        with pytest.raises(ValueError, match="it (differs by|has shape) .*: nothing was written"):
            require_equal(wrong, values, what="it")


@pytest.mark.parametrize("to", TARGETS)
def test_nothing_is_left_of_an_export_that_differs(to: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own features are falsified here, so that they are no longer those of what was written."""
    own = Encoder.forward

    def changed(self: Encoder, images: torch.Tensor, layers: tuple[int, ...] = ()) -> Any:
        features = own(self, images, layers)
        return features if torch.compiler.is_exporting() else replace(features, tokens=features.tokens + 2e-4, pooled=features.pooled + 2e-2 * torch.arange(32))

    monkeypatch.setattr(Encoder, "forward", changed)
    with pytest.raises(ValueError, match="differs by .*, more than 1e-05: nothing was written"):
        main(ExportConfig(checkpoint=str(checkpoints["vit"]), to=to, output=str(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = str(checkpoints["vit"])
    llama = replace(SQUARE, text=TextConfig(kind="llama", context_length=16, width=32, layers=1, heads=2))
    other = checkpoint_of(random_model(llama), tmp_path / "llama")
    write_json(tmp_path / "result.json", {"schema": "other"})
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.iterdir())
    for options, message in [
        ({"checkpoint": str(other), "to": "open_clip"}, "is a llama, and open_clip's text tower only --model.text.kind clip: export the image side"),
        ({"to": "open_clip", "context_length": 17}, "--context-length 17: the language model reads 3 to 16 tokens"),
        ({"to": "timm", "context_length": 8}, "--context-length is for --to open_clip"),
        ({"to": "timm", "output": str(tmp_path / "there")}, "there is there already: remove it"),
        ({"to": "timm", "results": (str(tmp_path / "none.json"),)}, "none.json: no such result; `lcl eval"),
        ({"to": "timm", "results": (str(tmp_path / "result.json"),)}, "result.json is no result of an evaluation"),
    ]:
        with pytest.raises(ValueError, match=message):
            main(ExportConfig(**{"checkpoint": checkpoint, "output": str(tmp_path / "out"), **options}))
        assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_export_is_refused(exported: dict, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported["vit", "timm"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    load_encoder(folder)
    (folder / "pooling.safetensors").write_bytes((folder / "pooling.safetensors").read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="pooling.safetensors is damaged"):
        load_encoder(folder)


def test_the_card(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    row = {"model": "trained model", "metric": "accuracy", "value": 0.61, "low": 0.5, "high": 0.702, "n": 100, "interval": "Wilson"}
    rows = [row, row | {"unit": "rank", "metric": "median rank", "value": 12}, row | {"model": "chance", "interval": "exact"}]
    measured = {"path": "boats-run", "weights": "model", "weights_sha256": EvaluatedModel.open(checkpoints["vit"]).sha256}
    result = {"schema": "lcl-evaluation/2", "task": "kNN", "dataset": {"name": "boats"}, "model": measured, "rows": rows}
    write_json(tmp_path / "result.json", result)
    write_json(tmp_path / "other.json", result | {"model": measured | {"weights_sha256": "0" * 64}})
    with pytest.raises(ValueError, match="other.json was measured on other weights"):
        main(ExportConfig(checkpoint=str(checkpoints["vit"]), to="timm", output=str(tmp_path / "encoder"), results=(str(tmp_path / "other.json"),)))
    main(ExportConfig(checkpoint=str(checkpoints["vit"]), to="timm", output=str(tmp_path / "encoder"), results=(str(tmp_path / "result.json"),), licence="CC-BY-4.0"))
    card = (tmp_path / "encoder" / "README.md").read_text()
    for part in (
        "license: cc-by-4.0", "# encoder: an LCL vision encoder", "vit, 3 blocks, width 24, patches of 4 px, trained at 16 px", load_encoder(checkpoints["vit"]).fingerprint, "source.pt as",
        "| kNN | boats | trained model | accuracy | 61.0% | 50.0% to 70.2% | 100 |", "| median rank | 12.0 |", "| chance | accuracy | 61.0% |  | 100 |", "## Limits", "lcl at commit `",
    ):  # fmt: skip
        assert part in card, part
    assert read_json(tmp_path / "encoder" / "config.json")["pretrained_cfg"]["license"] == "cc-by-4.0"
    main(ExportConfig(checkpoint=str(tmp_path / "encoder"), to="hf", output=str(tmp_path / "again")))
    trained = [text.partition("## Training")[2].partition("## Results")[0] for text in (card, (tmp_path / "again" / "README.md").read_text())]
    assert "source.pt as" in trained[0] and trained[0] == trained[1], "an export of an export says what both come from"


@pytest.mark.parametrize("to", TARGETS)
def test_the_lines_of_the_card_run(to: str, exported: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported["vit", to]
    monkeypatch.chdir(folder.parent)
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert code.strip() == USE[to].replace("FOLDER", folder.name).replace("SIDE", "16") and len([line for line in code.splitlines() if line]) <= 6
    exec(code, {})  # our own lines
    assert "torch.Size([1, " in (said := capsys.readouterr().out) or "(2, 32) (2, 16, 24)" in said
    readme = (ROOT / "README.md").read_text()
    assert USE[to].replace("FOLDER", f"demo/{to}").replace("SIDE", "32") in readme, "the README shows the same lines"


def test_the_command(run: Run, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    result = run("lcl", "export", "--checkpoint", checkpoints["vit"], "--to", "timm", "--output", tmp_path / "out")
    assert result.returncode == 0 and "features differ from ours by at most" in result.stderr, result.stderr
    assert_one_line_error(run("lcl", "export", "--checkpoint", checkpoints["vit"], "--to", "timm", "--output", tmp_path / "out"), "is there already")
