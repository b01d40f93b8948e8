"""The comparison with CompressAI: one level as a codec of its own. The comparison itself needs an environment of GB."""

from typing import Any

import pytest
import torch

from downstream.codec.cca import CCAConfig
from downstream.codec.mean_scale import MeanScaleConfig
from downstream.codec.model_file import CodecConfig, finish
from tests.conftest import ROOT
from tests.made_weights import made_weights


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import compressai_peer

    return compressai_peer


@torch.no_grad()
def test_a_level_in_the_weights_is_that_level(peer: Any) -> None:
    kind = CodecConfig(mean_scale=MeanScaleConfig(width=8, latent_width=12), num_levels=3)
    codec = kind.build()
    codec.load_state_dict(made_weights(codec.state_dict()))
    codec.gains.before.copy_(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)))
    codec.gains.after.copy_(torch.randn(3, 12, generator=torch.Generator().manual_seed(1)))
    trained = finish(codec, kind, (0.002, 0.01, 0.05), {}, [torch.rand(1, 3, 64, 64)])
    x = torch.rand(2, 3, 64, 128)
    for level in (0.0, 1.5, 2.0):
        plain = peer.at_one_level(trained, level)
        assert plain.codec.gains is None and plain.lmbdas == (trained.lmbda(level),)
        wanted, found = codec(x, torch.full((2,), level)), plain.codec(x)
        torch.testing.assert_close(found.x_hat, wanted.x_hat)
        torch.testing.assert_close(found.coded.bits, wanted.coded.bits)


def test_other_kinds_are_refused(peer: Any) -> None:
    kind = CodecConfig(kind="cca", cca=CCAConfig(widths=(8, 8, 8), latent_width=20, num_groups=2, num_blocks=0, num_bottlenecks=0, entropy_width=8, entropy_blocks=0, head_widths=(8, 8)))
    trained = finish(kind.build(), kind, (0.01,), {}, [])
    with pytest.raises(ValueError, match="is no codec of kind mean_scale"):
        peer.at_one_level(trained, 0.0)
