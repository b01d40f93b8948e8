"""Entry point: every file of a rendered cluster, checked offline (cluster/validate.sh).

    file --> our checks (cluster/checks) --> and what else is installed: shellcheck, kubectl kustomize, sbatch --test-only
"""

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

from cluster.checks.check_files import check_file, check_files
from cluster.rendered import MARK, render_files
from cluster.settings import read_profile
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging

HERE = Path(__file__).resolve().parent


@config
class ValidateConfig:
    folders: tuple[str, ...] = ()
    """What `lcl cluster render` wrote; none: every profile in cluster/profiles is rendered and checked."""


def main(settings: ValidateConfig) -> None:
    set_up_logging()
    problems = check_file("validate.sh", (HERE / "validate.sh").read_text(), {})
    if settings.folders:
        sets = {name: read_folder(Path(name)) for name in settings.folders}
    else:
        sets = {path.name: _rendered(path) for path in sorted((HERE / "profiles").glob("*.toml"))}
    for name, files in sets.items():
        found = check_files(files) + check_as_rendered(files) + _check_with_tools(files)
        logging.info("%s: %d files, %d problems", name, len(files), len(found))
        problems += [f"{name}/{problem}" for problem in found]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise ValueError(f"{len(problems)} problems in the files of the cluster")


def check_as_rendered(files: Mapping[str, str]) -> list[str]:
    """Where files are not what their profile gives: what no other check knows to be wrong, such as another number, name or place."""
    if MARK not in files:
        return []
    problems = []
    for name, wanted in render_files(read_profile(files[MARK], origin=MARK)).items():
        if name not in files:
            problems.append(f"{name}: not there, and {MARK} gives it: render again")
        elif files[name] != wanted:
            lines = zip_longest(files[name].splitlines(keepends=True), wanted.splitlines(keepends=True), fillvalue="")
            number, (line, other) = next((number, pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1])
            problems.append(f"{name}:{number}: {line.strip()!r} is not what {MARK} gives ({other.strip()!r}): change the profile and render again")
    return problems


def read_folder(folder: Path) -> dict[str, str]:
    try:
        files = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder} holds files that are no text ({error}): give a folder that `lcl cluster render` wrote") from error
    if not files:
        raise ValueError(f"{folder} holds no files: give a folder that `lcl cluster render` wrote")
    return files


def _rendered(path: Path) -> dict[str, str]:
    text = path.read_text()
    return render_files(read_profile(text, origin=str(path))) | {path.name: text}


def _check_with_tools(files: Mapping[str, str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        scripts = [name for name in files if name.endswith((".sh", ".sbatch"))]
        commands = {"shellcheck": [["shellcheck", "--shell=bash", "--exclude=SC1091", *scripts]] if scripts else []}  # 1091: files that setup lines source are elsewhere
        commands["kubectl"] = [["kubectl", "kustomize", str(Path(name).parent)] for name in files if name.endswith("kustomization.yaml")]
        commands["sbatch"] = [["sbatch", "--test-only", name] for name in files if name.endswith(".sbatch")] if _slurm_answers() else []
        problems = []
        for tool, calls in commands.items():
            if calls and shutil.which(tool) is None:
                logging.warning("%s is not installed: its check is left out", tool)
                continue
            for call in calls:
                done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
                if done.returncode:
                    problems.append(f"{' '.join(call)}: {(done.stdout + done.stderr).strip()}")
        return problems


def _slurm_answers() -> bool:
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True, timeout=30).returncode == 0


if __name__ == "__main__":
    run_command(ValidateConfig, main, description=__doc__.splitlines()[0])
