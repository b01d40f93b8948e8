"""The contrastive gradients in closed form against autograd, plain NumPy, closed forms, and other layouts over ranks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lcl.contrastive import Contrastive, Twins, contrastive_gradients, contrastive_loss
from tests.processes import run_ranks
from tests.rank_contrastive import WIDTH, gradients_of, make_batch

COUNTS = (0, 1, 2, 5, 17, 40)
EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}


def terms(pooled: np.ndarray, contexts: np.ndarray, logit_scale: float, twins: Twins | None = None) -> np.ndarray:
    """What each image adds to the loss of the batch times its size: half of its two cross-entropies, in loops and float64."""
    latents, contexts = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (pooled.astype(np.float64), contexts.astype(np.float64)))
    images, of_contexts = (None, None) if twins is None else (twins.images.tolist(), twins.contexts.tolist())
    values = []
    for i in range(len(latents)):
        against = [j for j in range(len(latents)) if i == j or twins is None or (images[i] != images[j] and of_contexts[i] != of_contexts[j])]
        own = math.exp(logit_scale) * latents[i] @ contexts[i]
        of_image = [math.exp(logit_scale) * latents[i] @ contexts[j] - own for j in against]
        of_context = [math.exp(logit_scale) * latents[j] @ contexts[i] - own for j in against]
        values.append((np.logaddexp.reduce(of_image) + np.logaddexp.reduce(of_context)) / 2)
    return np.array(values)


def by_autograd(pooled: Tensor, contexts: Tensor, logit_scale: Tensor, twins: Twins | None) -> dict[str, Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (pooled, contexts, logit_scale)]
    loss = contrastive_loss(*leaves, twins=twins)
    names = ("pooled_gradient", "contexts_gradient", "scale_gradient")
    return {"loss": loss.detach()} | dict(zip(names, torch.autograd.grad(loss, leaves), strict=True))


def assert_close(result: Contrastive, expected: dict[str, Tensor], tolerance: float) -> None:
    """Each is within `tolerance` of what is expected, relative to its length; one that is all rounding, within `tolerance` of 0."""
    for name, value in expected.items():
        ours = getattr(result, name)
        assert ours.shape == value.shape and ours.dtype == value.dtype, name
        assert float((ours - value).norm()) <= tolerance * max(float(value.norm()), 1e-2), name


@pytest.mark.parametrize("chunk_elements", [1, 64, 10**6])
@pytest.mark.parametrize("with_twins", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num", COUNTS)
def test_equals_autograd(num: int, dtype: torch.dtype, with_twins: bool, chunk_elements: int) -> None:
    pooled, contexts, logit_scale, twins = make_batch(num, dtype=dtype, seed=num)
    twins = twins if with_twins else None
    result = contrastive_gradients(pooled, contexts, logit_scale, twins=twins, chunk_elements=chunk_elements)
    assert_close(result, by_autograd(pooled, contexts, logit_scale, twins), EXACT[dtype])


@pytest.mark.parametrize("with_twins", [False, True])
@pytest.mark.parametrize("num", COUNTS[1:])
def test_equals_numpy(num: int, with_twins: bool) -> None:
    pooled, contexts, logit_scale, twins = make_batch(num, dtype=torch.float64, seed=num)
    twins = twins if with_twins else None
    expected = terms(pooled.numpy(), contexts.numpy(), float(logit_scale), twins).mean()
    assert float(contrastive_loss(pooled, contexts, logit_scale, twins=twins)) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert float(contrastive_gradients(pooled, contexts, logit_scale, twins=twins, chunk_elements=50).loss) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_made_batches_hold_twins() -> None:
    twins = make_batch(40, dtype=torch.float32, seed=40)[3]
    assert len(set(twins.images.tolist())) < 40 and len(set(twins.contexts.tolist())) < 40


def test_closed_forms() -> None:
    scale = torch.tensor(math.log(10.0), dtype=torch.float64)
    axes, ones = torch.eye(6, dtype=torch.float64), torch.ones(6, 4, dtype=torch.float64)
    orthonormal = contrastive_gradients(axes, axes, scale, twins=None, chunk_elements=12)
    assert float(orthonormal.loss) == pytest.approx(math.log(1 + 5 * math.exp(-10.0)), rel=1e-10)
    assert float(orthonormal.scale_gradient) == pytest.approx(-50 / (math.exp(10.0) + 5), rel=1e-10)
    assert (float(orthonormal.accuracy), orthonormal.positives) == (1.0, 6)
    same = contrastive_gradients(ones, ones, scale, twins=None, chunk_elements=12)
    assert float(same.loss) == pytest.approx(math.log(6), rel=1e-12)
    assert same.pooled_gradient.abs().max() < 1e-12 and abs(float(same.scale_gradient)) < 1e-12


def test_accuracy_counts_images_whose_own_context_is_nearest_but_for_twins() -> None:
    pooled = torch.eye(4)
    contexts = torch.eye(4)[[1, 0, 2, 3]]  # the first two are nearest to each other's
    scale = torch.tensor(1.0)
    assert float(contrastive_gradients(pooled, contexts, scale, twins=None, chunk_elements=4).accuracy) == 0.5
    twins = Twins(images=torch.tensor([7, 7, 8, 9]), contexts=torch.arange(4))
    assert float(contrastive_gradients(pooled, contexts + 0.1, scale, twins=twins, chunk_elements=4).accuracy) == 1.0


def test_opposite_features_at_the_largest_scale_stay_finite() -> None:
    pooled = make_batch(9, dtype=torch.float32, seed=0)[0]
    scale = torch.tensor(math.log(100.0))
    for contexts in (pooled, -pooled):
        result = contrastive_gradients(pooled, contexts, scale, twins=None, chunk_elements=9)
        assert float(result.loss) == pytest.approx(terms(pooled.numpy(), contexts.numpy(), math.log(100.0)).mean(), rel=1e-5, abs=1e-5)
        assert all(torch.isfinite(tensor).all() for tensor in (result.pooled_gradient, result.contexts_gradient, result.scale_gradient))


def test_no_images_give_nothing() -> None:
    result = contrastive_gradients(torch.zeros(0, 4), torch.zeros(0, 4), torch.tensor(1.0), twins=None)
    assert (float(result.loss), float(result.scale_gradient), float(result.accuracy), result.positives) == (0, 0, 0, 0)
    assert result.pooled_gradient.shape == result.contexts_gradient.shape == (0, 4)
    assert float(contrastive_loss(torch.zeros(0, 4), torch.zeros(0, 4), torch.tensor(1.0))) == 0.0


def test_half_precision_is_computed_in_float32_and_nothing_carries_a_graph() -> None:
    pooled, contexts, logit_scale, twins = make_batch(8, dtype=torch.bfloat16, seed=0)
    pooled.requires_grad_()
    result = contrastive_gradients(pooled, contexts, logit_scale, twins=twins)
    exact = contrastive_gradients(pooled.detach().float(), contexts.float(), logit_scale.float(), twins=twins)
    for name in ("loss", "pooled_gradient", "contexts_gradient", "scale_gradient"):
        assert torch.equal(getattr(result, name), getattr(exact, name)) and getattr(result, name).dtype == torch.float32, name
        assert not getattr(result, name).requires_grad, name


@settings(max_examples=40, deadline=None)
@given(num=st.integers(1, 24), seed=st.integers(0, 2**32), chunk_elements=st.integers(1, 200), with_twins=st.booleans())
def test_order_and_length_and_direction_do_not_matter(num: int, seed: int, chunk_elements: int, with_twins: bool) -> None:
    pooled, contexts, logit_scale, twins = make_batch(num, dtype=torch.float64, seed=seed)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))

    def result(pooled: Tensor, contexts: Tensor, twins: Twins) -> Contrastive:
        return contrastive_gradients(pooled, contexts, logit_scale, twins=twins if with_twins else None, chunk_elements=chunk_elements)

    plain = result(pooled, contexts, twins)
    shuffled = result(pooled[order], contexts[order], Twins(twins.images[order], twins.contexts[order]))
    swapped = result(contexts, pooled, Twins(twins.contexts, twins.images))
    longer = result(4 * pooled, contexts, twins)
    for other in (shuffled, swapped, longer):
        torch.testing.assert_close((other.loss, other.scale_gradient), (plain.loss, plain.scale_gradient), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shuffled.pooled_gradient, plain.pooled_gradient[order], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(swapped.contexts_gradient, plain.pooled_gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(longer.pooled_gradient, plain.pooled_gradient / 4, rtol=1e-10, atol=1e-12)


def test_a_duplicate_is_no_negative_of_its_original_and_one_more_of_every_other() -> None:
    """With copy d of image k, term k stays as it was, term d equals it, and every other term gains exp of its similarity to k once more.

    With p_ik the softmax of row i and q_ki of column i before, that is (N+1) L' = N L + l_k + sum_(i != k) [log(1 + p_ik) + log(1 + q_ki)] / 2.
    """
    pooled, contexts, logit_scale, _ = make_batch(11, dtype=torch.float64, seed=3)
    k, others = 4, [i for i in range(11) if i != 4]
    logits = logit_scale.exp() * torch.nn.functional.normalize(pooled, dim=1) @ torch.nn.functional.normalize(contexts, dim=1).T
    row_shares, column_shares = logits.softmax(dim=1), logits.softmax(dim=0)
    before = terms(pooled.numpy(), contexts.numpy(), float(logit_scale))
    expected = before.sum() + before[k] + float((row_shares[others, k].log1p() + column_shares[k, others].log1p()).sum()) / 2
    with_copy = [torch.cat([tensor, tensor[k : k + 1]]) for tensor in (pooled, contexts, torch.arange(11))]
    twins = Twins(images=with_copy[2], contexts=with_copy[2] + 100)
    result = contrastive_gradients(*with_copy[:2], logit_scale, twins=twins, chunk_elements=30)
    assert 12 * float(result.loss) == pytest.approx(expected, rel=1e-12)
    after = terms(with_copy[0].numpy(), with_copy[1].numpy(), float(logit_scale), twins)
    assert after[k] == pytest.approx(before[k], rel=1e-12) and after[-1] == pytest.approx(before[k], rel=1e-12)
    published = contrastive_gradients(*with_copy[:2], logit_scale, twins=None)
    assert float(published.loss) > float(result.loss) + 0.01
    torch.testing.assert_close(result.pooled_gradient[k], result.pooled_gradient[-1])


@pytest.mark.parametrize("shared", ["images", "contexts"])
def test_images_that_are_all_twins_have_no_loss_and_images_that_are_not_have_the_published_one(shared: str) -> None:
    pooled, contexts, logit_scale, _ = make_batch(9, dtype=torch.float64, seed=1)
    one, each = torch.zeros(9, dtype=torch.int64), torch.arange(9)
    twins = Twins(images=one, contexts=each) if shared == "images" else Twins(images=each, contexts=one)
    result = contrastive_gradients(pooled, contexts, logit_scale, twins=twins, chunk_elements=20)
    assert (float(result.loss), float(result.scale_gradient), float(result.accuracy)) == (0.0, 0.0, 1.0)
    assert not result.pooled_gradient.any() and not result.contexts_gradient.any()
    published = contrastive_gradients(pooled, contexts, logit_scale, twins=None, chunk_elements=20)
    distinct = contrastive_gradients(pooled, contexts, logit_scale, twins=Twins(images=each, contexts=each), chunk_elements=20)  # the same number may mean both
    assert torch.equal(distinct.loss, published.loss) and torch.equal(distinct.pooled_gradient, published.pooled_gradient)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation inside returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        outputs = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))])
        return outputs


@pytest.mark.parametrize("with_twins", [False, True])
def test_memory_grows_with_images_and_not_with_pairs(with_twins: bool) -> None:
    num, chunk_elements = 3000, 60_000
    pooled, contexts, logit_scale, twins = make_batch(num, dtype=torch.float32, seed=0)
    twins = twins if with_twins else None
    with LargestTensor() as chunked:
        result = contrastive_gradients(pooled, contexts, logit_scale, twins=twins, chunk_elements=chunk_elements)
    assert chunk_elements // 2 <= chunked.elements <= max(chunk_elements, 2 * num * WIDTH)
    with LargestTensor() as plain:
        loss = contrastive_loss(pooled, contexts, logit_scale, twins=twins)
    assert plain.elements == num * num
    assert float(result.loss) == pytest.approx(float(loss), rel=1e-5)


def layout(*counts: int, dtype: str = "float32", twins: bool = True, chunk_elements: int = 10**6) -> dict[str, object]:
    return {"counts": counts, "dtype": dtype, "twins": twins, "chunk_elements": chunk_elements}


LAYOUTS = {
    2: {
        "even": layout(6, 6, chunk_elements=40),
        "uneven in single rows": layout(3, 10, chunk_elements=1),
        "published": layout(4, 9, twins=False, chunk_elements=30),
        "none on the first": layout(0, 7),
        "none on the last": layout(7, 0, twins=False),
        "one": layout(0, 1),
        "none": layout(0, 0),
        "none published": layout(0, 0, twins=False),
        "in float64": layout(3, 10, dtype="float64", chunk_elements=26),
    },
    4: {
        "uneven": layout(0, 7, 1, 5, chunk_elements=26),
        "uneven published": layout(0, 7, 1, 5, twins=False, chunk_elements=26),
        "uneven in float64": layout(0, 7, 1, 5, dtype="float64"),
        "on one of four": layout(0, 0, 9, 0, chunk_elements=1),
        "on none of four": layout(0, 0, 0, 0),
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every rank of every layout got."""
    folder = tmp_path_factory.mktemp("contrastive")
    for world_size, layouts in LAYOUTS.items():
        (folder / "layouts.json").write_text(json.dumps(layouts))
        run_ranks(["-m", "tests.rank_contrastive", folder / "layouts.json", folder], world_size=world_size)
    return folder


@pytest.mark.parametrize(("world_size", "name"), [(world_size, name) for world_size, layouts in LAYOUTS.items() for name in layouts])
def test_ranks_together_get_what_one_process_gets(folder: Path, world_size: int, name: str) -> None:
    layout = LAYOUTS[world_size][name]
    expected = gradients_of(layout, slice(None))
    ranks = [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(world_size)]
    for key in ("loss", "scale_gradient", "accuracy", "positives"):
        assert all(torch.equal(result[key], ranks[0][key]) for result in ranks), key
    tolerance = 1e-6 if layout["dtype"] == "float32" else 1e-14
    for key in ("loss", "scale_gradient", "pooled_gradient", "contexts_gradient"):
        whole = getattr(expected, key)
        ours = torch.cat([result[key] for result in ranks]) if whole.ndim else ranks[0][key]
        assert ours.shape == whole.shape and ours.dtype == whole.dtype, key
        assert float((ours - whole).norm()) <= tolerance * float(whole.norm()), key
    assert (int(ranks[0]["positives"]), float(ranks[0]["accuracy"])) == (sum(layout["counts"]), float(expected.accuracy))
