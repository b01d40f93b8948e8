"""Web addresses: one spelling for each, and what a relative one means."""

import re
from urllib.parse import urljoin, urlsplit

ESCAPE = re.compile("%([0-9a-fA-F]{2})")
UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def normal_url(url: str) -> str:
    """The address as a key: no scheme, no fragment, host in lower case, escapes in one spelling (RFC 3986, 6.2.2)."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:  # no address that a client could ask for; it still is a key
        return url.strip()
    place = host if port in (None, 80, 443) else f"{host}:{port}"
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return place + ESCAPE.sub(_normal_escape, "".join(map(_escaped, rest)))


def _escaped(character: str) -> str:
    plain = "!" <= character <= "~" and character not in '"<>\\^`{|}'
    return character if plain else "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _normal_escape(match: re.Match[str]) -> str:
    """Letters, digits and -._~ stand for themselves; other escapes stay, in upper case: %2F is not a slash."""
    character = chr(int(match[1], 16))
    return character if UNRESERVED.fullmatch(character) else match[0].upper()


def join(base: str, address: str) -> str:
    """`address` as seen from `base`; unchanged where it is none."""
    try:
        return urljoin(base, address.strip())
    except ValueError:
        return address
