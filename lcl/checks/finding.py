"""The outcome of one check, as it is printed and as JSON has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "failed"]
MARKS: dict[Status, str] = {"ok": "ok     ", "note": "note   ", "warning": "WARNING", "failed": "FAILED "}


@dataclass(frozen=True)
class Finding:
    """`note`: nothing is wrong, but something is not there or was not looked at. A warning or a failure has a cure, and a failure makes the exit status 1."""

    check: str
    status: Status
    found: str
    cure: str = ""

    def __post_init__(self) -> None:
        assert bool(self.cure) == (self.status in ("warning", "failed")), f"{self.check}: a cure goes with what is wrong"


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """For people: a line for each, what to mend below it, and how many there are."""
    width = max(len(one.check) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{MARKS[one.status]} {one.check:{width}}  {one.found}")
        if one.cure:
            lines.append(f"{'':7} {'':{width}}  -> {one.cure}")
    counts = {status: sum(one.status == status for one in findings) for status in MARKS}
    return [*lines, f"{len(findings)} checks: {counts['failed']} failed, {counts['warning']} warnings"]
