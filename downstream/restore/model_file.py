"""A restorer in one file: weights and settings. The file's hash names it in every picture that it restores.

    NAME.safetensors   weights of the network by name
                       metadata: schema, settings, kind of training, tasks, what it was trained on, the encoder that guides it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from downstream.encoder_record import EncoderRecord, check_encoder
from downstream.restore.consistency import Boundary, Form
from downstream.restore.guide import Guide, GuideConfig, View
from downstream.restore.network import NetworkConfig, UNet
from downstream.restore.process import Process, ProcessConfig
from downstream.restore.sampling import check_times
from downstream.restore.tones import Toned
from downstream.tensor_file import read_model, write_model
from lcl.core.config import config, from_dict, to_dict
from lcl.features import Encoder

Kind = Literal["regression", "ir_sde", "ir_cm"]
"""How it was trained, and so how it is used (downstream/restore/objective.py)."""
Device = Literal["cpu", "cuda"]
SCHEMA = "lcl-restorer/1"


@config
class RestorerConfig:
    network: NetworkConfig = NetworkConfig()
    process: ProcessConfig = ProcessConfig()
    form: Form = "residual"
    """What the network's output is: what is to be added to the degraded picture, or the noise in the state (needed by ir_sde)."""
    boundary: Boundary = "time"
    """How a consistency function passes from the state to the estimate: with the time, as published, with the noise in the state, or by least squares around mu."""
    spread_255: Annotated[float, Field(gt=0)] = 7.0
    """Deviation of x_0 - mu in levels of 8 bits, for the boundary mu."""
    times: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Times of a consistency model's second and later steps, as parts of the first; those behind them halve the one before (none: 1/2, 1/4 ..., as published)."""
    renoise: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Part of a state's noise that a consistency model's second and later steps add anew: all of it, as published, or with 0 none, so that they mend what the first found."""
    guide: GuideConfig = GuideConfig()
    """What the network takes from a pretrained encoder."""
    tones: bool = False
    """Whether the network is told how light and dark the whole picture is, beyond the neighbourhood that it sees."""

    def check(self) -> None:
        """Raises ValueError for settings that do not fit together."""
        self.network.check()
        check_times(self.times, option="model.times")
        if self.boundary == "mu" and (self.form == "noise" or self.process.kind == "denoising"):
            raise ValueError("model.boundary mu scales what is added to the degraded picture: give --model.form residual and --model.process.kind reverting, or another boundary")

    def build(self, record: EncoderRecord | None = None) -> UNet:
        """The network with random weights, of equal seeds the same with a guide or tones and without; `record` is of the guide's encoder."""
        network = UNet(self.network)
        if self.guide.parts != "off":
            assert record is not None, "a guide is built for an encoder"
            network.guide = Guide(self.guide, record, time_width=self.network.time_width, coarsest_width=self.network.widths[-1])
        if self.tones:
            network.toned = Toned(time_width=self.network.time_width)
        return network


@dataclass(frozen=True)
class Restorer:
    network: UNet
    settings: RestorerConfig
    kind: Kind
    tasks: tuple[str, ...]
    """What it was trained to undo; `pairs` of a folder of pairs."""
    about: Mapping[str, Any]
    """How it was trained: data, steps, seed, commit."""
    sha256: str
    """Of its file."""
    encoder: EncoderRecord | None = None
    """What guides it; without, it works too, with what it learned from pictures whose tokens were dropped."""

    @property
    def guided(self) -> bool:
        """Whether it has its encoder here."""
        return self.network.guide is not None and self.network.guide.view is not None

    @property
    def process(self) -> Process:
        return Process(self.settings.process)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


def save_restorer(
    path: Path, weights: Mapping[str, Tensor], settings: RestorerConfig, *, kind: Kind, tasks: tuple[str, ...], about: Mapping[str, Any],
    encoder: EncoderRecord | None = None,
) -> None:
    needed = None if encoder is None else encoder._asdict()
    write_model(path, weights, schema=SCHEMA, settings=to_dict(settings), kind=kind, tasks=list(tasks), about=dict(about), encoder=needed)


def load_restorer(path: Path, *, device: Device = "cpu", encoder: Encoder | None = None, needs_encoder: bool = False) -> Restorer:
    """The restorer of a file, guided by `encoder` where it was trained so.

    Raises ValueError for a file that is not there, is damaged or is no restorer, for a device that is not there, for another encoder than guided its training, and,
    with `needs_encoder`, for none where one did.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no such device here; leave it out, or install a PyTorch for this machine's")
    found = read_model(path, schema=SCHEMA, what="restorer", made_by="lcl train restorer")
    metadata = found.metadata
    if metadata["kind"] not in get_args(Kind):
        raise ValueError(f"{path} was trained in a way that is not known here ({metadata['kind']})")
    settings = from_dict(RestorerConfig, metadata["settings"], origin=str(path))
    record = EncoderRecord(**metadata["encoder"]) if metadata.get("encoder") else None
    if record is not None and encoder is None and needs_encoder:
        raise ValueError(f"{path} was trained with the encoder {record.fingerprint[:16]}: give --encoder, its checkpoint, run or export, or --no-encoder True to do without")
    network = settings.build(record)
    network.load_state_dict(found.tensors)
    network = network.to(device, memory_format=torch.channels_last).eval()  # twice as fast on a CPU
    if record is not None and encoder is not None:
        check_encoder(encoder, record.fingerprint, of=str(path))
        network.guide.view = View(encoder, settings.guide)
    return Restorer(network, settings, metadata["kind"], tuple(metadata["tasks"]), metadata["about"], found.sha256, record)
