"""Redaction: no number with a valid check survives, ordinary text stays as it is, any text takes linear time."""

import re
import time
from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.text.personal_data import BANK_ACCOUNT_LENGTHS, Kind, PersonalDataRules, passes_luhn, passes_modulo_97, redact

KINDS = get_args(Kind)
ALL = PersonalDataRules(redact=KINDS)
GAPS = st.sampled_from(["", " ", "-", "\u00a0"])
AROUND = st.sampled_from(["", " ", "pay ", "(", "no. 17 ", "1234 ", ": ", "é ", "12/27 ", "A-"])
BEHIND = st.sampled_from(["", " ", ".", ", 12/27", ") ", " 123", " 1234 5678", "!", "\n"])


def with_luhn(prefix: str) -> str:
    """`prefix` and its check digit, by the definition: the digit that makes the sum a multiple of 10."""
    values = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(prefix))]
    return prefix + str(-sum(value // 10 + value % 10 for value in values) % 10)


@st.composite
def cards(draw: st.DrawFn) -> str:
    """A card number as people write it: groups of four, 4-6-5 for 15 digits, 4-6-4 for 14, or none."""
    start, length = draw(st.sampled_from([("4", 16), ("51", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("36", 14), ("3530", 16), ("6011", 16), ("62", 16), ("62", 19)]))
    number = with_luhn(start + draw(st.text("0123456789", min_size=length - 1 - len(start), max_size=length - 1 - len(start))))
    gap = draw(GAPS)
    sizes = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}[length]
    places = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return gap.join(number[start:end] for start, end in zip(places[:-1], places[1:], strict=True))


@given(AROUND, cards(), BEHIND)
@settings(max_examples=300, deadline=None)
def test_no_card_survives(before: str, card: str, behind: str) -> None:
    digits = re.sub("[^0-9]", "", card)
    assert passes_luhn(digits) and not passes_luhn(digits[:-1] + str((int(digits[-1]) + 1) % 10))
    redacted, counts = redact(before + card + behind, ALL)
    assert counts["card"] >= 1 or counts["phone"] >= 1
    assert card not in redacted and digits not in re.sub("[^0-9]", "", redacted)


@st.composite
def accounts(draw: st.DrawFn) -> str:
    country = draw(st.sampled_from(sorted(BANK_ACCOUNT_LENGTHS)))
    size = BANK_ACCOUNT_LENGTHS[country] - 4
    body = draw(st.text("0123456789", min_size=size, max_size=size) | st.text("0123456789ABCXYZ", min_size=size, max_size=size))
    number = "".join(str(int(character, 36)) for character in body + country + "00")
    account = f"{country}{98 - int(number) % 97:02d}{body}"
    gap = draw(GAPS)
    return gap.join(account[start : start + 4] for start in range(0, len(account), 4))


@given(AROUND, accounts(), st.sampled_from(["", ".", " BIC", " ABCD", ", ", ") "]))
@settings(max_examples=300, deadline=None)
def test_no_account_survives(before: str, account: str, behind: str) -> None:
    assert passes_modulo_97(re.sub("[ \u00a0-]", "", account))
    redacted, counts = redact(before + account + behind, ALL)
    assert counts["iban"] == 1 and redacted == before + "<iban>" + behind


@given(st.text("0123456789 -", min_size=13, max_size=60))
@settings(max_examples=300, deadline=None)
def test_what_is_left_holds_no_card(text: str) -> None:
    redacted, _ = redact(text, PersonalDataRules(redact=("card",)))
    for match in re.finditer(r"(?=(?<![0-9])([0-9]{4}([ -])[0-9]{4}\2[0-9]{4}\2[0-9]{4})(?![0-9]))", redacted):
        digits = re.sub("[ -]", "", match[1])
        assert not (digits[0] in "46" and passes_luhn(digits)), redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to John.Doe+news@mail.example.co.uk.", "write to <email>."),
        ("mailto:josé@exämple.x josé@example.fr", "mailto:josé@exämple.x <email>"),
        ("https://x.example/?mail=a_b@c.example&x=1", "https://x.example/?mail=<email>&x=1"),
        ("ask 8.8.8.8 or 2001:4860:4860::8888.", "ask <ip> or <ip>."),
        ("IP:1.1.1.1:53", "IP:<ip>:53"),
        ("call +1 (212) 555-1234 or (415) 555-2671", "call <phone> or <phone>"),
        ("415-555-2671, 415.555.2671 and 1-800-555-1234", "<phone>, <phone> and <phone>"),
        ("+44 20 7946 0958, +49 (0) 30 901820, +4915112345678", "<phone>, <phone>, <phone>"),
        ("4111 1111 1111 1111 123", "<card> 123"),
        ("9999 4111-1111-1111-1111", "9999 <card>"),
    ],
)
def test_what_is_found(text: str, expected: str) -> None:
    assert redact(text, ALL)[0] == expected


