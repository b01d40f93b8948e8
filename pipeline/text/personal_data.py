"""Texts without e-mail addresses, public network addresses, telephone numbers, payment cards and bank accounts.

    text --pattern--> candidate --checksum or registry--> marker

Each kind is found by a pattern that takes time linear in the text, and where the number carries a check (cards: Luhn, ISO/IEC 7812-1; accounts: remainder
modulo 97, ISO 13616; addresses: what is public, RFC 6890) only by that. What has no check (telephone numbers) is taken in its usual spellings only.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

import regex

from lcl.core.config import config

Kind = Literal["email", "iban", "card", "phone", "ip"]

BANK_ACCOUNT_LENGTHS = {  # characters of an IBAN by country, SWIFT's registry of ISO 13616
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22,
    "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22,
    "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30,
    "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27,
    "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33,
    "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29,
    "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
LOCAL = "A-Za-z0-9À-ɏ_%+.-"  # an address's part before @ as people write it; RFC 5322 allows more, which would swallow the text around
GAP = "[ \u00a0\u202f-]"

# Each pattern can start at the head of a run only and repeats nothing without a bound, or gives nothing back (++). What may not stand before is
# looked for behind the first character, not before it: so the search runs from one possible first character to the next.
EMAIL = regex.compile(  # \G: where the search began, so that an address right behind another is found
    rf"(?:(?<![{LOCAL}])|\G)[{LOCAL}]*+(?<=[A-Za-z0-9À-ɏ_-])@(?:[A-Za-z0-9-]{{1,63}}\.){{1,8}}[A-Za-z]{{2,24}}(?![A-Za-z0-9])"
)
IBAN = re.compile(rf"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z][0-9]{{2}}(?:{GAP}?[A-Z0-9]){{11,30}}+")
CARD = re.compile(
    rf"[0-9](?<![0-9+][0-9])(?<![0-9][.,][0-9])(?:"
    rf"[0-9]{{3}}(?:{GAP}[0-9]{{4}}){{3}}(?:{GAP}[0-9]{{3}}(?![0-9]))?|[0-9]{{3}}{GAP}[0-9]{{6}}{GAP}[0-9]{{4,5}}|[0-9]{{12,18}})(?![0-9])"
)
CARD_NETWORKS = re.compile(  # first digits and lengths (ISO/IEC 7812, as the networks publish them)
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"                                             # Visa
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"                                                                # American Express
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11,16}"                                            # Diners Club
    r"|35[2-8][0-9]{13,16}"                                                           # JCB
    r"|6[0-9]{13,18}|5[06-8][0-9]{12,17}"                                             # Discover, UnionPay, RuPay, Maestro
)
EXCHANGE = "[2-9][0-9]{2}"  # of North America, area codes too
PHONE = re.compile(
    r"[+(1-9](?<![\w+.][+(1-9])(?:"
    r"(?<=\+)[1-9][0-9]{0,2}(?:[ .\-/\u00a0]?\(0?[0-9]{0,4}\))?(?:[ .\-/\u00a0]?[0-9]){6,14}"  # international (E.164)
    rf"|(?<=1)(?:[ .-](?:\({EXCHANGE}\) ?|{EXCHANGE}-){EXCHANGE}-[0-9]{{4}}|\.{EXCHANGE}\.{EXCHANGE}\.[0-9]{{4}})"
    rf"|(?<=\(){EXCHANGE}\) ?{EXCHANGE}-[0-9]{{4}}"
    rf"|(?<=[2-9])[0-9]{{2}}(?:-{EXCHANGE}-|\.{EXCHANGE}\.)[0-9]{{4}}"
    r")(?![\w]|[.-][0-9])"
)
ADDRESS = re.compile(
    r"[0-9](?<![\w.][0-9])(?:[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])"
    r"|(?<=[23])(?<!:[23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:]))"  # 2000::/3, all of IPv6 that is given out
)
VERSION = re.compile(r"(?:\bversions?|\brelease|\bv|\bver\.?|\bbuild)\s?\Z", re.IGNORECASE)


@config
class PersonalDataRules:
    redact: tuple[Kind, ...] = ()
    """Kinds of personal data to replace in texts and alt texts: email iban card phone ip; none given: nothing is replaced."""
    email: str = "<email>"
    """What stands for an e-mail address."""
    iban: str = "<iban>"
    """What stands for a bank account."""
    card: str = "<card>"
    """What stands for a payment card."""
    phone: str = "<phone>"
    """What stands for a telephone number."""
    ip: str = "<ip>"
    """What stands for a public network address."""


def redact(text: str, rules: PersonalDataRules) -> tuple[str, Counter[str]]:
    """The text with a marker for each piece of personal data of the kinds in `rules.redact`, and how many of each were found.

    Kinds are looked for in the order email, iban, card, phone, ip. Addresses that are spelled out (name at example dot org), numbers without
    their usual separators, and lower-case account numbers are not found; a product number that is spelled like a telephone number is.
    """
    counts: Counter[str] = Counter()
    for kind, (pattern, length) in FINDERS.items():
        if kind in rules.redact and (kind != "email" or "@" in text):  # most texts have none, and that is found fast
            text, counts[kind] = _replace(text, pattern, length, getattr(rules, kind))
    return text, +counts


def _replace(text: str, pattern: re.Pattern[str], length: Callable[[re.Match[str]], int], marker: str) -> tuple[str, int]:
    """The text with `marker` for what matches; `length` says how many characters of a match are meant, 0 for none."""
    parts: list[str] = []
    done = position = 0
    while (match := pattern.search(text, position)) is not None:
        if taken := length(match):
            parts += [text[done : match.start()], marker]
            done = position = match.start() + taken
        else:
            position = match.start() + 1  # a card can follow in the middle of what looked like one
    return "".join([*parts, text[done:]]), len(parts) // 2


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit: every second one from the right doubled, digits added, modulo 10 (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 * (value > 9) for value in doubled)) % 10 == 0


def passes_modulo_97(account: str) -> bool:
    """Whether an IBAN's check digits hold: its first four characters moved to the end, letters as 10 to 35, remainder 1 (ISO/IEC 7064)."""
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


