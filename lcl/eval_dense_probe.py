"""Entry point: a linear probe on patch tokens, for the class of each part of composed scenes, beside random weights and raw pixels."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import set_up_logging
from lcl.evals.dense_probe import DenseProbeConfig, evaluate_dense
from lcl.evals.results import check_output, publish
from lcl.evals.scene_gallery import scene_gallery
from lcl.evals.settings import EvalConfig, open_cache, open_images, open_model


@config
class EvalDenseConfig(EvalConfig):
    dense: DenseProbeConfig = DenseProbeConfig()
    num_shown: Annotated[int, Field(ge=1)] = 8
    """Test scenes in the picture beside the output (OUTPUT.scenes.png)."""


def main(settings: EvalDenseConfig) -> None:
    set_up_logging()
    output = check_output(Path(settings.output), task="dense probe")
    model, images, cache = open_model(settings), open_images(settings), open_cache(settings, beside=output.parent)
    result, segmented = evaluate_dense(
        model, images, cache, seed=settings.seed, controls=settings.controls, settings=settings.dense, num_shown=settings.num_shown
    )  # fmt: skip
    publish(result, output)
    picture = output.with_name(f"{output.stem}.scenes.png")
    with open_aside(picture) as file:
        file.write(scene_gallery(segmented))
    print(f"scenes: {picture.resolve()}")


if __name__ == "__main__":
    run_command(EvalDenseConfig, main, description=__doc__.splitlines()[0])
