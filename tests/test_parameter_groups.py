"""Which parameters decay, how fast layers learn, what is frozen: on a toy LCL model and on timm's NaFlex ViT."""

from collections.abc import Callable

import pytest
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import nn

from lcl.parameter_groups import freeze, parameter_groups
from tests.made_rows import make_model


def flexible_model(depth: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.visual = NaFlexVit(NaFlexVitCfg(patch_size=4, embed_dim=16, depth=depth, num_heads=2, class_token=True, reg_tokens=2, global_pool=""), num_classes=0)
    model.head = nn.Linear(16, 4)
    return model


def settings_of(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """(weight decay, rate scale) by parameter name; checks that none is in two groups."""
    names = {id(value): name for name, value in model.named_parameters()}
    grouped = [(names[id(value)], (group["weight_decay"], group["rate_scale"])) for group in groups for value in group["params"]]
    assert len(grouped) == len(dict(grouped))
    return dict(grouped)


@pytest.mark.parametrize("make", [make_model, flexible_model])
@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_every_parameter_is_in_one_group_and_the_order_is_that_of_the_model(make: Callable[[], nn.Module], layer_decay: float) -> None:
    model = make()
    groups = parameter_groups(model, weight_decay=0.2, layer_decay=layer_decay)
    found = settings_of(model, groups)
    order = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    assert found.keys() == order.keys()
    places = {id(value): order[name] for name, value in model.named_parameters()}
    for group in groups:
        inside = [places[id(value)] for value in group["params"]]
        assert inside == sorted(inside) and inside
    again = parameter_groups(make(), weight_decay=0.2, layer_decay=layer_decay)
    shapes = [[[value.shape for value in group["params"]] for group in some] for some in (groups, again)]
    assert shapes[0] == shapes[1]


def test_without_layer_decay_there_are_two_groups_and_only_matrices_decay() -> None:
    model = make_model()
    model.pool_project.latent_queries = nn.Parameter(torch.ones(1, 3, 16))
    groups = parameter_groups(model, weight_decay=0.2, layer_decay=1.0)
    assert [(group["weight_decay"], group["rate_scale"]) for group in groups] == [(0.2, 1.0), (0.0, 1.0)]
    decays = {name: decay > 0 for name, (decay, _) in settings_of(model, groups).items()}
    matrices = {name for name, value in model.named_parameters() if value.ndim >= 2}
    exempt = {"visual.positional_embedding", "text.positional_embedding", "pool_project.query_token", "pool_project.latent_queries"}
    assert exempt < matrices and {name for name, decay in decays.items() if decay} == matrices - exempt
    assert not decays["logit_scale"] and not decays["visual.class_embedding"] and decays["text.token_embedding.weight"]


def test_tokens_and_positions_of_a_flexible_tower_do_not_decay() -> None:
    model = flexible_model()
    found = settings_of(model, parameter_groups(model, weight_decay=0.2, layer_decay=1.0))
    undecayed = {name for name, value in model.named_parameters() if value.ndim >= 2 and found[name][0] == 0}
    assert undecayed == {"visual.embeds.cls_token", "visual.embeds.reg_token", "visual.embeds.pos_embed"}


def test_layers_of_an_open_clip_tower_learn_by_their_depth() -> None:
    model = make_model()  # one vision block
    scales = {name: scale for name, (_, scale) in settings_of(model, parameter_groups(model, weight_decay=0.2, layer_decay=0.5)).items()}
    for name in ("visual.conv1.weight", "visual.class_embedding", "visual.positional_embedding", "visual.ln_pre.bias"):
        assert scales[name] == 0.25, name
    assert {scale for name, scale in scales.items() if name.startswith("visual.transformer.resblocks.0.")} == {0.5}
    assert {scale for name, scale in scales.items() if not name.startswith("visual.") or "ln_post" in name} == {1.0}


def test_layers_of_a_flexible_tower_learn_by_their_depth() -> None:
    model = flexible_model(depth=12)
    scales = {name: scale for name, (_, scale) in settings_of(model, parameter_groups(model, weight_decay=0.2, layer_decay=0.5)).items()}
    assert {scale for name, scale in scales.items() if name.startswith("visual.embeds.")} == {0.5**13}
    for block in range(12):
        assert {scale for name, scale in scales.items() if name.startswith(f"visual.blocks.{block}.")} == {0.5 ** (12 - block)}
    assert scales["visual.norm.weight"] == scales["head.weight"] == 1.0


def test_the_optimiser_moves_a_group_by_its_scale() -> None:
    """AdamW's first step is the rate itself in every coordinate with a gradient."""
    model = make_model()
    groups = parameter_groups(model, weight_decay=0.0, layer_decay=0.5)
    optimizer = torch.optim.AdamW(groups, lr=1.0, eps=1e-12)
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["rate_scale"]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    scales = {name: scale for name, (_, scale) in settings_of(model, groups).items()}
    for name, value in model.named_parameters():
        torch.testing.assert_close(before[name] - value, torch.full_like(value, 0.01 * scales[name]), rtol=1e-3, atol=1e-6)


def test_a_layer_that_is_not_known_is_said() -> None:
    model = make_model()
    model.visual.extra = nn.Linear(2, 2)
    parameter_groups(model, weight_decay=0.2, layer_decay=1.0)
    with pytest.raises(ValueError, match=r"visual\.extra\.weight.*--optimizer\.layer-decay 1"):
        parameter_groups(model, weight_decay=0.2, layer_decay=0.9)


def test_frozen_parameters_get_no_gradient_and_no_group() -> None:
    model = make_model()
    frozen = ("visual", "text.transformer.resblocks.1")
    under = {name for name, _ in model.named_parameters() if name.startswith(("visual.", "text.transformer.resblocks.1."))}
    unfrozen = dict(model.named_parameters()).keys() - under
    assert freeze(model, frozen) == sum(value.numel() for name, value in model.named_parameters() if name in under) > 0
    assert {name for name, value in model.named_parameters() if value.requires_grad} == unfrozen
    assert settings_of(model, parameter_groups(model, weight_decay=0.2, layer_decay=1.0)).keys() == unfrozen


def test_a_prefix_ends_where_a_name_does() -> None:
    model = flexible_model(depth=11)
    freeze(model, ["visual.blocks.1"])
    still = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert still and all(name.startswith("visual.blocks.1.") for name in still)
    assert freeze(make_model(), ["logit_scale"]) == 1 and freeze(make_model(), []) == 0


@pytest.mark.parametrize(
    ("frozen", "said"),
    [(["visaul"], "--frozen 'visaul'.*visual"), (["text.transfomer"], r"text\.transformer"), (["xyz"], "near names: .*pool_project"), ([""], "--frozen ''")],
)
def test_an_unknown_prefix_is_answered_with_near_names(frozen: list[str], said: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=said):
        freeze(model, ["text", *frozen])
    assert all(value.requires_grad for value in model.parameters())


def test_something_must_train() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="--frozen .* leaves nothing to train"):
        freeze(model, [name for name, _ in model.named_children()] + ["logit_scale"])
    assert all(value.requires_grad for value in model.parameters())
