"""Runs whose checkpoints are at an S3 server on loopback too: a new machine continues them to the same bits, and nothing is lost in silence."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcl.core.config import to_dict
from lcl.core.files import write_json
from lcl.core.mirror import MirrorError
from lcl.core.shard_mirror import publish_shard
from lcl.core.shards import ShardSet, find_shards
from lcl.run_mirror import RunMirror
from lcl.train_config import PRESETS
from tests.processes import run_ranks
from tests.s3_server import Request, s3_server

BUCKET = "runs"


def refuse(request: Request) -> str | None:
    return "403 Forbidden" if request["REQUEST_METHOD"] == "PUT" and "/refused/step-" in request["PATH_INFO"] else None


@pytest.fixture(scope="module")
def lived(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str, list[str]]:
    """The folder of the runs, what each rank saw, what rank 0 printed, and what the store held in the end."""
    folder = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, BUCKET, fail=refuse) as client:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-91c2")
        for shard in find_shards([shards]):
            publish_shard(f"s3://{BUCKET}/shards", shard.path)
        plain = PRESETS["toy"]
        config = replace(plain, data=replace(plain.data, shards=(f"s3://{BUCKET}/shards",), cache=str(folder / "cache")))
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        outputs = run_ranks(["-m", "tests.rank_mirror", folder / "config.json", f"s3://{BUCKET}", folder], world_size=2)
        held = [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], outputs[0], held


def test_a_new_machine_continues_from_the_mirror_to_the_same_bits(lived: tuple) -> None:
    folder, reports, printed, held = lived
    assert reports[0]["undisturbed"] == reports[0]["resumed"] == "done"
    record, before, last = reports[0]["there"]  # keep_checkpoints; a thread that is busy with one passes over the next
    assert record == "run.json" and before in ("step-000002", "step-000004") and last == "step-000006"
    assert f"checkpoint {before}: fetched from s3://runs/run" in printed and f"resumed at step {before[-1]} of 6" in printed
    for name in ("step-000006/model.safetensors", "run.json"):
        assert (folder / "undisturbed" / name).read_bytes() == (folder / "resumed" / name).read_bytes()
    assert {"run/step-000004/manifest.json", "run/step-000006/manifest.json"} < set(held) and not any(name.startswith("run/step-000002") for name in held)


def test_shards_of_an_address_are_fetched_into_the_cache(lived: tuple, shards: Path) -> None:
    folder = lived[0]
    (cached,) = (folder / "cache").iterdir()
    record = json.loads((folder / "undisturbed" / "run.json").read_text())
    assert record["config"]["data"]["shards"] == ["s3://runs/shards"] and record["shards"] == ShardSet([shards]).fingerprint == ShardSet([cached]).fingerprint


def test_what_the_store_refuses_is_a_warning_first_and_an_error_in_the_end(lived: tuple) -> None:
    folder, reports, printed, held = lived
    for report in reports:
        assert "cannot be written: PermissionError" in report["refused"] and "is on this machine alone: the same command puts it there" in report["refused"]
    assert "checkpoint step-000002 is not at the mirror" in printed
    assert json.loads((folder / "refused" / "status.json").read_text()) == {"step": 6, "finished": True}
    assert reports[0]["later"] == "done" and "later/step-000006/manifest.json" in held and "later/run.json" in held


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("other", "the mirror s3://runs/run holds another run (seed was 0, is 1). Give another --mirror"),
        ("begun elsewhere", "s3://runs/run/run.json is of another run than"),
        ("nowhere", "s3://no-such-bucket/run/ cannot be read: FileNotFoundError: The specified bucket does not exist"),
        ("none", "is no address of an object store"),
        ("unequal", "the shards in x: not the same as on rank 0"),
    ],
)  # fmt: skip
def test_mistakes_are_said_on_all_ranks_before_any_step(lived: tuple, name: str, part: str) -> None:
    folder, reports, _, _ = lived
    for report in reports:
        assert part in report[name], report[name]
    assert not (folder / name / "metrics.jsonl").exists() or name == "begun elsewhere"


def test_a_step_that_training_made_anew_takes_the_place_of_the_one_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As after a checkpoint that was damaged here: GPUs need not come to the same bits again."""
    step = tmp_path / "step-000001"
    step.mkdir()
    (tmp_path / "run.json").write_text("{}")
    with s3_server(monkeypatch, BUCKET) as client:
        mirror = RunMirror(tmp_path, f"s3://{BUCKET}/anew", keep=2)
        mirror.claim()
        for content in (b"first", b"second", b"second"):
            (step / "model.safetensors").write_bytes(content)
            write_json(step / "manifest.json", {"sha256": {"model.safetensors": hashlib.sha256(content).hexdigest()}})
            mirror.offer()
            mirror.close()
            assert client.get_object(Bucket=BUCKET, Key="anew/step-000001/model.safetensors")["Body"].read() == content
            assert client.get_object(Bucket=BUCKET, Key="anew/step-000001/manifest.json")["Body"].read() == (step / "manifest.json").read_bytes()
        client.put_object(Bucket=BUCKET, Key="tars/a.tar", Body=b"of a set of shards")
        with pytest.raises(MirrorError, match="s3://runs/tars/a.tar is of no run: give --mirror an address of its own"):
            RunMirror(tmp_path, f"s3://{BUCKET}/tars", keep=2).claim()
    assert sum("training made it anew" in record.message for record in caplog.records) == 1


def test_no_artefact_holds_what_the_environment_keeps_secret(lived: tuple) -> None:
    folder, _, printed, _ = lived
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50 and not any(b"canary-91c2" in path.read_bytes() for path in files) and "canary-91c2" not in printed
