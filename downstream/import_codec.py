"""Entry point: weights of the published codecs, CCA's or CompressAI's mean-scale hyperprior, to a codec of ours, for `lcl codec` and `--start-from`.

    python downstream/import_codec.py --weights cca_0.3.pth --lmbda 0.0385 --output cca.safetensors
    python downstream/import_codec.py --kind mean_scale --weights mbt2018_mean_3.pth --lmbda 0.0067 --photographs photos --output mean_scale.safetensors

    weights (no code run) --by their names--> codec, tables of symbols, whole-number networks --> OUTPUT
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from downstream.codec.cca import CCAConfig
from downstream.codec.mean_scale import MeanScaleConfig
from downstream.codec.model import Codec
from downstream.codec.model_file import CodecConfig, finish, save_codec
from downstream.codec.published import load_cca, load_mean_scale
from downstream.photographs import Crops, list_photographs
from lcl.core.config import commit, config, run_command
from lcl.core.files import sha256_of
from lcl.core.logs import set_up_logging
from lcl.published import read_weights

log = logging.getLogger(__name__)

EXAMPLE_PX, EXAMPLES = 256, 16  # crops that whole-number networks are fitted to


@config
class ImportCodecConfig:
    weights: str
    """The file of weights: .pth, .pt or .safetensors."""
    output: str
    """The codec to write (.safetensors)."""
    lmbda: Annotated[float, Field(gt=0)]
    """The weight of the squared error that it was trained for, in bits per pixel (of CCA's: lambda / (beta + alpha)); refinement starts from it."""
    kind: Literal["cca", "mean_scale"] = "cca"
    cca: CCAConfig = CCAConfig()
    """Its sizes; those of a mean_scale follow from the weights."""
    photographs: str = ""
    """Photographs to fit the whole-number networks of the portable profile to, of a mean_scale."""


def main(settings: ImportCodecConfig) -> None:
    set_up_logging()
    weights, output = Path(settings.weights), Path(settings.output)
    if output.exists():
        raise ValueError(f"{output} is there already: remove it, or give another --output")
    if (settings.kind == "mean_scale") != bool(settings.photographs):
        raise ValueError("--photographs is for --kind mean_scale, whose whole-number networks are fitted to some: give it there, and there alone")
    examples = [Crops(list_photographs(Path(settings.photographs)), side_px=EXAMPLE_PX, seed=0).batch(0, range(EXAMPLES))] if settings.photographs else []
    kind, codec = codec_of(read_weights(weights), settings)
    about = {"weights": weights.name, "sha256": sha256_of(weights), "commit": commit()}
    save_codec(finish(codec, kind, (settings.lmbda,), about, examples, keep_medians=True), output)
    log.info("%s: %.1f million parameters", output, sum(parameter.numel() for parameter in codec.parameters()) / 1e6)


def codec_of(state: Mapping[str, Tensor], settings: ImportCodecConfig) -> tuple[CodecConfig, Codec]:
    """Raises ValueError for weights of another kind or of other sizes."""
    try:
        if settings.kind == "cca":
            return CodecConfig(kind="cca", cca=settings.cca), load_cca(state, settings.cca)[0]
        sizes = MeanScaleConfig(width=len(state["g_a.0.weight"]), latent_width=len(state["g_a.6.weight"]))
        return CodecConfig(mean_scale=sizes), load_mean_scale(state, sizes)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{settings.weights} holds no {settings.kind} of these sizes: {' '.join(str(error).split())[:300]}") from error


if __name__ == "__main__":
    run_command(ImportCodecConfig, main, description=__doc__.splitlines()[0])
