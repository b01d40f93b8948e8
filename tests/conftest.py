"""Shared material of the tests. Shapes and types of the signatures in lcl, pipeline and downstream are checked while tests run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", DS_ACCELERATOR="cpu", RAY_USAGE_STATS_ENABLED="0")

from jaxtyping import install_import_hook  # noqa: E402

CHECKED = [  # modules whose shapes and types are checked while tests run
    "lcl.model", "lcl.vision", "lcl.text", "lcl.attention", "lcl.contrastive", "lcl.losses", "lcl.rows", "lcl.train_step", "lcl.alarms", "lcl.scorers",
    "lcl.evals.zero_shot", "lcl.evals.linear_probe", "lcl.evals.classification", "lcl.evals.retrieval", "lcl.evals.context_retrieval", "lcl.evals.evaluated", "lcl.evals.encode", "lcl.evals.examples", "lcl.evals.image_sets", "lcl.evals.attentive_probe", "lcl.evals.intervals", "lcl.evals.knn", "lcl.evals.few_shot", "lcl.evals.scenes", "lcl.evals.dense_probe", "lcl.evals.fine_tune", "lcl.evals.caption_metrics", "lcl.evals.captioning", "lcl.evals.caption_decoder",
    "lcl.exports.check", "lcl.exports.open_clip_tower", "lcl.exports.timm_names",
    "lcl.use.image_features", "lcl.use.neighbours", "lcl.use.pooling_attention",
    "downstream.codec.rounding", "downstream.codec.gaussian", "downstream.codec.factorised", "downstream.codec.model", "downstream.codec.layers", "downstream.codec.tables", "downstream.codec.integer", "downstream.codec.range_coder", "downstream.codec.image_codec", "downstream.codec.refine", "downstream.codec.adapter",
    "downstream.photographs", "downstream.tiles", "downstream.channel_norm", "downstream.sight",
    "downstream.restore.process", "downstream.restore.sampling", "downstream.restore.consistency", "downstream.restore.network", "downstream.restore.degradations", "downstream.restore.pictures", "downstream.restore.objective", "downstream.restore.perceptual", "downstream.backbones", "downstream.perceptual_distance", "downstream.restore.restoring", "downstream.restore.quality", "downstream.restore.detector", "downstream.restore.token_statistics", "downstream.restore.own_statistics", "downstream.restore.guide", "downstream.restore.teacher", "downstream.restore.tones", "downstream.restore.judges", "downstream.restore.cases", "downstream.restore.choosing",
    "downstream.density.bit_stack", "downstream.density.chain", "downstream.density.tiles", "downstream.density.pictures", "downstream.density.plain", "downstream.density.archive", "downstream.density.diffusion", "downstream.density.schedules", "downstream.density.subsets", "downstream.density.unet", "downstream.density.contexts", "downstream.density.model", "downstream.density.objective", "downstream.density.times", "downstream.density.training_images", "downstream.density.calibration", "downstream.density.likelihood", "downstream.density.sampling", "downstream.density.kernel_distance", "downstream.density.measuring",
]  # fmt: skip
install_import_hook(CHECKED, "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

from tests.warm_python import WarmPython  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)
hypothesis.settings.register_profile("lcl", deadline=None)  # of an example; machines that run this are busy
hypothesis.settings.load_profile("lcl")


STARTS_RAY = ("test_build_kill", "test_build_shards", "test_demo", "test_embed", "test_fetch_ray", "test_find_duplicates", "test_tutorial")


class ByFile(LoadScopeScheduling):
    """Where two test processes share the work (`make test`), a file's tests stay together, for they share fixtures, and no two Rays start at once.

    xdist's own groups (3.8.0) are without effect since pytest 9.2, in silence: it appends them to a name that pytest no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        stem = Path(nodeid.partition("::")[0]).stem
        return "ray" if stem in STARTS_RAY else stem


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


WARM = WarmPython()


def pytest_unconfigure() -> None:
    WARM.stop()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of crawls and reference numbers beside the checkout; a test that needs it is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sample crawl (sample.warc.gz) and its labelled pictures (labelled/)."""
    from pipeline.samples.sample_crawl import SampleCrawlConfig, main

    folder = tmp_path_factory.mktemp("sample")
    main(SampleCrawlConfig(output=str(folder), num_pages=24, num_labelled_train=40, num_labelled_test=20))
    return folder


@pytest.fixture(scope="session")
def shards(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the sample crawl, built in this process. Tests that change them copy the folder first."""
    from tests.builds import build_here

    folder = tmp_path_factory.mktemp("shards")
    build_here([sample / "sample.warc.gz"], folder, shard_documents=8)
    return folder


Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command as a user would, with a home folder of its own; returns its status and output."""

    def run_command(*words: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        bin_folder = str(Path(sys.executable).parent)
        settings = os.environ | {"HOME": str(home), "PATH": bin_folder + os.pathsep + os.environ["PATH"]} | environment
        texts = [str(word) for word in words]
        if WARM.takes(texts, settings):
            return WARM.start(texts, cwd=ROOT, environment=settings).finish(timeout)
        return subprocess.run(texts, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=timeout)

    return run_command


def assert_one_line_error(result: subprocess.CompletedProcess, *parts: str) -> None:
    """The command failed with a single `error: ...` line that holds all `parts`, and no traceback."""
    assert result.returncode != 0, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    for part in parts:
        assert part in lines[0], lines[0]
