"""Starting from weights: what is taken, and what is refused in one line that says how to mend it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcl.core.files import read_json, write_json
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.features import Encoder, load_encoder, load_model
from lcl.import_published import ImportPublishedConfig, write_folder
from lcl.model import LCL, ModelConfig
from lcl.published import read_weights
from lcl.start import StartConfig, load_start
from lcl.text import TextConfig
from lcl.train_config import PRESETS
from tests.conftest import ROOT
from tests.made_rows import SETTINGS, VOCAB_SIZE, batch_of, make_model

TOKENIZER = Tokenizer(TokenizerConfig(num_merges=0))
SETTINGS_OF_CHECKPOINT = replace(SETTINGS, tokenizer=TokenizerConfig(num_merges=0))
LLAMA = replace(SETTINGS, text=TextConfig(kind="llama", context_length=64, width=16, layers=2, heads=4, key_heads=2, mlp_width=48, rope_theta=500.0))


@pytest.fixture(params=["llama", "qwen3"])
def language_model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.nn.Module, ModelConfig]:
    """A folder of transformers with a random small model, the model, and our settings for it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = AutoConfig.for_model(
        request.param, vocab_size=VOCAB_SIZE - 5, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, tie_word_embeddings=request.param == "qwen3",
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(sizes).eval()
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", model, replace(LLAMA, text=replace(LLAMA.text, kind=request.param, head_width=8))


@torch.no_grad()
def test_a_language_model_of_transformers_gives_its_own_logits(language_model: tuple[Path, torch.nn.Module, ModelConfig]) -> None:
    folder, theirs, settings = language_model
    ours = make_model(settings).eval()
    assert load_start(ours, StartConfig(text=str(folder)), TOKENIZER) == [f"language model from {folder}"]
    batch = batch_of(["tttttt"], settings=settings)
    words = slice(1, 7)  # <sot> and <eot> are our own ids
    ids = batch.ids[:, words]
    shifted = replace(batch, ids=ids, document_ids=batch.document_ids[:, words], positions=torch.arange(6)[None], targets=batch.targets[:, words], document_lengths=((6,),))
    hidden = ours.text(shifted, torch.zeros(0, 16)).hidden
    torch.testing.assert_close(ours.lm_head(hidden)[..., : VOCAB_SIZE - 5], theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_other_sizes_name_the_flags_to_take(language_model: tuple[Path, torch.nn.Module, ModelConfig]) -> None:
    folder, _, settings = language_model
    model = make_model(replace(settings, text=replace(settings.text, layers=1)))
    with pytest.raises(ValueError, match=r"is another decoder; take --model.text.kind \w+ --model.text.width 16 --model.text.layers 2 --model.text.heads 4 --model.text.key-heads 2"):
        load_start(model, StartConfig(text=str(folder)), TOKENIZER)


def test_a_vision_tower_of_open_clip_is_taken_without_its_projection(tmp_path: Path) -> None:
    theirs, ours = make_model(seed=1), make_model(seed=2)
    state = {f"visual.{name}": value for name, value in theirs.visual.state_dict().items()}
    save_file(state | {"visual.proj": torch.zeros(16, 8), "token_embedding.weight": torch.zeros(4, 4)}, tmp_path / "open_clip.safetensors")
    before = ours.pool_project.query_token.clone()
    assert load_start(ours, StartConfig(vision=str(tmp_path / "open_clip.safetensors")), TOKENIZER) == [f"vision tower from {tmp_path / 'open_clip.safetensors'}"]
    assert all(bool((value == theirs.visual.state_dict()[name]).all()) for name, value in ours.visual.state_dict().items())
    assert bool((ours.pool_project.query_token == before).all())


def test_published_wrappers_are_taken_off(tmp_path: Path) -> None:
    model = make_model(seed=1)
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "epoch_3.pt")
    other = make_model(seed=2)
    load_start(other, StartConfig(model=str(tmp_path / "epoch_3.pt")), TOKENIZER)
    assert all(bool((value == model.state_dict()[name]).all()) for name, value in other.state_dict().items())
    assert set(read_weights(tmp_path / "epoch_3.pt")) == set(model.state_dict())


def test_what_cannot_be_taken_is_refused(tmp_path: Path) -> None:
    model = make_model()
    save_file({"visual.conv1.weight": torch.zeros(16, 3, 4, 4)}, tmp_path / "part.safetensors")
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "none.safetensors")
    (tmp_path / "junk.pt").write_bytes(b"not weights")
    (tmp_path / "empty").mkdir()
    for start, message in (
        (StartConfig(vision=str(tmp_path / "part.safetensors")), "does not fit the model: it lacks class_embedding"),
        (StartConfig(vision=str(tmp_path / "none.safetensors")), "holds no vision tower"),
        (StartConfig(model=str(tmp_path / "junk.pt")), "holds more than tensors|cannot be read as weights"),
        (StartConfig(model=str(tmp_path / "missing.pt")), "no such file of weights"),
        (StartConfig(model="a", vision="b"), "leave out --start.vision"),
        (StartConfig(text=str(tmp_path / "empty")), "no folder with config.json"),
    ):
        with pytest.raises(ValueError, match=message):
            load_start(model, start, TOKENIZER)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rope_scaling .*yarn"),
        ("rope_parameters", {"rope_type": "linear", "factor": 4.0}, "rope_type 'linear'"),
        ("attention_bias", True, "attention_bias True"),
        ("hidden_act", "gelu", "hidden_act 'gelu'"),
        ("model_type", "mistral", "model_type 'mistral'"),
        ("rms_norm_eps", 1e-5, "--model.text.norm-epsilon 1e-05"),
        ("head_dim", None, "--model.text.head-width 4"),
        ("num_hidden_layers", "gone", "does not say 'num_hidden_layers'"),
    ],
)  # fmt: skip
def test_another_decoder_is_refused(language_model: tuple[Path, torch.nn.Module, ModelConfig], field: str, value: object, message: str) -> None:
    folder, _, settings = language_model
    record = read_json(folder / "config.json") | {field: value}
    write_json(folder / "config.json", {name: entry for name, entry in record.items() if entry != "gone"})
    with pytest.raises(ValueError, match=message):
        load_start(make_model(settings), StartConfig(text=str(folder)), TOKENIZER)


