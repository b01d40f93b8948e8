"""The encoder as an ONNX graph: `images` in [0, 1] of the trained size, any number of them, to `pooled` and `tokens`.

The normalisation is part of the graph.
"""

from pathlib import Path

import onnxruntime
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lcl.exports.check import random_images, require_equal
from lcl.features import Encoder

FILE = "model.onnx"
OPSET = 18
ONE_FILE_BYTES = 1_900_000_000  # protobuf holds less than 2 GiB; weights of larger models go beside (model.onnx.data)


class _Graph(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "images 3 height width"]) -> tuple[Float[Tensor, "images embed"], Float[Tensor, "images patches width"]]:
        features = self.encoder(images)
        return features.pooled, features.tokens


@torch.no_grad()
def write_onnx(folder: Path, encoder: Encoder) -> None:
    """Writes `model.onnx` with PyTorch's exporter."""
    num_bytes = sum(value.numel() * value.element_size() for value in encoder.state_dict().values())
    torch.onnx.export(
        _Graph(encoder).eval(), (random_images(encoder.image_px),), folder / FILE, dynamo=True, opset_version=OPSET, input_names=["images"],
        output_names=["pooled", "tokens"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}}, external_data=num_bytes > ONE_FILE_BYTES, verbose=False,
    )  # fmt: skip


@torch.no_grad()
def check_onnx(folder: Path, encoder: Encoder) -> float:
    """The largest difference in onnxruntime, for batches of 1 and 3. Raises ValueError if it is more than 1e-5."""
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    found = []
    for images in (random_images(encoder.image_px), random_images(encoder.image_px, seed=1)[:1]):
        ours = encoder(images)
        pooled, tokens = session.run(["pooled", "tokens"], {"images": images.numpy()})
        found.append(require_equal(torch.from_numpy(pooled), ours.pooled, what="onnxruntime's pooled latent"))
        found.append(require_equal(torch.from_numpy(tokens), ours.tokens, what="onnxruntime's tokens"))
    return max(found)
