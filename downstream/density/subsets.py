"""The exact distribution of subsets of `chosen` among n items: q(S) = exp(sum over i in S of l_i) / e_k(exp l), the conditional Bernoulli.

    logits --recursion of elementary symmetric polynomials--> log e_k --> probabilities, marginals, KL, samples, one item after the other

e_k is the sum over all subsets of k items of the product of their weights; E(i, j) = E(i + 1, j) + w_i E(i + 1, j - 1) over the items from i on. All in logarithms, O(n k).
Published MuLAN samples such subsets with relaxed noise, and counts the KL of a single choice among n, which is less than what the subset costs.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NOTHING = -1e30  # in the place of log 0, whose gradients are not numbers

Logits = Float[Tensor, "images size"]


def suffix_table(logits: Logits, chosen: int) -> list[Float[Tensor, "images choices"]]:
    """Row i holds log e_j of the items from i on, for j from 0 to `chosen`; the last row, of no items, is 0 and then log 0."""
    row = torch.full((len(logits), chosen + 1), NOTHING, dtype=logits.dtype, device=logits.device)
    row = torch.cat([torch.zeros_like(row[:, :1]), row[:, 1:]], dim=1)
    table = [row]
    for item in reversed(range(logits.shape[1])):
        row = torch.cat([row[:, :1], torch.logaddexp(row[:, 1:], logits[:, item, None] + row[:, :-1])], dim=1)
        table.append(row)
    return table[::-1]


def log_normaliser(logits: Logits, chosen: int) -> Float[Tensor, " images"]:
    """log e_k(exp l)."""
    return suffix_table(logits, chosen)[0][:, chosen]


def log_probability(subset: Bool[Tensor, "images size"], logits: Logits, chosen: int) -> Float[Tensor, " images"]:
    return (subset * logits).sum(dim=1) - log_normaliser(logits, chosen)


def marginals(logits: Logits, chosen: int) -> Logits:
    """P(i in S) = w_i e_{k-1}(all others) / e_k, which sum to `chosen`; e_{k-1}(all others) by what is before and behind an item."""
    return _marginals(logits, chosen, suffix_table(logits, chosen))


def _marginals(logits: Logits, chosen: int, behind: list[Float[Tensor, "images choices"]]) -> Logits:
    before = suffix_table(logits.flip(1), chosen)[::-1]  # row i: the items before i
    others = torch.logsumexp(torch.stack(before[:-1], dim=1)[:, :, :chosen] + torch.stack(behind[1:], dim=1)[:, :, :chosen].flip(2), dim=2)
    return (logits + others - behind[0][:, chosen, None]).exp()


def kl_to_uniform_nats(logits: Logits, chosen: int) -> Float[Tensor, " images"]:
    """KL(q || all subsets alike) = sum_i P(i in S) l_i - log e_k + log C(n, k)."""
    behind = suffix_table(logits, chosen)
    return _kl(logits, chosen, behind, _marginals(logits, chosen, behind))


def _kl(logits: Logits, chosen: int, behind: list[Float[Tensor, "images choices"]], inside: Logits) -> Float[Tensor, " images"]:
    return (inside * logits).sum(dim=1) - behind[0][:, chosen] + uniform_nats(logits.shape[1], chosen)


def uniform_nats(size: int, chosen: int) -> float:
    """log C(n, k): the cost of a subset when all are alike."""
    return math.lgamma(size + 1) - math.lgamma(chosen + 1) - math.lgamma(size - chosen + 1)


def sample(logits: Logits, chosen: int, generator: torch.Generator) -> Bool[Tensor, "images size"]:
    """A subset for each image, exactly of q: items in turn, each in with its probability given those before."""
    return _sample(logits, chosen, suffix_table(logits, chosen), generator)


def _sample(logits: Logits, chosen: int, table: list[Float[Tensor, "images choices"]], generator: torch.Generator) -> Bool[Tensor, "images size"]:
    left = torch.full((len(logits),), chosen, device=logits.device)
    picked = []
    for item in range(logits.shape[1]):
        inside = torch.gather(table[item + 1], 1, (left - 1).clamp(min=0)[:, None])[:, 0] + logits[:, item]
        probability = (inside - torch.gather(table[item], 1, left[:, None])[:, 0]).exp() * (left > 0)
        uniform = torch.rand(len(logits), generator=generator).to(logits)
        taken = (uniform < probability) | (left == logits.shape[1] - item)
        left = left - taken.long()
        picked.append(taken)
    return torch.stack(picked, dim=1)


def most_likely(logits: Logits, chosen: int) -> Bool[Tensor, "images size"]:
    """The subset of the `chosen` largest logits."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, logits.topk(chosen, dim=1).indices, True)


def relaxed_sample(logits: Logits, chosen: int, generator: torch.Generator) -> tuple[Logits, Float[Tensor, " images"]]:
    """An exact sample as zeros and ones, with the gradient of the exact marginals, and the KL as above: both from one recursion in each direction."""
    behind = suffix_table(logits, chosen)
    smooth = _marginals(logits, chosen, behind)
    drawn = _sample(logits.detach(), chosen, [row.detach() for row in behind], generator).to(logits)
    return drawn + smooth - smooth.detach(), _kl(logits, chosen, behind, smooth)