def test_a_language_model_brings_its_tokenizer(language_model: tuple[Path, torch.nn.Module, ModelConfig]) -> None:
    folder, _, settings = language_model
    TOKENIZER._text.model.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match=rf"has another tokenizer: take --model.tokenizer.file {folder}"):
        load_start(make_model(settings), StartConfig(text=str(folder)), Tokenizer(TokenizerConfig(num_merges=3)))
    its = Tokenizer(TokenizerConfig(file=str(folder)))
    assert its.vocab_size > VOCAB_SIZE
    with pytest.raises(ValueError, match="knows 40 tokens"):  # the right tokenizer of a model whose weights know fewer words
        load_start(LCL(settings, vocab_size=its.vocab_size), StartConfig(text=str(folder)), its)


def test_a_checkpoint_of_another_model_or_tokenizer_is_refused(tmp_path: Path) -> None:
    """Other heads have weights of the same shapes, and other tokenizers may have as many ids."""
    model = LCL.for_tokenizer(SETTINGS_OF_CHECKPOINT, TOKENIZER)
    write_folder(tmp_path / "trained", model, TOKENIZER, settings=ImportPublishedConfig(weights=__file__, model_config="none", output=str(tmp_path / "trained")))
    load_start(LCL.for_tokenizer(SETTINGS_OF_CHECKPOINT, TOKENIZER), StartConfig(model=str(tmp_path / "trained")), TOKENIZER)
    heads = replace(SETTINGS_OF_CHECKPOINT, text=replace(SETTINGS_OF_CHECKPOINT.text, heads=4), vision=replace(SETTINGS_OF_CHECKPOINT.vision, head_width=4))
    other = LCL.for_tokenizer(heads, TOKENIZER)
    with pytest.raises(ValueError, match="model.text.heads is 2 there and 4 here, model.vision.head_width is 8 there and 4 here"):
        load_start(other, StartConfig(model=str(tmp_path / "trained")), TOKENIZER)
    with pytest.raises(ValueError, match="is of another model: model.vision.head_width is 8 there and 4 here$"):
        load_start(other, StartConfig(vision=str(tmp_path / "trained")), TOKENIZER)
    with pytest.raises(ValueError, match="was trained with another tokenizer; take --model.tokenizer.num-merges 0"):
        load_start(model, StartConfig(model=str(tmp_path / "trained")), Tokenizer(TokenizerConfig(num_merges=1)))


def test_an_export_gives_tower_and_pooling_and_nothing_else() -> None:
    """The encoder that comes along, trained on: what it gives on the first step is what it gave."""
    shipped = ROOT / "lcl" / "weights" / "encoder"
    encoder = load_encoder(shipped)
    model = LCL.for_tokenizer(replace(PRESETS["photo_pages"].model, tokenizer=TokenizerConfig(num_merges=0)), TOKENIZER)
    assert load_start(model, StartConfig(vision=str(shipped)), TOKENIZER) == [f"vision tower and pooling from {shipped}"]
    images = torch.rand(2, 3, 32, 32)
    assert Encoder(model).fingerprint == encoder.fingerprint and torch.equal(Encoder(model)(images).pooled, encoder(images).pooled)
    with pytest.raises(ValueError, match="is an export, which holds an encoder and no language model: give it as --start.vision"):
        load_start(model, StartConfig(model=str(shipped)), TOKENIZER)
    small = replace(SETTINGS_OF_CHECKPOINT, vision=replace(SETTINGS_OF_CHECKPOINT.vision, head_width=4))
    with pytest.raises(ValueError, match="encoder is of another model: .*model.vision.layers is 2 there"):
        load_start(LCL.for_tokenizer(small, TOKENIZER), StartConfig(vision=str(shipped)), TOKENIZER)
    with pytest.raises(ValueError, match="is an export, which holds the encoder alone"):
        load_model(shipped)
