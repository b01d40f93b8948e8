"""Classification by the nearest training images: no parameter is fitted."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

CHUNK = 128  # test images whose similarities to all training images exist at one time


@torch.no_grad()
def knn_predict(
    train_features: Float[Tensor, "images embed"], train_labels: Int[Tensor, " images"], test_features: Float[Tensor, "test_images embed"],
    *, k: int = 20, temperature: float = 0.07, num_classes: int, chunk: int = CHUNK,
) -> Int[Tensor, " test_images"]:
    """The label of each test image: argmax_c of the sum of exp(s_i / temperature) over those of its `k` nearest that have label c.

    s_i is the cosine similarity to training image i (Wu et al. 2018, arXiv:1805.01978; with k = 20 and 0.07 in Caron et al. 2021,
    arXiv:2104.14294). Of equally near training images those that come first are taken, of equally heavy classes the lowest label.
    Raises ValueError if there are fewer than `k` training images.
    """
    if k > len(train_features):
        raise ValueError(f"k ({k}) is more than the {len(train_features)} training images: lower --k")
    train = functional.normalize(train_features.float(), dim=-1)
    predicted = []
    for part in functional.normalize(test_features.float(), dim=-1).split(chunk):
        similar = part @ train.T
        nearest = _nearest(similar, k).nonzero()[:, 1].view(len(part), k)
        weights = (similar.gather(1, nearest).double() / temperature).exp()
        votes = (functional.one_hot(train_labels[nearest], num_classes) * weights[..., None]).sum(dim=1)
        predicted.append(votes.argmax(dim=1))  # torch promises the first of equal maxima
    return torch.cat(predicted)


def _nearest(similar: Float[Tensor, "chunk images"], k: int) -> Bool[Tensor, "chunk images"]:
    """Marks the `k` largest of each row; among those equal to the k-th it takes the first. (`topk` leaves their choice open.)"""
    least = similar.topk(k, dim=1).values[:, -1:]
    above, equal = similar > least, similar == least
    return above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= k - above.sum(dim=1, keepdim=True)))
