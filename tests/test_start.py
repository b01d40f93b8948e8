"""Starting from weights: what is taken, and what is refused in one line that says how to mend it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lcl.model import ModelConfig
from lcl.published import read_weights
from lcl.start import StartConfig, load_start
from lcl.text import TextConfig
from tests.made_rows import SETTINGS, VOCAB_SIZE, batch_of, make_model

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
    assert load_start(ours, StartConfig(text=str(folder))) == [f"language model from {folder}"]
    batch = batch_of(["tttttt"], settings=settings)
    words = slice(1, 7)  # <sot> and <eot> are our own ids
    ids = batch.ids[:, words]
    shifted = replace(batch, ids=ids, document_ids=batch.document_ids[:, words], positions=torch.arange(6)[None], targets=batch.targets[:, words], document_lengths=((6,),))
    hidden = ours.text(shifted, torch.zeros(0, 16)).hidden
    torch.testing.assert_close(ours.lm_head(hidden)[..., : VOCAB_SIZE - 5], theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_other_sizes_name_the_flags_to_take(language_model: tuple[Path, torch.nn.Module, ModelConfig]) -> None:
    folder, _, settings = language_model
    model = make_model(replace(settings, text=replace(settings.text, layers=1)))
    with pytest.raises(ValueError, match=r"has other sizes; take --model.text.kind \w+ --model.text.width 16 --model.text.layers 2 --model.text.heads 4 --model.text.key-heads 2"):
        load_start(model, StartConfig(text=str(folder)))


def test_a_vision_tower_of_open_clip_is_taken_without_its_projection(tmp_path: Path) -> None:
    theirs, ours = make_model(seed=1), make_model(seed=2)
    state = {f"visual.{name}": value for name, value in theirs.visual.state_dict().items()}
    save_file(state | {"visual.proj": torch.zeros(16, 8), "token_embedding.weight": torch.zeros(4, 4)}, tmp_path / "open_clip.safetensors")
    before = ours.pool_project.query_token.clone()
    assert load_start(ours, StartConfig(vision=str(tmp_path / "open_clip.safetensors"))) == [f"vision tower from {tmp_path / 'open_clip.safetensors'}"]
    assert all(bool((value == theirs.visual.state_dict()[name]).all()) for name, value in ours.visual.state_dict().items())
    assert bool((ours.pool_project.query_token == before).all())


def test_published_wrappers_are_taken_off(tmp_path: Path) -> None:
    model = make_model(seed=1)
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "epoch_3.pt")
    other = make_model(seed=2)
    load_start(other, StartConfig(model=str(tmp_path / "epoch_3.pt")))
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
            load_start(model, start)
