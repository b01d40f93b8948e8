"""A codec in one file: weights, integer tables and settings. Its first bytes' hash names it in every image that it compresses.

    NAME.safetensors   weights of the codec by name (`codec.*`), symbol tables (`scales.*`, `channels.*`), whole-number networks (`integers.*`)
                       metadata: schema, kind, settings, lmbdas, what it was trained on, the encoder that its adapter looks through
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from downstream.codec.adapter import Adapter, AdapterConfig
from downstream.codec.cca import CCA, CCAConfig
from downstream.codec.coding import EntropyTables
from downstream.codec.integer import IntegerSynthesis, to_integers
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig
from downstream.codec.model import Codec, Gains
from downstream.codec.range_coder import Models
from downstream.codec.tables import Table, normal_tables, prior_tables
from downstream.encoder_record import EncoderRecord, check_encoder
from downstream.sight import Sight
from downstream.tensor_file import read_model, write_model
from lcl.core.config import config, from_dict, to_dict
from lcl.features import Encoder

SCHEMA = "lcl-codec/1"


@config
class CodecConfig:
    kind: Literal["mean_scale", "cca"] = "mean_scale"
    """mean_scale: Minnen et al. 2018, one group, small and portable. cca: Han et al. 2024, five groups of channels, each predicted from those before."""
    mean_scale: MeanScaleConfig = MeanScaleConfig()
    cca: CCAConfig = CCAConfig()
    num_levels: Annotated[int, Field(ge=1, le=255)] = 1
    """Rates that one model has; 1: one, without gains."""
    adapter: AdapterConfig = AdapterConfig()
    """What a pretrained encoder adds to the analysis; the decoder is the same with it and without."""

    def build(self, *, num_features: int = 0) -> Codec:
        """The codec with random weights; `num_features` are those of the sight of an adapter that reads tokens."""
        codec: Codec = CCA(self.cca) if self.kind == "cca" else MeanScale(self.mean_scale)
        if self.num_levels > 1:
            codec.gains = Gains(self.num_levels, sum(codec.group_sizes))
        if self.adapter.source != "off":
            codec.adapter = Adapter(self.adapter, num_features=num_features, latent_width=sum(codec.group_sizes))
        return codec


@dataclass(frozen=True)
class TrainedCodec:
    codec: Codec
    tables: EntropyTables
    settings: CodecConfig
    lmbdas: tuple[float, ...]
    """Of each level."""
    about: Mapping[str, Any]
    """How it was trained: data, command, commit."""
    hash: int
    """Begins the SHA-256 of its file; 0 of one that is not in a file yet."""
    encoder: EncoderRecord | None = None
    """What encoding needs and decoding does not."""

    def check_sight(self) -> None:
        """Raises ValueError if encoding needs an encoder that was not given."""
        if self.encoder is not None and (self.codec.adapter is None or self.codec.adapter.sight is None):
            raise self.encoder.missing(of="this model's analysis")

    def level(self, value: float) -> Float[Tensor, " images"] | None:
        """The level as the codec takes it. Raises ValueError for one that it does not have."""
        if not 0 <= value <= len(self.lmbdas) - 1:
            raise ValueError(f"level {value:g}: this model has levels from 0 to {len(self.lmbdas) - 1}")
        return None if self.codec.gains is None else torch.tensor([float(value)])

    def lmbda(self, level: float) -> float:
        """The trade-off that a level was trained for; between two, geometrically."""
        return float(np.exp(np.interp(level, range(len(self.lmbdas)), np.log(self.lmbdas))))


@torch.no_grad()
def finish(
    codec: Codec, settings: CodecConfig, lmbdas: tuple[float, ...], about: Mapping[str, Any], examples: Iterable[Float[Tensor, "images 3 height width"]], *, keep_medians: bool = False
) -> TrainedCodec:
    """A codec whose training is over, with its tables; whole-number networks are fitted to the hyper latents of `examples`."""
    codec.eval()
    codec.z_entropy_bottleneck.find_quantiles(keep_medians=keep_medians)
    integers = None
    if isinstance(codec, MeanScale):
        medians = codec.z_entropy_bottleneck.medians
        latents = [codec.analyse(x, None if codec.gains is None else torch.full((len(x),), len(lmbdas) - 1.0))[1] for x in examples]
        integers = to_integers(codec.h_s, medians.flatten(), [(z - medians).round() + medians for z in latents])
    sight = None if codec.adapter is None else codec.adapter.sight
    encoder = None if sight is None else sight.record
    return TrainedCodec(codec, EntropyTables(Models(normal_tables()), Models(prior_tables(codec.z_entropy_bottleneck)), integers), settings, lmbdas, about, 0, encoder)


def save_codec(trained: TrainedCodec, path: Path) -> None:
    tensors = {f"codec.{name}": value.contiguous() for name, value in trained.codec.state_dict().items()}
    for part, models in (("scales", trained.tables.scales), ("channels", trained.tables.channels)):
        tensors |= {f"{part}.{name}": value for name, value in _table_tensors(models.tables).items()}
    if trained.tables.integers is not None:
        tensors |= {f"integers.{name}": value.contiguous() for name, value in trained.tables.integers.tensors().items()}
    needed = None if trained.encoder is None else trained.encoder._asdict()
    write_model(path, tensors, schema=SCHEMA, settings=to_dict(trained.settings), lmbdas=list(trained.lmbdas), about=dict(trained.about), encoder=needed)


def load_codec(path: Path, *, encoder: Encoder | None = None) -> TrainedCodec:
    """The codec of a file; with the `encoder` of its adapter, where it has one, it encodes too.

    Raises ValueError for a file that is damaged or is no codec, and for another encoder than the adapter was trained with.
    """
    found = read_model(path, schema=SCHEMA, what="codec", made_by="lcl train codec")
    metadata = found.metadata
    settings = from_dict(CodecConfig, metadata["settings"], origin=str(path))
    parts: dict[str, dict[str, Tensor]] = {"codec": {}, "scales": {}, "channels": {}, "integers": {}}
    for name, value in found.tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    needed = EncoderRecord(**metadata["encoder"]) if metadata.get("encoder") else None
    codec = settings.build(num_features=0 if needed is None else needed.num_features)
    codec.load_state_dict(parts["codec"])
    if needed is not None and encoder is not None:
        check_encoder(encoder, needed.fingerprint, of=f"the adapter of {path}")
        codec.adapter.sight = Sight(encoder, settings.adapter.sight)
    integers = IntegerSynthesis.from_tensors(parts["integers"]) if parts["integers"] else None
    tables = EntropyTables(*(Models(_tables_of(parts[part])) for part in ("scales", "channels")), integers)
    return TrainedCodec(codec.eval(), tables, settings, tuple(metadata["lmbdas"]), metadata["about"], found.hash, needed)


def _table_tensors(tables: Iterable[Table]) -> dict[str, Tensor]:
    tables = list(tables)
    return {
        "least": torch.tensor([table.least for table in tables], dtype=torch.int32),
        "lengths": torch.tensor([len(table.counts) for table in tables], dtype=torch.int32),
        "counts": torch.from_numpy(np.concatenate([table.counts for table in tables]).astype(np.int32)),
    }


def _tables_of(found: Mapping[str, Tensor]) -> list[Table]:
    counts = torch.split(found["counts"].long(), found["lengths"].tolist())
    return [Table(least, part.numpy()) for least, part in zip(found["least"].tolist(), counts, strict=True)]
