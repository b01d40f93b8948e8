"""The authors' checkpoints: read in each wrapping, imported as checkpoints of ours, and refused in one line where they are something else."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from lcl import eval_zero_shot
from lcl.core.config import from_dict, to_dict
from lcl.core.files import read_json
from lcl.core.tokenizer import Tokenizer
from lcl.evals.results import read_result
from lcl.evals.settings import EvalConfig
from lcl.evals.zero_shot import text_features
from lcl.features import load_encoder, load_model
from lcl.import_published import PUBLISHED, SPECIAL_TOKENS, ImportPublishedConfig, find_config, main, write_folder
from lcl.model import LCL, ModelConfig
from lcl.published import load_published, published_config, read_weights
from lcl.start import StartConfig, load_start
from lcl.step_folders import check_folder
from lcl.text import TextConfig
from lcl.vision import VisionConfig
from tests.conftest import Run

SIZES = ModelConfig(
    embed_width=16, pool_heads=2,
    vision=VisionConfig(image_px=16, patch_px=8, width=16, layers=1, head_width=8),
    text=TextConfig(context_length=32, width=16, layers=1, heads=2),
)  # fmt: skip
TOKENIZER = Tokenizer(SIZES.tokenizer)


def record_of(settings: ModelConfig) -> dict[str, Any]:
    """The config in the authors' form, as a new one each time."""
    vision, text = settings.vision, settings.text
    return {
        "embed_dim": settings.embed_width,
        "vision_cfg": {
            "image_size": vision.image_px, "layers": vision.layers, "width": vision.width, "patch_size": vision.patch_px, "head_width": vision.head_width,
        },
        "text_cfg": {
            "context_length": text.context_length, "vocab_size": TOKENIZER.vocab_size, "width": text.width, "heads": text.heads, "layers": text.layers,
            "tokenizer_kwargs": {"additional_special_tokens": ["<img_placehold>", "<start_of_img>", "<end_of_img>"]},
        },
        "pool_project_cfg": {"pool_proj_type": "attn", "input_dim": vision.width, "output_dim": settings.embed_width, "attn_num_heads": settings.pool_heads},
        "special_token_ids": {name: getattr(TOKENIZER, field) for name, field in SPECIAL_TOKENS.items()},
        "custom_text": True,
    }  # fmt: skip


def write_weights(path: Path, state: dict[str, Tensor]) -> Path:
    """The state dict as a file: bare (.safetensors), or as open_clip's training writes it (.pt)."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        training = {"epoch": 1, "name": "LCL", "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98)}]}}
        torch.save(training | {"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return path


def write_json_file(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def model() -> LCL:
    """Random weights at which nothing is zero."""
    torch.manual_seed(0)
    model = LCL.for_tokenizer(SIZES, TOKENIZER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def files(model: LCL, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model as the authors would release it; their temperature has no axis."""
    folder = tmp_path_factory.mktemp("release")
    state = model.state_dict() | {"logit_scale": model.logit_scale.detach()[0]}
    return {"config": write_json_file(folder / "LCL_tiny.json", record_of(SIZES)), "weights": write_weights(folder / "tiny.pt", state)}


def import_files(files: dict[str, Path], output: Path) -> Path:
    main(ImportPublishedConfig(model_config=str(files["config"]), weights=str(files["weights"]), output=str(output)))
    return output


