"""Weights of the published code: CCA's own, and CompressAI's of the mean-scale hyperprior."""

from collections.abc import Mapping

from torch import Tensor

from downstream.codec.cca import CCA, Auxiliary, CCAConfig
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig

AUXILIARY = "aux_entropymodel."
EARLIER = {"entropy_bottleneck.": "z_entropy_bottleneck."}  # CompressAI's name where a model has one prior only
DERIVED = ("_offset", "_quantized_cdf", "_cdf_length", "target", "scale_table", "scale_bound", "bound", "pedestal")  # what they compute of their weights


def learned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without what is computed of the rest."""
    return {name: value for name, value in state.items() if name.rpartition(".")[2] not in DERIVED}


def load_cca(state: Mapping[str, Tensor], settings: CCAConfig) -> tuple[CCA, Auxiliary | None]:
    """The codec, and its auxiliary model where the state has one. Raises RuntimeError naming the weights that are missing or of other sizes."""
    state = learned(state)
    codec = CCA(settings)
    codec.load_state_dict({name: value for name, value in state.items() if not name.startswith(AUXILIARY)})
    others = {name.removeprefix(AUXILIARY): value for name, value in state.items() if name.startswith(AUXILIARY)}
    if not others:
        return codec.eval(), None
    auxiliary = Auxiliary(settings)
    auxiliary.load_state_dict(others)
    return codec.eval(), auxiliary.eval()


def load_mean_scale(state: Mapping[str, Tensor], settings: MeanScaleConfig) -> MeanScale:
    """CompressAI's MeanScaleHyperprior. Raises RuntimeError as `load_cca`."""
    codec = MeanScale(settings)
    renamed = {}
    for name, value in learned(state).items():
        for old, new in EARLIER.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        renamed[name] = value
    codec.load_state_dict(renamed)
    return codec.eval()
