"""Configs: files, hashes, command lines and what they say of mistakes."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import pytest

from lcl.cli import main
from lcl.core.config import claim_folder, config, from_dict, hash_of, run_command, to_dict
from lcl.train_config import PRESETS, TrainConfig
from tests.conftest import ROOT, Run, assert_one_line_error


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_its_file(name: str) -> None:
    value = PRESETS[name]
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(value))), origin="test") == value


def test_hash_depends_on_values_and_not_on_what_is_left_out() -> None:
    toy = PRESETS["toy"]
    other = from_dict(TrainConfig, to_dict(toy) | {"output": "elsewhere"}, origin="test")
    assert hash_of(toy) != hash_of(other)
    assert hash_of(toy, without=("output",)) == hash_of(other, without=("output",))


def test_an_unknown_key_names_the_nearest() -> None:
    values = to_dict(PRESETS["toy"])
    values["model"]["vision"]["widht"] = 3
    with pytest.raises(ValueError, match=r"run.json: unknown key model.vision.widht, did you mean model.vision.width\?"):
        from_dict(TrainConfig, values, origin="run.json")


def test_a_value_out_of_range_names_its_key() -> None:
    with pytest.raises(ValueError, match="steps: .*greater than or equal to 1"):
        from_dict(TrainConfig, to_dict(PRESETS["toy"]) | {"steps": 0}, origin="test")


def test_a_folder_is_claimed_for_what_is_made_in_it(tmp_path: Path) -> None:
    """And what differs is named, each value by its flag."""
    def claim(value: object, **inputs: str) -> None:
        claim_folder(tmp_path, value, free=("seed",), what="a run", **inputs)

    toy = PRESETS["toy"]
    wider = replace(toy, steps=7, optimizer=replace(toy.optimizer, learning_rate=0.5))
    claim(wider, shards="a")
    claim(toy, shards="b")  # nothing was made of the other yet
    (tmp_path / "made").write_text("")
    claim(replace(toy, seed=toy.seed + 1), shards="b")
    with pytest.raises(ValueError) as refused:
        claim(wider, shards="a")
    for said in ("other shards; ", f"--steps {toy.steps} there, 7 now", f"--optimizer.learning-rate {toy.optimizer.learning_rate} there, 0.5 now", "give another folder"):
        assert said in str(refused.value)
    with pytest.raises(ValueError, match="holds something else than a run, of another command or version"):
        claim(Size(), shards="b")
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="is not empty"):
        claim(toy, shards="b")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.vision.widht", "3"], "did you mean --model.vision.width?"),
        (["--preset", "smal"], "did you mean small?"),
        (["--preset", "toy", "--config", "x.json"], "give one of them"),
        (["--config", "missing.json"], "missing.json: no such file"),
        (["--preset", "toy", "--steps", "-1"], "command line: --steps: Input should be"),
        (["--preset", "toy", "--optimizer.learning-rate", "-1"], "--optimizer.learning-rate: Input should be"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(run: Run, flags: list[str], message: str) -> None:
    result = run(sys.executable, "lcl/pretrain.py", "--output", "unused", *flags)
    assert result.returncode != 0
    assert message.lower() in result.stderr.lower() and "Traceback" not in result.stderr, result.stderr


def test_dry_run_prints_the_config_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run(sys.executable, "lcl/pretrain.py", "--preset", "toy", "--output", tmp_path / "run", "--model.vision.layers", "3", "--dry-run", "--local_rank=0")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["model"]["vision"]["layers"] == 3
    assert "ZeRO" in result.stderr and "hours on one" in result.stderr, "what the run will need, without shards, beside the config"
    assert not (tmp_path / "run").exists()


@config
class Size:
    width: int = 3


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_description_goes_to_people_and_the_config_to_machines(dry_run: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    ran = []
    monkeypatch.setattr(sys, "argv", ["size", "--width", "5", *["--dry-run"] * dry_run])
    run_command(Size, ran.append, describe=lambda value: f"{value.width} wide")
    out, err = capsys.readouterr()
    assert (json.loads(out), err, ran) == ({"width": 5}, "5 wide\n", []) if dry_run else (out, err, ran) == ("", "", [Size(width=5)])


@config
class Switched:
    toy: bool = False
    width: int = 1


@config
class Named:
    name: str
    width: int = 1
    kind: Literal["a", "b"] = "a"


def test_a_mistake_that_a_description_finds_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def describe(value: Size) -> str:
        raise ValueError("width is too small")

    monkeypatch.setattr(sys, "argv", ["size", "--dry-run"])
    with pytest.raises(SystemExit) as end:
        run_command(Size, print, describe=describe)
    assert end.value.code == 1 and capsys.readouterr().err == "error: width is too small\n"


@pytest.mark.parametrize("words", [["--toy"], ["--toy", "True"], ["--toy=True"], ["--toy", "--width", "3"], ["--width", "3", "--toy"]])
def test_a_switch_stands_alone_or_has_a_value(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    seen: list[Switched] = []
    monkeypatch.setattr(sys, "argv", ["switched", *words])
    run_command(Switched, seen.append)
    assert seen == [Switched(toy=True, width=3 if "3" in words else 1)]
    monkeypatch.setattr(sys, "argv", ["switched", "--toy", "False"])
    run_command(Switched, seen.append)
    assert seen[-1] == Switched(toy=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--widht", "3"], "unknown option --widht, did you mean --width?"),
        (["--widht", "3", "--kind", "c"], "unknown option --widht, did you mean --width?"),  # not what follows from it
        (["--width", "x"], "value error: Error parsing --width: invalid literal for int() with base 10: 'x'; --help lists the options"),
        (["--kind", "c"], "Expected one of ('a', 'b')"),
        ([], "--name"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list[str], message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["named", *(["--name", "n"] if words else []), *words])
    with pytest.raises(SystemExit) as end:
        run_command(Named, print)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and message in said and said.count("\n") == 1


def test_config_file_gives_the_same_config_back(run: Run, tmp_path: Path) -> None:
    first = run(sys.executable, "lcl/pretrain.py", "--preset", "toy", "--output", "x", "--seed", "7", "--dry-run")
    (tmp_path / "run.json").write_text(json.dumps({"config": json.loads(first.stdout), "commit": "abc"}))
    second = run(sys.executable, "lcl/pretrain.py", "--config", tmp_path / "run.json", "--dry-run")
    assert second.stdout == first.stdout != ""


def test_unknown_command_of_lcl_is_named(run: Run) -> None:
    result = run("lcl", "pretrian")
    assert_one_line_error(result, "pretrian", "did you mean 'pretrain'?")


def test_readers_that_end_early_and_interrupts_during_imports_get_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("--help",), ("train-tokenizer", "--help")):
        reader, writer = os.pipe()
        os.close(reader)
        result = subprocess.run([sys.executable, "-m", "lcl.cli", *words], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(writer)
        assert (result.returncode, result.stderr) == (1, "")
    monkeypatch.setattr("lcl.cli._run", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    monkeypatch.setattr("lcl.cli._run", Mock(side_effect=BrokenPipeError))  # of another pipe than standard output
    with pytest.raises(BrokenPipeError):
        main()


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("lcl.cli._run", Mock(side_effect=ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: this command takes the package 'tensorboard', which is not installed: pip install 'lcl[all]'")
    monkeypatch.setattr("lcl.cli._run", Mock(side_effect=ModuleNotFoundError("No module named 'lcl.gone'", name="lcl.gone")))
    with pytest.raises(ModuleNotFoundError):
        main()


HELPS = """
import contextlib, io, json, runpy, sys
from lcl.cli import COMMANDS, main
texts = {}
for name in COMMANDS:
    sys.argv = ["lcl", *name.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            assert not end.code, name
    texts[name] = " ".join(said.getvalue().split())
print(json.dumps(texts))
"""


def test_every_command_of_lcl_has_help(run: Run) -> None:
    """In one process, for each alone imports what a training needs."""
    listing = run("lcl", "--help").stdout
    for words in (("eval",), ("eval", "--help")):
        of_group = run("lcl", *words)
        assert of_group.returncode == 0 and "lcl eval knn" in of_group.stdout and "lcl embed" not in of_group.stdout
    assert run("lcl", "--version").stdout.strip() == version("lcl") and run("lcl", "eval", "knn", "--help").stdout.startswith("usage: lcl eval knn ")
    result = run(sys.executable, "-c", HELPS)
    assert result.returncode == 0, result.stderr
    for name, text in json.loads(result.stdout.splitlines()[-1]).items():
        # the first write nothing of their own, or into the shards; the others say by place where they write; the doctor writes nothing
        on_models = ("codec encode", "codec decode", "codec info", "codec verify", "restore", "density encode", "density decode", "density verify")
        option = "shards" if name in ("verify", "remove", "card") else "model" if name in on_models else "run" if name == "doctor" else "output"
        says = "The archive" if name == "density info" else f"--{option} .*(older|file)"  # that one takes an archive and nothing else
        assert name in listing and re.search(says, text), name
