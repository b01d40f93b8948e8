"""Muon's step is the orthogonal matrix of its gradient, whatever the layer; all other parameters get AdamW's."""

import copy

import pytest
import torch
from torch import nn

from downstream.codec.layers import GDN, keep_variance
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig
from downstream.codec.model import Gains
from downstream.fit import FitOptimizerConfig, make_optimizer
from downstream.muon import ADAM_RMS, MuonAdamW, orthogonal, outputs_of_dense

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (24, 24), (1, 7)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_singular_values_become_about_one_and_vectors_stay(shape: tuple[int, int], scale: float) -> None:
    matrix = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ vt.T
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.3
    assert (found - torch.diag(found.diagonal())).abs().max() < 1e-3


def test_nothing_comes_of_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def stepped(layer: nn.Module, gradient: torch.Tensor) -> torch.Tensor:
    """What a first step adds to the weights."""
    layer, before = copy.deepcopy(layer), layer.weight.detach().clone()
    optimizer = MuonAdamW(layer, muon_ratio=0.5, **SETTINGS | {"weight_decay": 0.0})
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.ones_like(layer.bias)
    optimizer.step()
    assert torch.equal(layer.weight.grad, gradient)
    return layer.weight.detach() - before


def test_a_transposed_convolution_moves_as_the_convolution_with_its_weights_transposed() -> None:
    back, forth = nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(6, 4, 3)
    forth.weight.data = back.weight.data.transpose(0, 1).clone()
    gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(stepped(back, gradient).transpose(0, 1), stepped(forth, gradient.transpose(0, 1).contiguous()), rtol=1e-4, atol=1e-7)


def test_the_length_of_a_step_is_that_of_the_rate_and_its_direction_the_gradients() -> None:
    gradient = torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(2))
    moved = stepped(nn.Conv2d(8, 8, 1), gradient)
    assert 0.6 < (moved.square().mean().sqrt() / (0.5 * SETTINGS["lr"] * ADAM_RMS)) < 1.3
    assert (moved * gradient).sum() < 0
    torch.testing.assert_close(stepped(nn.Conv2d(8, 8, 1), gradient), stepped(nn.Conv2d(8, 8, 1), 1000 * gradient), rtol=1e-3, atol=1e-6)


def test_other_parameters_are_adamws() -> None:
    """Biases, what normalises, and depthwise convolutions, whose filters have nothing to do with one another."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), GDN(4), nn.Conv2d(4, 4, 3, groups=4))
    assert outputs_of_dense(ours) == {"0.weight": 0}
    theirs = copy.deepcopy(ours)
    one, other = MuonAdamW(ours, muon_ratio=0.5, **SETTINGS), torch.optim.AdamW(theirs.parameters(), **SETTINGS)
    for _ in range(3):
        for module, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            for number, parameter in enumerate(module.parameters()):
                parameter.grad = torch.full_like(parameter, 1.0 + number)
            optimizer.step()
    for (name, mine), (_, that) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(mine, that) == (name != "0.weight"), name


def test_the_state_survives_its_dictionary() -> None:
    def trained(steps: int, *, copied_at: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3))
        optimizer = make_optimizer(module, FitOptimizerConfig(kind="muon", learning_rate=0.01))
        for step in range(steps):
            if step == copied_at:
                state, optimizer = copy.deepcopy(optimizer.state_dict()), make_optimizer(module, FitOptimizerConfig(kind="muon", learning_rate=0.01))
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(step))
            (module(x) - x).square().mean().backward()
            optimizer.step()
        return [parameter.detach() for parameter in module.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(trained(6, copied_at=3), trained(6, copied_at=-1), strict=True))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize(("size", "stride"), [(5, 2), (3, 1)])
def test_starting_weights_keep_the_variance(kind: type[nn.Module], size: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = kind(64, 48, size, stride=stride)
    keep_variance(layer, gain=1.5)
    with torch.no_grad():
        spread = layer(torch.randn(2, 64, 40, 40))[:, :, 8:-8, 8:-8].std()
    assert spread == pytest.approx(1.5, rel=0.1)


def test_a_codec_starts_with_latents_above_the_noise_of_rounding_and_levels_apart() -> None:
    torch.manual_seed(0)
    codec, lmbdas = MeanScale(MeanScaleConfig(width=48, latent_width=64)), (0.002, 0.01, 0.05)
    codec.gains = Gains(3, 64)
    codec.gains.start(lmbdas)
    spreads = []
    with torch.no_grad():
        for level, lmbda in enumerate(lmbdas):
            y, _ = codec.analyse(torch.rand(2, 3, 128, 128), torch.full((2,), float(level)))
            spreads.append(float(y.std()) / lmbda**0.5)
            x_hat = codec.synthesise(y, torch.full((2,), float(level)))
            assert abs(float(x_hat.mean()) - 0.5) < 0.1
    assert min(spreads) * lmbdas[1] ** 0.5 > 0.5 and max(spreads) / min(spreads) < 1.2
