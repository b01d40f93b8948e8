"""Machines that a plan is made for: accelerators by their data sheets, or a CPU by its calibration."""

import difflib
import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from lcl.core.config import config
from lcl.flops import Precision, named_peak

Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Accelerator:
    """One of them: its name in torch.cuda, by which `lcl.flops.PEAKS` has its peaks, memory in bytes, and bytes per second to each of the others of its node, one way."""

    torch_name: str
    memory_bytes: float
    link_bytes: float


# Memory and links: NVLink's bandwidth is given for both ways together, and PCI Express per lane; half of that is here.
ACCELERATORS: dict[str, Accelerator] = {
    "b200": Accelerator("NVIDIA B200", 180e9, 900e9),                     # DGX B200 data sheet: 1,440 GB and 14.4 TB/s of NVLink over 8
    "h200": Accelerator("NVIDIA H200", 141e9, 450e9),                     # H200 data sheet
    "h100": Accelerator("NVIDIA H100 80GB HBM3", 80e9, 450e9),            # H100 data sheet, SXM
    "h100-pcie": Accelerator("NVIDIA H100 PCIe", 80e9, 64e9),             # the same, PCIe without bridges: gen 5, 128 GB/s
    "a100-80": Accelerator("NVIDIA A100-SXM4-80GB", 80e9, 300e9),         # A100 data sheet, SXM
    "a100-40": Accelerator("NVIDIA A100-SXM4-40GB", 40e9, 300e9),         # A100 white paper
    "l40s": Accelerator("NVIDIA L40S", 48e9, 32e9),                       # L40S data sheet: PCIe gen 4, 64 GB/s
    "rtx-4090": Accelerator("NVIDIA GeForce RTX 4090", 24e9, 32e9),       # Ada white paper: 24 GB; PCIe gen 4
}  # fmt: skip


@config
class MachineConfig:
    accelerator: str = "h100"
    """Name in the table, or cpu: this machine, or the one whose --calibration is given, with one thread a rank."""
    gpus: Positive = 8
    """GPUs, or ranks on a CPU, in all."""
    gpus_per_node: Positive = 8
    memory_gb: Amount = 0.0
    """Memory of each in GB (1e9 bytes); 0: the table's. Of a CPU, for each rank."""
    peak_tflops: Amount = 0.0
    """Dense peak of each in TFLOP/s in the precision of the run; 0: the table's."""
    link_gb: Amount = 0.0
    """GB/s from one to the others of its node, one way; 0: the table's."""
    network_gbit: Annotated[float, Field(gt=0)] = 400.0
    """Gbit/s of network for each GPU between nodes, one way. Clusters of H100 have 400; a cloud's cheap nodes 10 to 100 for all their GPUs together."""
    price_per_hour: Amount = 0.0
    """Price of one GPU (or rank) for an hour, in any currency; 0: no costs are given."""

    def check(self) -> None:
        """Raises ValueError for an accelerator that is not in the table and is not described either."""
        if self.accelerator in ACCELERATORS or self.accelerator == "cpu":
            return
        if not (self.memory_gb and self.peak_tflops and self.link_gb):
            near = difflib.get_close_matches(self.accelerator, [*ACCELERATORS, "cpu"], n=1)
            raise ValueError(
                f"--machine.accelerator {self.accelerator} is not in the table ({', '.join(ACCELERATORS)}, cpu)" + (f", did you mean {near[0]}?" if near else "")
                + "; else give its --machine.memory-gb, --machine.peak-tflops and --machine.link-gb"
            )

    @property
    def is_cpu(self) -> bool:
        return self.accelerator == "cpu"

    @property
    def memory_bytes(self) -> float:
        """Of each; 0 where it is not known."""
        return 1e9 * self.memory_gb or (ACCELERATORS[self.accelerator].memory_bytes if self.accelerator in ACCELERATORS else 0.0)

    def peak_flops(self, precision: Precision) -> float:
        """Dense peak of each in FLOP/s; 0 for a CPU, of which a calibration tells more."""
        if self.peak_tflops or self.is_cpu:
            return 1e12 * self.peak_tflops
        peak = named_peak(ACCELERATORS[self.accelerator].torch_name, precision=precision)
        assert peak is not None, "every accelerator of the table is in lcl.flops.PEAKS"
        return peak

    @property
    def slowest_link_bytes(self) -> float:
        """Bytes per second that go around a ring over all of them, one way.

        Between nodes there are as many rings as a node has network cards, each leaving it by another (NCCL does so), so a node's cards add up; a GPU's own link bounds the sum.
        """
        link = 1e9 * self.link_gb or (ACCELERATORS[self.accelerator].link_bytes if self.accelerator in ACCELERATORS else math.inf)
        network = 1e9 * self.network_gbit / 8 * min(self.gpus, self.gpus_per_node)
        return link if self.gpus <= self.gpus_per_node and link < math.inf else min(link, network)

    @property
    def num_nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)
