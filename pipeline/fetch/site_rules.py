"""What an origin asks of crawlers: robots.txt (RFC 9309, Content-Usage) and /.well-known/tdmrep.json, as answers about a URL.

    robots.txt --groups of our token, else of *--> Protego --> allowed?
                                              +--> Content-Usage lines as allow and disallow --> Protego --> trained on?
    tdmrep.json --> patterns in their order --> reserved?

Only the groups that concern us reach Protego: it keeps a copy of each rule for each agent of a group, so 250 kB of agents before
250 kB of rules would take gigabytes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from protego import Protego

from lcl.core.rejected import Reason
from pipeline.fetch.opt_out import refuses_training

MAX_RULES_BYTES = 500 << 10  # RFC 9309, 2.5: a crawler parses at least this much
MAX_RULES = 10_000  # for one agent: some 5 MB in Protego. A file with more is taken for a refusal of everything
MAX_PATTERNS = 1_000  # rules with wildcards, each of which is tried on each URL
MAX_TDM_RULES = 1_000
LINE = re.compile(r"\s*(user[ -]?agent|allow|disallow|crawl[ -]?delay|content-usage)\s*:\s*([^#]*)", re.IGNORECASE)
TOKEN = re.compile(r"[A-Za-z_-]+|\*")


@dataclass
class _Group:
    """The rules of all groups that name one agent."""

    access: list[str] = field(default_factory=list)
    delays_seconds: list[float] = field(default_factory=list)
    usage: list[str] = field(default_factory=list)


class Robots:
    """A robots.txt for one crawler: `agent` is its product token, `also` are tokens of others whose groups it keeps as well.

    A group for `agent` alone decides where there is one. Else those for `*` do, and with them those for each of `also`.
    """

    def __init__(self, text: str, *, agent: str, also: Sequence[str] = ()) -> None:
        groups = _groups(text, {agent.lower(), "*", *(token.lower() for token in also)})
        own = groups.get(agent.lower())
        chosen = [own] if own else [groups[name] for name in ("*", *(token.lower() for token in also)) if name in groups]
        rules = [rule for group in chosen for rule in group.access + group.usage]
        self.too_complex = len(rules) > MAX_RULES or sum("*" in rule or "$" in rule for rule in rules) > MAX_PATTERNS
        self.delay_seconds = max((delay for group in chosen for delay in group.delays_seconds), default=0.0)
        self._access = [] if self.too_complex else [_parse(group.access) for group in chosen]
        self._usage = [] if self.too_complex else [_parse(group.usage) for group in chosen if group.usage]

    def refusal(self, url: str, *, aipref: bool = True) -> Reason | None:
        """Why this URL must not be asked, or None."""
        if self.too_complex or not all(rules.can_fetch(url, "*") for rules in self._access):
            return Reason.ROBOTS_DISALLOWED
        if aipref and not all(rules.can_fetch(url, "*") for rules in self._usage):
            return Reason.OPT_OUT_AIPREF
        return None


def decode_rules(body: bytes) -> str:
    """The text of a rules file as far as MAX_RULES_BYTES; a line that was cut there is left out, for it would say something else."""
    kept = body[:MAX_RULES_BYTES]
    if len(body) > MAX_RULES_BYTES:
        kept = kept[: max(kept.rfind(b"\n"), kept.rfind(b"\r")) + 1]
    return kept.decode("utf-8-sig", "replace")


def _groups(text: str, wanted: set[str]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    current: list[_Group] = []
    in_agents = False  # a line of agents behind a rule begins a new group
    for line in re.split(r"[\r\n]+", text):
        match = LINE.match(line)
        if match is None:
            continue
        name, value = match[1].lower().replace(" ", "-"), match[2].strip()
        if name.startswith("user"):
            if not in_agents:
                current = []
            in_agents = True
            token = TOKEN.match(value)
            if token and token[0].lower() in wanted:
                group = groups.setdefault(token[0].lower(), _Group())
                if all(group is not other for other in current):
                    current.append(group)
            continue
        in_agents = False
        for group in current:
            if name in ("allow", "disallow"):
                group.access.append(f"{name}: {value}")
            elif name == "content-usage":
                group.usage.append(_usage_rule(value))
            elif re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", value):
                group.delays_seconds.append(float(value))
    return groups


def _usage_rule(value: str) -> str:
    """`/path train-ai=n` as a rule of access, so that the same matching decides (draft-ietf-aipref-attach, 3.1: the longest path counts).

    Of two equal paths the refusal counts: it gets a `*` more, which matches the same and makes it longer.
    """
    path, _, preference = value.partition(" ") if value.startswith("/") else ("/", "", value)
    if refuses_training(preference):
        return f"disallow: {path if path.endswith('$') else path + '*'}"
    return f"allow: {path}" if "train-ai" in preference else ""


def _parse(rules: Sequence[str]) -> Protego:
    return Protego.parse("\n".join(("user-agent: *", *rules)))


class TdmFile:
    """A /.well-known/tdmrep.json (TDMRep, W3C Community Group report of 2024): the first rule that matches counts."""

    def __init__(self, text: str) -> None:
        """A file that is none of ours (not JSON, no list of rules) reserves nothing."""
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            entries = []
        self._rules: list[tuple[Protego, bool]] = []
        for entry in entries[:MAX_TDM_RULES] if isinstance(entries, list) else []:
            location = entry.get("location") if isinstance(entry, dict) else None
            if isinstance(location, str) and not re.search(r"[\r\n#]", location) and entry.get("tdm-reservation") in (0, 1, "0", "1"):
                path = location if location.startswith(("/", "*")) else f"/{location}"
                self._rules.append((_parse([f"disallow: {path}"]), str(int(entry["tdm-reservation"])) == "1"))

    def refusal(self, url: str) -> Reason | None:
        """Reason.OPT_OUT_TDMREP if mining what this URL names is reserved, else None."""
        for rules, reserved in self._rules:
            if not rules.can_fetch(url, "*"):
                return Reason.OPT_OUT_TDMREP if reserved else None
        return None