def _whole(match: re.Match[str]) -> int:
    return len(match[0])


def _card_length(match: re.Match[str]) -> int:
    whole = match[0]
    without_last_group = whole[:-4] if len(whole) == 23 else ""  # four groups of four, and three digits that may be the card's code
    for spelled in (whole, without_last_group):
        digits = re.sub(GAP, "", spelled)
        if CARD_NETWORKS.fullmatch(digits) and passes_luhn(digits):
            return len(spelled)
    return 0


def _account_length(match: re.Match[str]) -> int:
    """Characters up to the length of the country's accounts: a word in capitals may follow."""
    needed = BANK_ACCOUNT_LENGTHS.get(match[0][:2], 0)
    account = re.sub(GAP, "", match[0])[:needed]
    if not needed or len(account) < needed or not passes_modulo_97(account):
        return 0
    places = [index for index, character in enumerate(match[0]) if character.isalnum()]
    end = places[needed - 1] + 1
    goes_on = match.string[match.start() + end : match.start() + end + 1]
    return 0 if goes_on.isascii() and goes_on.isalnum() else end


def _address_length(match: re.Match[str]) -> int:
    text = match[0].rstrip(":")
    try:
        is_public = ipaddress.ip_address(text).is_global
    except ValueError:
        return 0
    is_version = VERSION.search(match.string, max(0, match.start() - 12), match.start()) is not None
    return len(text) if is_public and not is_version else 0


FINDERS: dict[Kind, tuple[re.Pattern[str], Callable[[re.Match[str]], int]]] = {
    "email": (EMAIL, _whole),
    "iban": (IBAN, _account_length),
    "card": (CARD, _card_length),
    "phone": (PHONE, _whole),
    "ip": (ADDRESS, _address_length),
}