ORDINARY = [
    "It cost $1,234,567.89 (or 999.99 EUR) in 1999-2001, on 2024-01-15, 15/01/2024 and 01.02.2023 at 12:30:45.",
    "Python 3.11.7, version 2.6.18.8, v10.0.19041.1, release 1.2.3.4 and build 4.5.6.7",
    "ISBN 978-0-306-40615-7, ISBN 0-306-40615-2, 9780306406157, 979-10-90636-07-1; ISSN 0317-8471",
    "hosts 192.168.0.1, 10.0.0.255, 127.0.0.1, 169.254.1.1, 2001:db8::1 and ::1; sections 1.2.3 and 256.1.1.1",
    "pi is 3.14159265358979323846, a time stamp 1700000000000, 0.4111111111111111, DOI 10.1145/3025453.3025501, arXiv:2406.08418",
    "scores 212 555 1234, 12 345 678 people, 100-200-3000 and 24-48-96; 1+2=3, +5, -3, 2^31 = 2147483648, 10.000.000.000",
    "std::vector, a::b, dead::beef, 00:1a:2b:3c:4d:5e, C4 D4 E4, DE 89 3704, GB82 is a code; name at example dot org, @handle, a@b",
    "1 Samuel 3:16-20; 90210-1234; Tel Aviv; 4111 1111 1111 1112",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, ALL) == (text, {})


SCRAPS = st.lists(st.sampled_from(["a@b.cc", "-x@y.zz", "+1 212", "8.8.8.8", "4111", "1111", "-", "DE89", "é", "\ud800", "(415) 555-2671", "."]), max_size=20)


@given(st.text(max_size=120) | SCRAPS.map("".join))
@settings(max_examples=300, deadline=None)
def test_all_else_stays(text: str) -> None:
    assume("<" not in text)
    redacted, counts = redact(text, ALL)
    kept = re.split("<(?:email|iban|card|phone|ip)>", redacted)
    assert len(kept) - 1 == sum(counts.values())
    assert re.fullmatch(".+".join(map(re.escape, kept)), text, re.DOTALL)


@given(SCRAPS.map(" ".join))
@settings(max_examples=300, deadline=None)
def test_redacting_again_changes_nothing(text: str) -> None:
    redacted, _ = redact(text, ALL)
    assert redact(redacted, ALL) == (redacted, {})


@given(st.text("ab1@.-+ ", max_size=60) | SCRAPS.map("".join))
@settings(max_examples=300, deadline=None)
def test_no_address_survives_beside_another(text: str) -> None:
    rules = PersonalDataRules(redact=("email",))
    redacted, _ = redact(text, rules)
    assert redact(redacted, rules) == (redacted, {})


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_chosen_and_markers_too(kind: Kind) -> None:
    text = "a@b.example DE89370400440532013000 4111111111111111 +44 20 7946 0958 8.8.8.8"
    rules = PersonalDataRules(redact=(kind,), email="E", iban="E", card="E", phone="E", ip="E")
    redacted, counts = redact(text, rules)
    assert counts == {kind: 1} and len(re.findall("E", redacted.replace("DE89", ""))) == 1
    assert redact(text, PersonalDataRules()) == (text, {})


HOSTILE = ["a", "@", "a@", "a.", "a@a.", "4444 ", "4", "+1", "1.", "DE89 ", "D8", "2001:", "4111 1111 1111 1112 ", "a@a.aa ", "212-", "+12 3 ", "("]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    started = time.process_time()
    redact(text, ALL)
    assert time.process_time() - started < 5  # a bound against hanging: half a second at most here
