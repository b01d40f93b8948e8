"""What a frozen encoder sees in a picture, added to the network in two places; both parts start at zero, so that the network starts as the one without an encoder.

    squares of the degraded picture, at full size --encoder--> statistics of several blocks --head, linear--> + the time embedding      (how it is spoilt)
    the whole picture, of few patches enough --encoder--> tokens of one middle block --norm, 1x1, resized--> + the coarsest scale        (what is where)

From the second step on, the tokens are those of the last estimate, which an encoder reads better than the degraded picture; how a picture is spoilt stays what it was.
The head may be that of a trained detector (downstream/restore/detector.py), which is kept as it is. Added and not concatenated, nor attended to: vectors pooled over the
picture at the coarsest scale and heavy cross-attention are reported to hurt.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from downstream.channel_norm import ChannelNorm
from downstream.encoder_record import EncoderRecord
from downstream.restore.process import Images
from downstream.restore.token_statistics import squares, statistics_layers, token_statistics
from downstream.sight import resized
from lcl.core.config import config
from lcl.features import Encoder

Share = Annotated[float, Field(ge=0, le=1)]


@config
class GuideConfig:
    parts: Literal["off", "head", "tokens", "both"] = "off"
    """What the network takes from --encoder: how a picture is spoilt (head), what is where (tokens)."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks whose statistics the head reads; none: those at a quarter and at half, and the last."""
    width: Annotated[int, Field(ge=1)] = 128
    """Of the head's hidden layer."""
    crop_px: Annotated[int, Field(ge=8)] = 64
    """Side of the squares that the head reads."""
    num_crops: Annotated[int, Field(ge=1)] = 16
    """Squares of a picture that it reads, at most."""
    token_layer: int | None = None
    """Block whose tokens are added; none: the middle one."""
    max_patches: Annotated[int, Field(ge=1)] = 1024
    """A picture of more patches is made smaller before its tokens are read; none is enlarged."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of training pictures that are restored without what the encoder sees, so that --no-encoder works."""
    reread: Share = 0.5
    """Share of ir_cm's training states before T whose tokens are of a first estimate, as from the second step on; 0: tokens stay those of the degraded picture."""

    @property
    def describes(self) -> bool:
        return self.parts in ("head", "both")

    @property
    def places(self) -> bool:
        return self.parts in ("tokens", "both")

    @property
    def rereads(self) -> bool:
        return self.places and self.reread > 0


class Added(NamedTuple):
    """What the network adds of a picture."""

    time: Float[Tensor, "images time_width"] | None
    """To the time embedding."""
    places: Float[Tensor, "images coarsest rows columns"] | None
    """To the coarsest scale."""

    def kept(self, keep: Bool[Tensor, " images"]) -> "Added":
        """With zeros for pictures that are not kept, which is the network without an encoder."""
        time = None if self.time is None else self.time * keep[:, None]
        return Added(time, None if self.places is None else self.places * keep[:, None, None, None])


class View:
    """An encoder and what is read of it. It is no module, so that it is not trained, saved or counted with the network."""

    def __init__(self, encoder: Encoder, settings: GuideConfig) -> None:
        """Raises ValueError for a block that the encoder does not have."""
        self.encoder, self.settings = encoder, settings
        self.layers = statistics_layers(encoder, settings.layers)
        self.token_layer = (encoder.num_layers - 1) // 2 if settings.token_layer is None else settings.token_layer
        if not 0 <= self.token_layer < encoder.num_layers:
            raise ValueError(f"model.guide.token_layer is {self.token_layer}: the encoder has {encoder.num_layers} blocks, from 0 to {encoder.num_layers - 1}")

    @property
    def record(self) -> EncoderRecord:
        return EncoderRecord(self.encoder.fingerprint, self.encoder.width, 2 * len(self.layers) * self.encoder.width)

    def statistics(self, x: Images) -> Float[Tensor, "images squares statistics"]:
        found = squares(x, side_px=self.settings.crop_px, most=self.settings.num_crops)
        flat = token_statistics(self.encoder, rearrange(found, "images squares colours rows columns -> (images squares) colours rows columns"), self.layers)
        return rearrange(flat, "(images squares) statistics -> images squares statistics", images=len(x))

    @torch.no_grad()
    def tokens(self, x: Images) -> Float[Tensor, "images features rows columns"]:
        small = resized(x, patch_px=self.encoder.patch_px, max_patches=self.settings.max_patches, enlarge=False)
        features = self.encoder.to(x.device)(small, (self.token_layer,))
        rows, columns = features.grid
        return rearrange(features.layers[0].float(), "images (rows columns) features -> images features rows columns", rows=rows, columns=columns)


class Guide(nn.Module):
    view: View | None
    """None in a network that is used without its encoder."""

    def __init__(self, settings: GuideConfig, record: EncoderRecord, *, time_width: int, coarsest_width: int) -> None:
        """`record` says how much the encoder gives."""
        super().__init__()
        self.settings, self.view = settings, None
        if settings.describes:
            self.head = nn.Sequential(nn.LayerNorm(record.num_statistics), nn.Linear(record.num_statistics, settings.width), nn.SiLU())
            self.to_time = _zero(nn.Linear(settings.width, time_width))
        if settings.places:
            self.norm, self.to_places = ChannelNorm(record.num_features), _zero(nn.Conv2d(record.num_features, coarsest_width, 1))

    def keep_head(self, weights: dict[str, Tensor]) -> None:
        """Takes the head of a trained detector, as it is and for good. Raises ValueError for one of other sizes."""
        own = self.head.state_dict()
        weights = {name: value for name, value in weights.items() if name in own}  # without the detector's last layer
        if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
            raise ValueError("--detector has a head of other sizes: give its --width and --layers as --model.guide.width and --model.guide.layers")
        self.head.load_state_dict(weights)
        self.head.requires_grad_(False)

    def forward(self, x: Images, *, grid: tuple[int, int], seen: Images | None = None) -> Added:
        """Of degraded pictures, for a network whose coarsest scale has this grid; `seen` is what the tokens are read of, if not the degraded pictures."""
        return Added(self.described(x) if self.settings.describes else None, self.placed(x if seen is None else seen, grid=grid) if self.settings.places else None)

    def described(self, x: Images) -> Float[Tensor, "images time_width"]:
        """The mean over squares."""
        return self.to_time(self.head(self._view.statistics(x)).mean(dim=1))

    def placed(self, x: Images, *, grid: tuple[int, int]) -> Float[Tensor, "images coarsest rows columns"]:
        return functional.interpolate(self.to_places(self.norm(self._view.tokens(x))), size=grid, mode="bilinear", align_corners=False)

    @property
    def _view(self) -> View:
        assert self.view is not None, "a network without its encoder is used without its guide"
        return self.view


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
