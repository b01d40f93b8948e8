"""A config is a frozen dataclass; its command line, its file and its hash are derived from it.

    preset or run.json --> defaults --> command line (dotted flags) --> validated config --> run.json
"""

import dataclasses
import difflib
import errno
import hashlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tyro

from lcl.core.files import read_json, write_json

Config = TypeVar("Config")

COMMAND_LINE = "command line"  # as the origin of values
OUR_FLAGS = ("preset", "config", "dry-run")
CURES = {
    errno.ENOSPC: ": make room, or give another --output", errno.EACCES: ": this user may not read or write it; name another place, or change its rights",
    errno.EROFS: ": name a place that can be written to", errno.EEXIST: ": a file is where a folder is to be; name another place", errno.ENOTDIR: ": a file is where a folder is to be; name another place",
}  # fmt: skip
MOST_EXPLAINED = 10  # mistakes of a file, which may have as many as it has values

program: str | None = None  # what the usage line calls the command, set by `lcl`; of a script its file


def config(cls: type[Config]) -> type[Config]:
    """Class decorator: a frozen, keyword-only dataclass that refuses unknown keys when it is read from a file."""
    cls.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


_adapter = cache(pydantic.TypeAdapter)  # takes milliseconds to make, and a task of a build asks for it several times


def to_dict(value: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_dict(cls: type[Config], values: Mapping[str, Any], *, origin: str) -> Config:
    """The config that `values` spell out. Raises ValueError naming `origin`, the key and the nearest known key."""
    try:
        return _adapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        lines = [_explain(cls, item, as_flags=origin == COMMAND_LINE) for item in error.errors()[:MOST_EXPLAINED]]
        more = error.error_count() - len(lines)
        raise ValueError(f"{origin}: {'; '.join(lines)}" + (f"; and {more} more" if more else "")) from error


def _explain(cls: type, item: Mapping[str, Any], *, as_flags: bool) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{flag_of(key) if key and as_flags else key or 'config'}: {item['msg']}"
    near = difflib.get_close_matches(key, _dotted_keys(cls), n=1)
    return f"unknown key {key}" + (f", did you mean {near[0]}?" if near else "")


def _dotted_keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every key with the type of its value."""
    keys = {}
    for field in dataclasses.fields(cls):
        keys[prefix + field.name] = field.type
        if dataclasses.is_dataclass(field.type):
            keys |= _dotted_keys(field.type, f"{prefix}{field.name}.")
    return keys


def flags(cls: type) -> dict[str, Any]:
    """Every option of the command line with the type of its value."""
    return {flag_of(key): kind for key, kind in _dotted_keys(cls).items() if not dataclasses.is_dataclass(kind)}


def flag_of(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _with_values(cls: type[Any], arguments: Sequence[str]) -> list[str]:
    """The arguments, with True behind each switch that stands alone: `--keep-rejects` says what `--keep-rejects True` says."""
    switches = [flag for flag, kind in flags(cls).items() if kind is bool]
    completed: list[str] = []
    for item, following in pairwise([*arguments, "--"]):
        completed.append(item)
        if item.replace("_", "-") in switches and following.startswith("-"):
            completed.append("True")
    return completed


def hash_of(value: Any, *, without: Sequence[str] = ()) -> str:
    """Hex digest that is equal for equal configs; `without` names top-level fields that do not count."""
    plain = to_dict(value)
    for name in without:
        plain.pop(name)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def run_command(
    cls: type[Config], main: Callable[[Config], None], *, presets: Mapping[str, Config] | None = None, description: str = "",
    describe: Callable[[Config], str] | None = None,
) -> None:  # fmt: skip
    """Parses the command line into `cls` and calls `main`: the body of every entry point.

    `--preset NAME` or `--config run.json` chooses the defaults, `--dry-run` prints the resolved config as JSON and stops; what
    `describe` says of it goes to stderr.
    A ValueError or an OSError, which a user can mend, ends the process with one line and status 2 or 1.
    """
    arguments = [item for item in sys.argv[1:] if not item.startswith("--local_rank")]  # the DeepSpeed launcher appends it
    try:
        ours, rest = _take_our_flags(arguments)
        default = _default_config(cls, ours, presets or {})
    except ValueError as error:
        sys.exit(_failure(error, status=2))
    notes = [description.removeprefix("Entry point: ").strip()]
    if presets:
        notes.append(f"--preset NAME starts from a named config: {', '.join(presets)}.")
    notes.append("--config RUN.json starts from the config of an earlier run. --dry-run prints the resolved config and stops.")
    kwargs = {} if default is None else {"default": default}
    try:
        value = _parse(cls, _with_values(cls, rest), description="\n\n".join(notes), **kwargs)
    except ValueError as error:
        sys.exit(_failure(error, status=2))
    try:
        value = from_dict(cls, to_dict(value), origin=COMMAND_LINE)
        if "dry-run" in ours:
            print(json.dumps(to_dict(value), indent=1), flush=True)
            if describe is not None:
                print(describe(value), file=sys.stderr)
            return
        main(value)
    except KeyboardInterrupt:
        print("interrupted; the same command continues, or begins anew where it keeps nothing", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        sys.exit(_failure(error, status=1))


def _parse(cls: type[Config], arguments: Sequence[str], **kwargs: Any) -> Config:
    """What tyro reads. Its own account of a mistake takes a screen: raises ValueError that says it in a line, unknown options first."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            value, unknown = tyro.cli(cls, prog=program, args=arguments, config=(tyro.conf.FlagConversionOff,), return_unknown_args=True, **kwargs)
    except SystemExit as end:
        if not end.code:
            raise
        unknown = [item for item in arguments if item.startswith("--") and item.partition("=")[0].replace("_", "-") not in flags(cls)]
        if not unknown:
            account = re.split(r"For\s+full\s+helptext|Argument\s+helptext", re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()))[0]
            title, *lines = [line for part in account.splitlines() if (line := part.strip("│╭╮╰╯─ ").strip()) and line.strip("-")]
            raise ValueError(f"{title.lower()}: {' '.join(lines)}; --help lists the options") from end
    if unknown:
        near = difflib.get_close_matches(unknown[0].partition("=")[0], flags(cls), n=1)
        raise ValueError(f"unknown option {unknown[0]}" + (f", did you mean {near[0]}?" if near else "; --help lists the options"))
    return value