@pytest.fixture(scope="module")
def imported(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_files(files, tmp_path_factory.mktemp("imported") / "new" / "checkpoint")


@torch.no_grad()
@pytest.mark.parametrize("name", ["training.pt", "bare.safetensors"])
def test_features_of_the_official_model(name: str, shared: Path, tmp_path: Path) -> None:
    """Pooled latents that the official code computed (encode_image), to 1e-5."""
    with np.load(shared / "data" / "reference" / "lcl_tiny.npz") as file:
        reference = dict(file)
    config = write_json_file(tmp_path / "config.json", json.loads(str(reference["config"])))
    state = {key.removeprefix("sd/"): torch.from_numpy(value) for key, value in reference.items() if key.startswith("sd/")}
    model = load_published(config, write_weights(tmp_path / name, state))
    pooled = model.encode_images(torch.from_numpy(reference["images"]), ((4, 4),) * 5).pooled
    np.testing.assert_allclose(normalize(pooled, dim=-1).numpy(), reference["encode_image"], atol=1e-5, rtol=1e-5)
    assert len(state) == 78 and float(model.logit_scale.exp()) == pytest.approx(float(reference["logit_scale"]))
    with pytest.raises(ValueError, match="text_cfg.vocab_size is 200, .* make 49411: only a model with the released ones' tokenizer can be imported"):
        find_config(str(config))


def test_names_stand_for_the_sizes_of_the_released_configs() -> None:
    """Numbers of src/open_clip/model_configs/LCL_*.json: embedding, patch (px), context and heads; the rest is the same for all."""
    numbers = {"LCL_ViT-B-16_laion": (768, 16, 280, 12), "LCL_ViT-B-32_laion": (512, 32, 128, 8), "LCL_ViT-B-32_mmc4": (512, 32, 2048, 8)}
    assert PUBLISHED.keys() == numbers.keys()
    for name, (width, patch, context, heads) in numbers.items():
        record = {
            "embed_dim": width,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": patch},
            "text_cfg": {"context_length": context, "vocab_size": 49411, "width": width, "heads": heads, "layers": 12},
            "pool_project_cfg": {"pool_proj_type": "attn", "input_dim": 768, "output_dim": width, "attn_num_heads": heads},
        }
        assert published_config(record, origin=name) == (PUBLISHED[name], 49411)
        assert find_config(name) == PUBLISHED[name] == from_dict(ModelConfig, to_dict(PUBLISHED[name]), origin=name)
    assert [getattr(TOKENIZER, field) for field in SPECIAL_TOKENS.values()] == [49406, 49407, 49408, 49409, 49410]


@torch.no_grad()
def test_an_imported_checkpoint_gives_the_same_features(model: LCL, imported: Path) -> None:
    """Images and texts, bit for bit, through the loaders that every evaluation uses."""
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = load_encoder(imported)(images)
    latents = model.encode_images((images - _column(0)) / _column(1), ((2, 2),) * 3)
    assert torch.equal(features.pooled, latents.pooled) and features.pooled.std() > 0.05
    again, tokenizer = load_model(imported)
    texts = ["a photo of a dog", "1 <soi>", "x" * 100]
    assert torch.equal(text_features(again, tokenizer, texts), text_features(model, TOKENIZER, texts))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def _column(which: int) -> Tensor:
    """Mean and deviation of CLIP's pixels (Radford et al. 2021)."""
    return torch.tensor([(0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)][which]).view(3, 1, 1)


def test_the_folder_is_whole_and_says_where_it_came_from(files: dict[str, Path], imported: Path) -> None:
    check_folder(imported)
    assert [path.name for path in imported.parent.iterdir()] == [imported.name], "nothing is left beside it"
    manifest = read_json(imported / "manifest.json")["sha256"]
    assert set(manifest) == {"config.json", "model.safetensors", "run.json"} == {path.name for path in imported.iterdir()} - {"manifest.json"}
    record = read_json(imported / "run.json")
    assert record["config"]["weights"] == str(files["weights"]) and len(record["weights"]) == 64


@pytest.mark.parametrize("field", ["model", "vision"])
def test_a_run_starts_from_an_imported_checkpoint(field: str, model: LCL, imported: Path) -> None:
    torch.manual_seed(1)
    fresh = LCL.for_tokenizer(SIZES, TOKENIZER)
    (said,) = load_start(fresh, StartConfig(**{field: str(imported)}), TOKENIZER)
    taken = {name for name, value in fresh.state_dict().items() if torch.equal(value, model.state_dict()[name])}
    parts = {name.partition(".")[0] for name in taken}
    assert str(imported) in said and parts == ({"visual", "pool_project"} if field == "vision" else {name.partition(".")[0] for name in model.state_dict()})
    assert taken == {name for name in model.state_dict() if name.partition(".")[0] in parts}


def test_an_evaluation_reads_it(imported: Path, sample: Path, tmp_path: Path) -> None:
    eval_zero_shot.main(EvalConfig(checkpoint=str(imported), data=str(sample / "labelled" / "digit"), output=str(tmp_path / "zero_shot.json")))
    result = read_result(tmp_path / "zero_shot.json")
    assert result["rows"][0]["n"] == 20 and [row["model"] for row in result["rows"]][:2] == ["trained encoder", "random weights"]


class Payload:
    """What a hostile file holds: unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["beside tensors", "older format", "bare pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "it ran"
    state = {"state_dict": {"module.logit_scale": torch.ones(1), "module.visual.proj": Payload(trace)}}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(Payload(trace), protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "beside tensors")
    with pytest.raises(ValueError, match="holds posix.mkdir beside tensors, which could run code, so it is not read") as error:
        import_files(files | {"weights": path}, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path], "neither a trace of the payload nor of the output"
    if kind == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists(), "the payload was a live one"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "cannot be read as weights .EOFError"),
        ("empty.safetensors", b"", "cannot be read as weights .SafetensorError"),
        ("page.pt", b"<html>404: no such file</html>", "cannot be read as weights"),
        ("cut.pt", b"PK\x03\x04 cut off", "cannot be read as weights"),
        ("other.pt", {"state_dict": {}}, "holds no state dict"),
        ("other.pt", {"epoch": 3, "name": "LCL"}, "holds no state dict"),
        ("other.pt", [torch.ones(2)], "holds no state dict"),
        ("other.pt", {"logit_scale": torch.ones(1)}, "does not fit the model: it lacks lm_head.0.bias, lm_head.0.weight, lm_head.1.weight. Give the config"),
    ],
)
def test_files_that_are_no_weights_of_the_model(name: str, content: Any, message: str, files: dict[str, Path], tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    _refused(files | {"weights": tmp_path / name}, message, tmp_path)


def test_weights_of_other_sizes_and_names(model: LCL, files: dict[str, Path], tmp_path: Path) -> None:
    state = model.state_dict()
    turned = state | {"text.positional_embedding": state["text.positional_embedding"].T.contiguous()}
    for number, (wrong, message) in enumerate([
        (turned, "has text.positional_embedding of shape .16, 32., not .32, 16."),
        (state | {"visual.proj": torch.ones(2)}, "also holds visual.proj"),
        ({name: value for name, value in state.items() if name != "visual.conv1.weight"}, "lacks visual.conv1.weight"),
    ]):  # fmt: skip
        path = write_weights(tmp_path / f"{number}.safetensors", wrong)
        _refused(files | {"weights": path}, message, tmp_path)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_cfg", {"vocab_size": 49408}, "text_cfg.vocab_size is 49408, .* make 49411"),
        ("text_cfg", {"vocab_size": "many"}, "no config of a published LCL model .TypeError"),
        ("text_cfg", {"no_causal_mask": True}, "has text_cfg.no_causal_mask True: no released LCL model has that"),
        ("text_cfg", {"heads": 3}, "text.width is no multiple of model.text.heads"),
        ("vision_cfg", {"timm_model_name": "vit_tiny"}, "has vision_cfg.timm_model_name 'vit_tiny'"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "vision.layers"),
        ("pool_project_cfg", {"pool_proj_type": "mlp"}, "pool_project_cfg.pool_proj_type 'mlp' .known is 'attn'."),
        ("pool_project_cfg", {"input_dim": 32}, "pool_project_cfg.input_dim 32 .known is 16."),
        ("special_token_ids", {"<start_of_img>": 7}, "special_token_ids is .*'<start_of_img>': 7.*'<start_of_img>': 49409"),
        ("", {"quick_gelu": True}, "has quick_gelu True"),
        ("", {"vision_cfg": 3}, "no config of a published LCL model"),
        ("", {"text_cfg": {}}, "no config of a published LCL model .KeyError: 'context_length'."),
    ],
)
def test_configs_of_other_models(part: str, change: dict, message: str, files: dict[str, Path], tmp_path: Path) -> None:
    record = record_of(SIZES)
    (record[part] if part else record).update(change)
    _refused(files | {"config": write_json_file(tmp_path / "config.json", record)}, message, tmp_path)


def test_settings_that_are_off_make_no_other_model() -> None:
    record = record_of(SIZES)
    record["vision_cfg"] |= {"ls_init_value": None, "patch_dropout": 0.0}
    record["quick_gelu"] = False
    assert published_config(record, origin="test") == (SIZES, TOKENIZER.vocab_size)


def test_files_that_are_not_there_and_an_output_that_is(files: dict[str, Path], imported: Path, tmp_path: Path) -> None:
    _refused(files | {"weights": tmp_path / "none.pt"}, "none.pt: no such file of weights", tmp_path)
    names = "LCL_ViT-B-16_laion, LCL_ViT-B-32_laion, LCL_ViT-B-32_mmc4"
    _refused(files | {"config": Path("LCL_ViT-B-16")}, f"--model-config LCL_ViT-B-16: no such file, nor one of {names}", tmp_path)
    with pytest.raises(ValueError, match="is there already: remove it, or give another --output"):
        import_files(files, imported)
    check_folder(imported)


def _refused(files: dict[str, Path], message: str, folder: Path) -> None:
    """The import fails with the message, on one line, and writes nothing into `folder`."""
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=message) as error:
        import_files(files, folder / "out")
    assert "\n" not in str(error.value) and sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_finished_never_appears(model: LCL, tmp_path: Path) -> None:
    """Here the weights file is gone when its checksum is taken, after everything large is written."""
    settings = ImportPublishedConfig(model_config="LCL_tiny.json", weights=str(tmp_path / "gone.pt"), output=str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="gone.pt"):
        write_folder(tmp_path / "out", model, TOKENIZER, settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_the_command(run: Run, files: dict[str, Path], tmp_path: Path) -> None:
    result = run("lcl", "import-published", "--model-config", files["config"], "--weights", files["weights"], "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "out") in result.stderr
    check_folder(tmp_path / "out")
    assert read_weights(tmp_path / "out" / "model.safetensors").keys() == LCL.for_tokenizer(SIZES, TOKENIZER).state_dict().keys()
