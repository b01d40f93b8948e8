"""The files of a cluster: rendered from the committed profiles, right as they are, and wrong with any one of their fields misspelt."""

import json
import os
import re
import shutil
import stat
import subprocess
import time
import tomllib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from cluster.checks.check_files import check_file, check_files
from cluster.checks.kubernetes import objects_in
from cluster.checks.shell import check_shell
from cluster.kubernetes_files import RAY_VERSION
from cluster.render import RenderConfig, main
from cluster.rendered import render_files
from cluster.settings import Profile, read_profile
from cluster.validate import check_as_rendered, read_folder
from lcl.engine import EngineConfig, deepspeed_settings
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.misspelt import misspelt

PROFILES = sorted((ROOT / "cluster" / "profiles").glob("*.toml"))
NAMES = [path.stem for path in PROFILES]
CANARY = "canary0123456789abcdefCANARY"


@cache
def profile(name: str) -> Profile:
    return read_profile((ROOT / "cluster" / "profiles" / f"{name}.toml").read_text(), origin=name)


@cache
def rendered(name: str) -> dict[str, str]:
    return render_files(profile(name)) | {f"{name}.toml": (ROOT / "cluster" / "profiles" / f"{name}.toml").read_text()}


def changed(name: str, *pairs: tuple[str, str]) -> str:
    text = rendered(name)[f"{name}.toml"]
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wrong_with_what_is_rendered(name: str) -> None:
    assert check_files(rendered(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_misspelt_field_is_found(name: str) -> None:
    """The promise of cluster/: one letter too many in any field of any file, one at a time."""
    passed, checked = [], 0
    for file, text in rendered(name).items():
        for field, wrong in misspelt(file, text):
            assert wrong != text
            checked += 1
            if not check_file(file, wrong, rendered(name) | {file: wrong}):
                passed.append(f"{file}: {field}")
    assert passed == [] and checked > 80, f"{len(passed)} of {checked}"


def test_every_file_has_fields_or_is_a_list() -> None:
    assert len(NAMES) == 3
    for name in NAMES:
        for file, text in rendered(name).items():
            assert any(misspelt(file, text)) or file.endswith(".dockerignore"), file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[data]", "[data]\nnodess = 2"), "unknown key data.nodess, did you mean data.nodes?"),
        (('output = "/shared/shards"', 'output = "shards"'), "data.output"),
        (('crawl = ["/shared/crawl/*.warc.gz"]', 'crawl = ["crawl"]'), "data.crawl crawl is a relative path"),
        (("[environment]", '[environment]\nAWS_SECRET_ACCESS_KEY = "x"'), "environment.AWS_SECRET_ACCESS_KEY looks like a secret"),
        *((("[environment]", f'[environment]\n{name} = "x"'), f"environment.{name} looks like a secret") for name in ("AWS_ACCESS_KEY_ID", "GITHUB_PAT", "DB_PASS", "HF_TOKEN_VALUE", "AZURE_STORAGE_SAS")),
        (("[environment]", '[environment]\nhttps_proxy = "http://me:hunter2@proxy:3128"'), "environment.https_proxy holds what looks like a secret, which"),
        (('crawl = ["/shared/crawl/*.warc.gz"]', 'crawl = ["https://me:hunter2@host/a.warc.gz"]'), "data.crawl holds what looks like a secret"),
        (("[environment]", '[environment]\nRAY_AUTH_MODE = "disabled"'), "environment.RAY_AUTH_MODE is set by the files themselves"),
        (("[environment]", '[environment]\nTWO_LINES = "a\\nb"'), "has a character that no line of a script can hold"),
        (('output = "/shared/shards"', 'output = "s3://bucket/shards"'), "data.output"),
        *((("[slurm]", f'[ray]\ndashboard_host = "{host}"\n[slurm]'), "opens the job interface to everyone, or is no address") for host in ("0.0.0.0", "0", "::", "[::]", "0:0:0:0:0:0:0:0", "8.8.8.8", "$(id)", "")),
        (("[slurm]", "[ray]\nport = 10005\n[slurm]"), "must differ, and lie outside"),
        (("[slurm]", "[ray]\nfirst_worker_port = 30000\n[slurm]"), "must be below ray.last_worker_port"),
        (("gpus = 8", "gpus = 8\nzero_stage = 0\noffload = true"), "train.offload takes ZeRO"),
        (('places = ["slurm"]', 'places = ["hosts"]'), "hosts.names is empty"),
        (('places = ["slurm"]', 'places = ["hosts"]\nhosts.names = ["a"]'), "must not exceed the 1 hosts.names"),
        (('places = ["slurm"]', 'places = ["hosts"]\nhosts.names = ["a", "b", "a", "c"]'), "each host once"),
        (('places = ["slurm"]', 'places = ["hosts"]\nhosts.names = ["-oProxyCommand=id"]'), "hosts.names"),
        (('places = ["slurm"]', 'places = ["kubernetes"]'), "is not below kubernetes.mount"),
        (("[data]", "[data"), "is no TOML"),
    ],
)  # fmt: skip
def test_a_wrong_profile_names_the_key(change: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_profile(changed("slurm", change), origin="my.toml")


def test_rendering_by_command_replaces_its_own_folder_only(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["lcl", "cluster", "render", "--profile", ROOT / "cluster" / "profiles" / "hosts.toml", "--output", output]
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert (output / "deepspeed" / "launch.sh").stat().st_mode & stat.S_IXUSR and (output / "ray" / "cluster.yaml").is_file()
    assert validate(output) == []
    for name, old, new in (("deepspeed/launch.sh", "--launcher pdsh", "--launcher pdhs"), ("ray/start_worker.sh", ":6379", ":6380"), ("ray/copy_token.sh", "ray_token", "ray_tokens"), ("deepspeed/hostfile", "slots=", "slots=1")):
        text = (output / name).read_text()
        (output / name).write_text(text.replace(old, new, 1))
        assert old in text and any("is not what rendered-from.toml gives" in problem and problem.startswith(f"{name}:") for problem in validate(output)), name
        (output / name).write_text(text)
    (output / "ray" / "submit.sh").unlink()
    assert any("ray/submit.sh: not there" in problem for problem in validate(output))
    (output / "left").touch()
    assert run(*command).returncode == 0 and not (output / "left").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    assert_one_line_error(run(*command[:-1], other), "holds something else")


def validate(folder: Path) -> list[str]:
    """What `validate.sh` says of a folder by its profile alone."""
    return check_as_rendered(read_folder(folder))


def test_a_profile_called_so_is_no_mark(run: Run, tmp_path: Path) -> None:
    """A folder with somebody's profile and notes is not taken for a rendered one."""
    (tmp_path / "profile.toml").write_text(changed("slurm"))
    assert_one_line_error(run("lcl", "cluster", "render", "--profile", tmp_path / "profile.toml", "--output", tmp_path), "holds something else")
    assert (tmp_path / "profile.toml").exists()


def test_paths_of_secrets_are_none_and_what_a_shell_would_read_is_refused_for_hosts() -> None:
    path = ("[environment]", '[environment]\nGOOGLE_APPLICATION_CREDENTIALS = "/shared/key.json"')
    assert "GOOGLE_APPLICATION_CREDENTIALS=/shared/key.json" in render_files(read_profile(changed("hosts", path), origin="test"))["deepspeed/deepspeed_env"]
    odd = ("[environment]", "[environment]\nODD = \"a b; id\"")
    with pytest.raises(ValueError, match="environment.ODD is 'a b; id': DeepSpeed's launcher gives it to a shell"):
        render_files(read_profile(changed("hosts", odd), origin="test"))
    assert "ODD='a b; id'" in render_files(read_profile(changed("slurm", odd), origin="test"))["slurm/train.sbatch"]


def test_every_job_with_a_ray_has_a_token_of_its_own() -> None:
    for name in ("data_ray", "data_array"):
        script = rendered("slurm")[f"slurm/{name}.sbatch"]
        assert 'RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.lcl/ray_token-$SLURM_JOB_ID"' in script and "umask 077" in script and "rm -f" in script


def test_zero_files_hold_partitioning_only_and_the_trainer_takes_them(tmp_path: Path) -> None:
    files = render_files(read_profile(changed("slurm", ("gpus = 8", "gpus = 8\nzero_stage = 3\noffload = true")), origin="test"))
    for stage in (1, 2, 3):
        path = tmp_path / f"zero{stage}.json"
        path.write_text(files[f"deepspeed/zero{stage}.json"])
        settings = deepspeed_settings(EngineConfig(zero_stage=stage, offload="cpu", deepspeed=str(path)), micro_rows=1, accumulation=1, clip_norm=1.0)
        assert settings["zero_optimization"]["stage"] == stage and set(json.loads(path.read_text())) == {"zero_optimization"}
    assert settings["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}


def test_ranks_read_what_srun_says(tmp_path: Path) -> None:
    script = tmp_path / "rank.sh"
    script.write_text(rendered("slurm")["slurm/rank.sh"])
    slurm = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16"}
    result = subprocess.run(["bash", script, "bash", "-c", 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $1"', "_", "a b"], env=os.environ | slurm, capture_output=True, text=True)
    assert result.stdout == "9 1 16 a b\n", result.stderr


def test_a_pod_passes_the_signal_on_and_counts_an_unfinished_run_as_failed(tmp_path: Path) -> None:
    """The shell of the training pod with another launcher: SIGTERM reaches it, and status.json decides."""
    (job,) = (item for item in objects_in(rendered("kubernetes")["k8s/base/train_job.yaml"]) if item["kind"] == "Job")
    status = tmp_path / "status.json"
    lines = job["spec"]["template"]["spec"]["containers"][0]["command"][2].splitlines()
    launch = next(line for line in lines if line.startswith("torchrun"))
    launcher = "bash -c 'trap \"echo saved; exit 0\" TERM; echo up; for _ in {1..400}; do sleep 0.05; done' &"
    script = "\n".join(lines).replace(launch, launcher).replace("/data/runs/b32/status.json", str(status))
    for finished, expected in (("true", 0), ("false", 1)):
        status.write_text(f'{{"finished": {finished}}}')
        process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "up\n"
        time.sleep(0.3)  # the shell goes on to its wait
        process.terminate()
        assert (process.communicate(timeout=20)[0], process.returncode) == ("saved\n", expected)


def test_the_job_interface_asks_for_a_token_wherever_ray_starts() -> None:
    assert check_shell("ray start --head --dashboard-host 127.0.0.1") == ["it starts Ray without RAY_AUTH_MODE=token: everyone who reaches it could run jobs"]
    assert any("give --dashboard-host" in problem for problem in check_shell("export RAY_AUTH_MODE=token\nray start --head --dashboard-host 0.0.0.0"))
    for name in ("ray_cluster", "data_job"):
        text = rendered("kubernetes")[f"k8s/base/{name}.yaml"]
        assert check_file(f"k8s/base/{name}.yaml", text.replace("mode: token", "mode: disabled"), {})


def test_no_secret_is_in_any_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """What the environment holds while files are rendered stands in none of them, nor in what is printed."""
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, CANARY)
    for path in PROFILES:
        main(RenderConfig(profile=str(path), output=str(tmp_path / path.stem)))
    assert CANARY not in "".join(capfd.readouterr())
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix]
    assert len(found) > 25 and not [path for path in found if CANARY in path.read_text()]
    assert check_file("a.sh", "export TOKEN_OF_MINE=x # password: hunter2hunter2hunter2", {})[0] == "it holds what looks like a secret"


def test_the_token_is_made_with_mode_0600(tmp_path: Path) -> None:
    """The lines of start_head.sh before Ray starts, in a home folder of their own."""
    text = rendered("hosts")["ray/start_head.sh"].replace("source /shared/lcl/.venv/bin/activate", "").partition("exec ray")[0]
    for _ in range(2):  # the second time it is there
        assert subprocess.run(["bash", "-c", f"umask 022\n{text}"], env=os.environ | {"HOME": str(tmp_path)}).returncode == 0
    token = tmp_path / ".lcl" / "ray_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and re.fullmatch("[0-9a-f]{64}\n", token.read_text())
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_validate_is_green_here_and_red_for_a_misspelt_field(run: Run, tmp_path: Path) -> None:
    assert run(ROOT / "cluster" / "validate.sh").returncode == 0
    folder = tmp_path / "out"
    shutil.copytree(ROOT / "cluster" / "profiles", folder)  # any folder of files that it knows
    assert run(ROOT / "cluster" / "validate.sh", folder).returncode == 0
    (folder / "slurm.toml").write_text(changed("slurm", ("partition", "partitoin")))
    assert_one_line_error(run(ROOT / "cluster" / "validate.sh", folder), "1 problems")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, whose kustomize is compared with our own application of patches")
def test_kustomize_leaves_what_our_check_saw(tmp_path: Path) -> None:
    for name, text in rendered("kubernetes").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for overlay, gpus in (("gpu", "8"), ("cpu-smoke", None)):
        result = subprocess.run(["kubectl", "kustomize", tmp_path / "k8s" / "overlays" / overlay], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(result.stdout)}
        train = objects["Job", "lcl-train"]["spec"]["template"]["spec"]["containers"][0]
        assert train["resources"]["limits"].get("nvidia.com/gpu") == gpus and ("--preset toy" in train["command"][2]) == (gpus is None)
        assert {item["metadata"]["namespace"] for item in objects.values()} == {"lcl"}


def test_versions_are_the_projects_own() -> None:
    assert version("ray") == RAY_VERSION
    assert {path.stem for path in PROFILES} == {"slurm", "hosts", "kubernetes"}
    assert {place for path in PROFILES for place in tomllib.loads(path.read_text())["places"]} == {"slurm", "hosts", "kubernetes", "docker"}


def test_inputs_are_divided_without_loss(run: Run, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.warc.gz").touch()
    found = []
    for part in range(2):
        output = tmp_path / f"part-{part}.paths"
        assert run("python", "-m", "cluster.divide_inputs", "--crawl", tmp_path / "*.warc.gz", "--parts", 2, "--part", part, "--output", output).returncode == 0
        found += output.read_text().split()
    assert sorted(found) == [str(tmp_path / f"{number}.warc.gz") for number in range(5)]
    assert_one_line_error(run("python", "-m", "cluster.divide_inputs", "--crawl", tmp_path / "*.warc.gz", "--parts", 9, "--part", 8, "--output", "x"), "none in part 8")
