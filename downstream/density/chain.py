"""Tiles to bits and back by the diffusion model: bits-back coding over T steps, in the order of Bit-Swap (Kingma et al., ICML 2019, arXiv:1905.06845).

    encode:  pop c ~ q(c|x);  pop z_0 ~ q(z_0|x);  push u by p(u|z_0);  for i = 1 .. T:  pop z_i ~ q(z_i|z_{i-1});  push z_{i-1} by p(z_{i-1}|z_i);    push z_T by N(0, 1);  push c
    decode:  the same lines from the last to the first, push and pop exchanged

The latents z_i are whole numbers of a spacing of about a quarter of the narrower normal that they are coded with. Encoder and decoder must find the same numbers to the bit: the network computes in float64, one shape of
batch after the other, its results are rounded to a grid, and all that follows is single additions and products of float64.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from downstream.density.bit_stack import BitStack
from downstream.density.calibration import squared_error
from downstream.density.diffusion import to_data
from downstream.density.model_file import TrainedDensity
from downstream.density.subsets import most_likely, suffix_table

SPACINGS = 4.0         # to a deviation of the narrower normal that a latent is coded with
LEAST_CHANGE = 1e-4    # of the noise in a step, below which the spacing falls no further
GAMMA_PARTS = 1 << 16  # to one: the grid of gamma
EPS_PARTS = 1 << 8     # of eps_hat: an error of 1/512 costs nothing beside its own of about one
LOGIT_PARTS = 1 << 6

Latents = Int[np.ndarray, "tiles channels height width"]
Values = Float[np.ndarray, "#tiles #channels #height #width"]


@dataclass(frozen=True)
class Level:
    """What holds at the i-th time, and for the step to it from the one before."""

    gamma: Values
    spacing: Values
    """Of the grid of z_i."""
    forward_gain: Values
    """alpha_i / alpha_{i-1}; of i = 0, alpha_0."""
    forward_scale: Values
    """Deviation of q(z_i | z_{i-1}), in spacings."""
    ratio: Values
    """alpha_{i-1} / alpha_i, and the two after it: of the step back."""
    weight: Values
    variance: Values


class Chain:
    """Codes tiles with a model and T steps. Slow: T calls of the network for each batch of tiles, each way."""

    def __init__(self, trained: TrainedDensity, num_steps: int) -> None:
        self.settings, self.num_steps = trained.settings, num_steps
        sight = getattr(trained.model.context_logits, "sight", None)
        self._model, self._table = copy.deepcopy(trained.model, {id(sight): sight}).double(), trained.calibration.errors
        self._times = trained.calibration.of_steps(num_steps)
        self._without_context: dict[tuple[int, ...], list[Level]] = {}

    def encode(self, stack: BitStack, u: Latents) -> None:
        """Writes tiles of whole levels. Raises ValueError for a level that the model does not have."""
        if int(u.min()) < 0 or int(u.max()) >= self.settings.levels:
            raise ValueError(f"a value of {int(u.max())} is beyond the model's {self.settings.levels} levels")
        x = to_data(torch.from_numpy(u), levels=self.settings.levels, dtype=torch.float64)
        subset = self._pop_context(stack, x)
        levels, context = self._levels(subset, u.shape), self._context(subset, len(u))
        z = self._pop_latents(stack, levels[0].forward_gain * x.numpy(), levels[0], u.shape)
        stack.push_choices(u.flatten(), self._choices(z, levels[0]))
        for i in range(1, self.num_steps + 1):
            after = self._pop_latents(stack, levels[i].forward_gain * (z * levels[i - 1].spacing), levels[i], u.shape)
            mean, scale = self._step_back(after, levels, i, context)
            stack.push(z.flatten(), mean, scale)
            z = after
        stack.push(z.flatten(), *self._prior(levels[-1], u.shape))
        self._push_subset(stack, subset, None)

    def decode(self, stack: BitStack, shape: tuple[int, int, int, int]) -> Latents:
        """The tiles (tiles, channels, height, width) that `encode` wrote last."""
        subset = self._pop_subset(stack, None, shape[0])
        levels, context = self._levels(subset, shape), self._context(subset, shape[0])
        z = stack.pop(*self._prior(levels[-1], shape)).reshape(shape)
        for i in range(self.num_steps, 0, -1):
            mean, scale = self._step_back(z, levels, i, context)
            before = stack.pop(mean, scale).reshape(shape)
            self._push_latents(stack, z, levels[i].forward_gain * (before * levels[i - 1].spacing), levels[i])
            z = before
        u = stack.pop_choices(self._choices(z, levels[0])).reshape(shape)
        x = to_data(torch.from_numpy(u), levels=self.settings.levels, dtype=torch.float64)
        self._push_latents(stack, z, levels[0].forward_gain * x.numpy(), levels[0])
        if not self.settings.sends_context:
            self._push_subset(stack, subset, x)
        return u

    # The distributions

    def _pop_latents(self, stack: BitStack, mean: Values, level: Level, shape: tuple[int, ...]) -> Latents:
        return stack.pop(*_units(mean, level.forward_scale, level.spacing, shape)).reshape(shape)

    def _push_latents(self, stack: BitStack, z: Latents, mean: Values, level: Level) -> None:
        stack.push(z.flatten(), *_units(mean, level.forward_scale, level.spacing, z.shape))

    def _prior(self, level: Level, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        return _units(np.zeros((1, 1, 1, 1)), 1 / level.spacing, level.spacing, shape)

    def _choices(self, z: Latents, level: Level) -> Float[np.ndarray, "n levels"]:
        """p(u | z_0) as in `diffusion.reconstruction_log_probabilities`."""
        middles = 2 * (np.arange(self.settings.levels) + 0.5) / self.settings.levels - 1
        distances = ((z * level.spacing / level.forward_gain)[..., None] - middles) * np.exp(-level.gamma / 2)[..., None]
        scores = -0.5 * distances * distances
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return (weights / weights.sum(axis=-1, keepdims=True)).reshape(-1, self.settings.levels)

    @torch.no_grad()
    def _step_back(self, z: Latents, levels: list[Level], i: int, context: Float[Tensor, "tiles size"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Mean and deviation of p(z_{i-1} | z_i), in spacings, as in `diffusion.reverse_step`."""
        level, before = levels[i], levels[i - 1]
        value = z * level.spacing
        found = self._model.denoise(torch.from_numpy(value), torch.from_numpy(level.gamma), context)
        error = squared_error(self._table, found, torch.full((len(z),), self._times[i], dtype=torch.float64)).numpy()
        eps_hat = np.round(found.eps_hat.numpy() * EPS_PARTS) / EPS_PARTS
        mean = level.ratio * value - level.weight * eps_hat
        deviation = np.sqrt(level.variance + level.weight * level.weight * error)
        return _units(mean, deviation / before.spacing, before.spacing, z.shape)

    # The noise of each time

    @torch.no_grad()
    def _levels(self, subset: Int[np.ndarray, "tiles size"] | None, shape: tuple[int, ...]) -> list[Level]:
        if subset is None and shape in self._without_context:
            return self._without_context[shape]
        path = self._model.path(self._context(subset, shape[0]), shape[2], shape[3])
        gammas = [np.round(path(torch.full((shape[0],), t, dtype=torch.float64)).numpy() * GAMMA_PARTS) / GAMMA_PARTS for t in self._times]
        levels = _levels_of(gammas)
        if subset is None:
            self._without_context = {shape: levels}
        return levels

    # The context

    def _context(self, subset: Int[np.ndarray, "tiles size"] | None, num: int) -> Float[Tensor, "tiles size"]:
        return self._model.no_context(num) if subset is None else torch.from_numpy(subset).double()

    @torch.no_grad()
    def _pop_context(self, stack: BitStack, x: Float[Tensor, "tiles channels height width"]) -> Int[np.ndarray, "tiles size"] | None:
        if self.settings.sends_context:
            return most_likely(self._model.logits(x), self.settings.context.chosen).long().numpy()
        return self._pop_subset(stack, x, len(x))

    def _pop_subset(self, stack: BitStack, x: Float[Tensor, "tiles channels height width"] | None, num: int) -> Int[np.ndarray, "tiles size"] | None:
        if self.settings.context.kind == "none":
            return None
        inside, rows = self._chances(x, num), []
        for tile in range(num):
            left, row = self.settings.context.chosen, []
            for item in range(self.settings.context.size):
                row.append(int(stack.pop_bit(inside(tile, item, left))))
                left -= row[-1]
            rows.append(row)
        return np.array(rows)

    def _push_subset(self, stack: BitStack, subset: Int[np.ndarray, "tiles size"] | None, x: Float[Tensor, "tiles channels height width"] | None) -> None:
        if subset is None:
            return
        inside = self._chances(x, len(subset))
        for tile in reversed(range(len(subset))):
            for item in reversed(range(self.settings.context.size)):
                left = self.settings.context.chosen - int(subset[tile, :item].sum())
                stack.push_bit(bool(subset[tile, item]), inside(tile, item, left))

    @torch.no_grad()
    def _chances(self, x: Float[Tensor, "tiles channels height width"] | None, num: int) -> Callable[[int, int, int], float]:
        """(tile, item, left) -> P(item in the subset | `left` are to come of it and those behind), under q(c|x), or all subsets alike where x is None."""
        context = self.settings.context
        logits = torch.zeros(num, context.size, dtype=torch.float64) if x is None else (self._model.logits(x) * LOGIT_PARTS).round() / LOGIT_PARTS
        table = [row.numpy() for row in suffix_table(logits, context.chosen)]

        def inside(tile: int, item: int, left: int) -> float:
            if left == 0 or left == context.size - item:
                return float(left > 0)
            return float(np.exp(logits[tile, item].item() + table[item + 1][tile, left - 1] - table[item][tile, left]))

        return inside


