"""An average of the network over the steps of its training, for what an earlier state is to come to.

IR-CM's text has such an average (f' of its Eq. 14), its algorithms the network itself; improved consistency training (Song and Dhariwal, arXiv:2310.14189) found none to be better.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from downstream.restore.guide import Added
from downstream.restore.network import UNet
from downstream.restore.process import Images, Times


class Teacher(nn.Module):
    """a <- d a + (1 - d) w before each step, d = min(decay, (1 + step) / (10 + step)) as in lcl/ema.py. Kept in buffers: checkpoints have them, no optimiser does."""

    def __init__(self, network: UNet, decay: float) -> None:
        super().__init__()
        self._decay, self._names = decay, [name for name, _ in network.named_parameters()]
        for number, value in enumerate(network.parameters()):
            self.register_buffer(f"weight_{number}", value.detach().clone())

    def weights(self) -> dict[str, Tensor]:
        """The average by the names that the network has."""
        return {name: getattr(self, f"weight_{number}") for number, name in enumerate(self._names)}

    @torch.no_grad()
    def update(self, network: UNet, *, step: int) -> None:
        kept = min(self._decay, (1 + step) / (10 + step))
        for own, value in zip(self.weights().values(), network.parameters(), strict=True):
            own.lerp_(value, 1 - kept)

    @torch.no_grad()
    def forward(self, network: UNet, x_t: Images, degraded: Images, share: Times, added: Added | None) -> Images:
        """What the network says with the averaged weights; what its guide adds is given."""
        return functional_call(network, self.weights(), (x_t, degraded, share, added))
