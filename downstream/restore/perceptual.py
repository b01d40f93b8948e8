"""How far two pictures are in what a pretrained network sees of them: the perceptual term of training. By default the network is our own encoder, for which nothing has to be downloaded."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms.functional import normalize

from downstream.backbones import weights_file
from downstream.restore.process import Images
from lcl.features import Encoder

VGG_LEAST_PX = 32    # of which the fifth pooling leaves one place
SECOND_POOLING = 10  # layers of VGG16 up to it, itself among them; the fifth is the last
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the colours that torchvision's weights were trained with


Perceptual = Callable[[Images, Images], Float[Tensor, ""]]
"""Of estimates and clean pictures in [0, 1] the mean distance; gradients flow to the estimates."""


class EncoderDistance:
    """Mean squared difference of patch tokens of middle blocks, each token brought to mean 0 and variance 1 over its width. No module: its weights are not trained."""

    def __init__(self, encoder: Encoder, layers: tuple[int, ...] = ()) -> None:
        """`layers` are numbers of blocks, from 0; none: the middle one. Raises ValueError for one that the encoder does not have."""
        self.encoder = encoder
        self.layers = layers or ((encoder.num_layers - 1) // 2,)
        if not all(0 <= layer < encoder.num_layers for layer in self.layers):
            raise ValueError(f"objective.perceptual_layers are {' '.join(map(str, layers))}: the encoder has {encoder.num_layers} blocks, from 0 to {encoder.num_layers - 1}")

    def __call__(self, x: Images, clean: Images) -> Float[Tensor, ""]:
        """The mean over images and layers; gradients flow to `x`."""
        self.encoder.to(x.device)
        found = self.encoder(x, self.layers).layers
        with torch.no_grad():
            wanted = self.encoder(clean, self.layers).layers
        return torch.stack([functional.mse_loss(_normed(one), _normed(two)) for one, two in zip(found, wanted, strict=True)]).mean()


class VGGDistance:
    """Mean squared difference behind the second and the fifth pooling of VGG16, which is what IR-CM took (NeurIPS 2024, section 4). No module: its weights are not trained."""

    def __init__(self) -> None:
        """Raises ValueError where PyTorch's cache lacks the weights."""
        weights = torch.load(weights_file("vgg", wanted_by="objective.perceptual vgg16"), weights_only=True, mmap=True)
        layers = make_layers(cfgs["D"]).eval().requires_grad_(False)
        layers.load_state_dict({name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")})
        self.parts = (layers[:SECOND_POOLING], layers[SECOND_POOLING:])

    def __call__(self, x: Images, clean: Images) -> Float[Tensor, ""]:
        """The mean over images and both places; pictures have at least VGG_LEAST_PX a side."""
        with torch.no_grad():
            wanted = self.features(clean)
        return torch.stack([functional.mse_loss(one, two) for one, two in zip(self.features(x), wanted, strict=True)]).mean()

    def features(self, x: Images) -> list[Float[Tensor, "images _ _ _"]]:
        found = [normalize(x.float(), IMAGENET_MEAN, IMAGENET_STD)]
        for part in self.parts:
            found.append(part.to(x.device)(found[-1]))
        return found[1:]


def _normed(tokens: Float[Tensor, "images patches width"]) -> Float[Tensor, "images patches width"]:
    return functional.layer_norm(tokens.float(), tokens.shape[-1:])
