"""Entry point: the files of a cluster, from one profile.

    lcl cluster render --profile cluster/profiles/slurm.toml --output rendered
"""

import logging
import shutil
from pathlib import Path

from cluster.rendered import MARK, render_files
from cluster.settings import read_profile
from lcl.core.config import config, run_command
from lcl.core.files import folder_aside
from lcl.core.logs import set_up_logging


@config
class RenderConfig:
    profile: str
    """TOML file that describes the cluster (cluster/profiles has one for each place; cluster/settings.py says what may stand in it)."""
    output: str
    """Folder for the files; one that was rendered before is replaced."""


def main(settings: RenderConfig) -> None:
    set_up_logging()
    path, output = Path(settings.profile), Path(settings.output)
    text = path.read_text()
    files = render_files(read_profile(text, origin=settings.profile))
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / MARK).exists()):
        raise ValueError(f"--output {output} holds something else: give a new folder, or one that was rendered before")
    with folder_aside(output) as aside:
        for name, content in {**files, MARK: text}.items():
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
            if content.startswith("#!"):
                target.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
    logging.info("%d files in %s; check them with cluster/validate.sh %s", len(files), output, output)


if __name__ == "__main__":
    run_command(RenderConfig, main, description=__doc__.splitlines()[0])
