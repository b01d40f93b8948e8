"""Licence addresses in one spelling, and the filter on them: `//www.creativecommons.org/licenses/BY-SA/3.0/us/deed.en` is `cc-by-sa-3.0-us`."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

FAMILIES = ("cc0", "public-domain", "cc-by", "cc-by-sa", "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd")
EARLY = ("cc-nc", "cc-nd", "cc-sa", "cc-nc-sa", "cc-nc-nd")  # version 1.0 had licences without BY
PARTS = ("by", "nc", "sa", "nd")    # in the order of today's names; 1.0 wrote by-nd-nc
VERSION = re.compile(r"\d\.\d")
PORT = re.compile(r"[a-z]{2,3}|igo|scotland")


def normal_license(address: str) -> str:
    """The licence behind an address: family, version and jurisdiction, such as cc-by-4.0, cc0-1.0, public-domain-1.0, cc-by-sa-3.0-us.

    Empty for anything that is no licence of Creative Commons or their public-domain marks. Known are /licenses/FAMILY/VERSION/PORT/,
    /publicdomain/zero/1.0/, /publicdomain/mark/1.0/ and the older /licenses/publicdomain/ (creativecommons.org/licenses/list).
    """
    try:
        parts = urlsplit(address.strip() if "//" in address else f"//{address.strip()}")
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return ""
    if host != "creativecommons.org" or parts.scheme not in ("http", "https", ""):
        return ""
    words = [word for word in unquote(parts.path).lower().split("/") if word]
    if words[:1] == ["publicdomain"] and words[1:2] and words[1] in ("zero", "mark"):
        version = words[2] if words[2:] and VERSION.fullmatch(words[2]) else "1.0"
        return f"{'cc0' if words[1] == 'zero' else 'public-domain'}-{version}"
    if words[:2] == ["licenses", "publicdomain"]:
        return "public-domain"
    if words[:1] != ["licenses"] or len(words) < 3 or not VERSION.fullmatch(words[2]):
        return ""
    terms = words[1].split("-")
    family = "-".join(["cc", *sorted(set(terms), key=_place)])
    if family not in FAMILIES + EARLY or len(set(terms)) != len(terms):
        return ""
    port = [words[3]] if len(words) > 3 and PORT.fullmatch(words[3]) else []
    return "-".join([family, words[2], *port])


def _place(term: str) -> int:
    return PARTS.index(term) if term in PARTS else len(PARTS)


@dataclass(frozen=True)
class LicenseFilter:
    """Which licences a page must name to be kept: families (any version), or one version of a family; `any` stands for all that are known."""

    required: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for a name that is neither."""
        for name in self.required:
            if name != "any" and not any(name == family or re.fullmatch(rf"{family}-\d\.\d(-[a-z]+)?", name) for family in FAMILIES + EARLY):
                raise ValueError(f"--require-license {name!r}: give any, one of {', '.join(FAMILIES)}, or a version such as cc-by-4.0")

    def allows(self, address: str) -> bool:
        """Whether a page that names this licence is kept; one that names none never is."""
        name = normal_license(address)
        return bool(name) and any(wanted == "any" or _is_version_of(name, wanted) for wanted in self.required)


def _is_version_of(name: str, wanted: str) -> bool:
    """cc-by-4.0 is one of cc-by, and cc-by-nc-4.0 is not: behind the family comes a version, or nothing."""
    rest = name.removeprefix(wanted)
    return name.startswith(wanted) and (not rest or re.match(r"-(\d|[a-z]+$)" if VERSION.search(wanted) else r"-\d", rest) is not None)
