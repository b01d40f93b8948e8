"""What the headers of an answer forbid: X-Robots-Tag, TDMRep and AIPREF. Pure functions, for captured headers as for fresh ones."""

import re
from collections.abc import Iterable, Mapping

from lcl.core.rejected import Reason

# `none` is noindex and nofollow; noai and noimageai were introduced by DeviantArt (2022), the others by search engines.
REFUSALS = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))
SCOPED = re.compile(r"\s*([\w*-]+)\s*:\s*(.*)", re.ASCII | re.DOTALL)
WITH_VALUE = frozenset(("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"))  # a colon behind these scopes nothing


def merge_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name in lower case; the values of one that is repeated are joined by newlines, which no value can hold."""
    merged: dict[str, str] = {}
    for name, value in pairs:
        name = name.lower()
        merged[name] = f"{merged[name]}\n{value}" if name in merged else value
    return merged


def opt_out(headers: Mapping[str, str], agent: str, *, aipref: bool = True) -> Reason | None:
    """Why an answer with these headers (names in lower case) must not be used for training, or None.

    `agent` is the product token that `X-Robots-Tag: agent: noai` may name. `aipref=False` leaves out Content-Usage, still a draft.
    """
    if any(_refuses(line, agent) for line in headers.get("x-robots-tag", "").split("\n")):
        return Reason.OPT_OUT_ROBOTS_TAG
    if "1" in (line.strip() for line in headers.get("tdm-reservation", "").split("\n")):  # other values count as unset
        return Reason.OPT_OUT_TDMREP
    if aipref and refuses_training(headers.get("content-usage", "")):
        return Reason.OPT_OUT_AIPREF
    return None


def _refuses(line: str, agent: str) -> bool:
    """A name before a colon scopes all that follows it in its line: `otherbot: noindex, noai` is not for us."""
    ours = True
    for directive in line.split(","):
        scoped = SCOPED.fullmatch(directive)
        if scoped and scoped[1].lower() not in WITH_VALUE:
            ours = scoped[1].lower() in ("*", agent.lower())
            directive = scoped[2]
        if ours and directive.strip().lower() in REFUSALS:
            return True
    return False


def refuses_training(preference: str) -> bool:
    """True if a statement of preference holds `train-ai=n` (draft-ietf-aipref-vocab: a dictionary of RFC 9651). Where it says both, `n` counts."""
    items = (item.partition(";")[0].partition("=") for item in re.split(r"[,\n]", preference))
    return any(name.strip() == "train-ai" and value.strip() == "n" for name, _, value in items)