def _failure(error: Exception, *, status: int) -> int:
    cure = CURES.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    named = isinstance(error, OSError) and error.filename and error.strerror
    print(f"error: {f'{error.filename}: {error.strerror}' if named else error}{cure}", file=sys.stderr)
    return status


def _take_our_flags(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    ours: dict[str, str] = {}
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or name not in OUR_FLAGS:
            rest.append(item)
        elif name == "dry-run":
            ours[name] = ""
        else:
            ours[name] = value if equals else next(items, "")
            if not ours[name]:
                raise ValueError(f"--{name} needs a value")
    if "preset" in ours and "config" in ours:
        raise ValueError("--preset and --config both choose the defaults; give one of them")
    return ours, rest


def _default_config(cls: type[Config], ours: Mapping[str, str], presets: Mapping[str, Config]) -> Config | None:
    if "preset" in ours:
        if ours["preset"] not in presets:
            near = difflib.get_close_matches(ours["preset"], presets, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"no preset is called {ours['preset']!r}; there are: {', '.join(presets) or 'none'}.{hint}")
        return presets[ours["preset"]]
    if "config" in ours:
        path = Path(ours["config"])
        if not path.is_file():
            raise ValueError(f"--config {path}: no such file")
        record = read_json(path)
        if not isinstance(record, dict):
            raise ValueError(f"--config {path} holds no config; give the run.json of an earlier run")
        return from_dict(cls, record.get("config", record), origin=str(path))
    return None


def write_run_record(folder: Path, value: Any, **inputs: str) -> None:
    """Writes `run.json`: the resolved config, fingerprints of the inputs, the command, the commit and the versions of a run."""
    record = {"config": to_dict(value), **inputs, "command": sys.argv, "commit": commit(), "versions": versions()}
    write_json(folder / "run.json", record | {"started": time.strftime("%FT%TZ", time.gmtime())})


def claim_folder(folder: Path, value: Any, *, free: Sequence[str], what: str, **inputs: str) -> None:
    """Writes `run.json` into an output folder that holds nothing made yet; in another one, checks that it is of the same settings and inputs.

    `free` names settings that decide no byte, `what` is what the folder is to hold ("repacked shards"), `inputs` are fingerprints by what they are of. Raises ValueError, which names
    what differs, if it holds something else.
    """
    path, others = folder / "run.json", any(item.name != "run.json" for item in folder.iterdir())
    if others and path.exists():
        earlier, rules = read_json(path), to_dict(value)
        if set(earlier.get("config", ())) != set(rules):
            raise ValueError(f"--output {folder} holds something else than {what}, of another command or version (its run.json says which); give another folder, or remove it")
        differing = [f"other {name.replace('_', ' ')}" for name, found in inputs.items() if earlier.get(name) != found]
        differing += [line for key, now in rules.items() if key not in free for line in _differences(key, earlier["config"][key], now)]
        if differing:
            raise ValueError(f"--output {folder} holds {what} of other documents or settings ({'; '.join(differing)}): give another folder, or remove it")
    elif others:
        raise ValueError(f"--output {folder} is not empty and holds no {what}; give another folder")
    else:
        write_run_record(folder, value, **inputs)


def _differences(key: str, earlier: Any, now: Any) -> list[str]:
    """A line for each value that is another now, by its flag."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        return [line for name in now for line in _differences(f"{key}.{name}", earlier.get(name), now[name])]
    return [] if earlier == now else [f"{flag_of(key)} {json.dumps(earlier)} there, {json.dumps(now)} now"]


def versions(names: Sequence[str] = ("lcl", "torch", "deepspeed", "ray", "numpy", "pillow", "open_clip_torch", "timm", "transformers", "tokenizers")) -> dict[str, str]:
    """Installed versions by package name; a package that is not installed is left out."""
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = _version(name)
        except ModuleNotFoundError:  # PackageNotFoundError is one
            continue
    return found


_version = cache(version)  # it reads and parses the package's metadata


def commit() -> str:
    """The commit of the checkout that runs, with -dirty where files differ from it; "unknown" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # installed from a wheel, or no git on this machine: said in the record, not guessed