def _units(mean: Values, scale: Values, spacing: Values, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Means in spacings, and scales, for each latent."""
    return np.broadcast_to(mean / spacing, shape).flatten(), np.broadcast_to(scale, shape).flatten()


def _levels_of(gammas: list[Values]) -> list[Level]:
    """A grid is as fine as the narrower of the two normals that its latent is coded with: the step to it, and the step back to it from the next time."""
    steps = [np.maximum(-np.expm1(before - after), 0) for before, after in pairwise(gammas)]  # c of `diffusion.reverse_step`
    narrower = [np.minimum(*pair) for pair in pairwise([np.ones_like(gammas[0]), *steps, np.ones_like(gammas[0])])]
    deviations = [np.sqrt(_sigmoid(gamma)) for gamma in gammas]
    spacings = [_spacing(deviation * np.sqrt(np.maximum(change, LEAST_CHANGE))) for deviation, change in zip(deviations, narrower, strict=True)]
    nothing = np.zeros_like(gammas[0])
    levels = [Level(gammas[0], spacings[0], _single(np.sqrt(_sigmoid(-gammas[0]))), _single(deviations[0] / spacings[0]), nothing, nothing, nothing)]
    for (before, after), change, deviation, spacing in zip(pairwise(gammas), steps, deviations[1:], spacings[1:], strict=True):
        ratio = np.sqrt(_sigmoid(-before) / _sigmoid(-after))
        levels.append(Level(
            after, spacing, _single(1 / ratio), _single(np.maximum(deviation * np.sqrt(change) / spacing, 1e-3)), _single(ratio), _single(ratio * deviation * change),
            _single(np.maximum(_sigmoid(before) * change, 1e-12)),
        ))  # fmt: skip
    return levels


def _spacing(deviation: Values) -> Values:
    """A power of the eighth root of two near deviation / SPACINGS."""
    return 2.0 ** (np.round(np.log2(deviation / SPACINGS) * 8) / 8)


def _single(values: Values) -> Values:
    """Rounded to float32, as float64: differences of libraries in the last digit vanish."""
    return values.astype(np.float32).astype(np.float64)


def _sigmoid(values: Values) -> Values:
    return 1 / (1 + np.exp(-values))
