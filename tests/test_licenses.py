"""Licence addresses in one spelling, and the filter on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pages.licenses import FAMILIES, LicenseFilter, normal_license


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "cc-by-4.0"),
        ("http://creativecommons.org/licenses/by/4.0", "cc-by-4.0"),
        ("//www.creativecommons.org/licenses/BY-SA/3.0/us/deed.en", "cc-by-sa-3.0-us"),
        ("creativecommons.org/licenses/by-nc-nd/2.5/scotland/", "cc-by-nc-nd-2.5-scotland"),
        ("https://creativecommons.org/licenses/by/3.0/igo/legalcode", "cc-by-3.0-igo"),
        ("https://creativecommons.org/licenses/by/4.0/deed.de", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode.fr?ref=x#y", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "cc-by-nc-nd-1.0"),
        ("https://creativecommons.org/licenses/nc-sa/1.0/", "cc-nc-sa-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/deed.fr", "cc0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "public-domain-1.0"),
        ("http://creativecommons.org/licenses/publicdomain/", "public-domain"),
        ("https://creativecommons.org/licenses/by%2Dsa/4.0/", "cc-by-sa-4.0"),
        ("https://creativecommons.org/licenses/", ""),
        ("https://creativecommons.org/licenses/by/", ""),
        ("https://creativecommons.org/licenses/by-by/4.0/", ""),
        ("https://creativecommons.org/licenses/sampling+/1.0/", ""),
        ("https://creativecommons.org.evil.example/licenses/by/4.0/", ""),
        ("https://evil.example/creativecommons.org/licenses/by/4.0/", ""),
        ("javascript://creativecommons.org/licenses/by/4.0/", ""),
        ("https://[broken/licenses/by/4.0/", ""),
        ("https://example.org/terms", ""),
        ("", ""),
    ],
)
def test_addresses_have_one_name(address: str, name: str) -> None:
    assert normal_license(address) == name


@given(st.text(max_size=60))
def test_any_text_is_answered(text: str) -> None:
    assert normal_license(text) == ""
    assert normal_license(f"https://creativecommons.org/{text}").count("\n") == 0


@pytest.mark.parametrize(
    ("required", "address", "kept"),
    [
        (("cc-by",), "https://creativecommons.org/licenses/by/4.0/", True),
        (("cc-by",), "https://creativecommons.org/licenses/by/3.0/us/", True),
        (("cc-by",), "https://creativecommons.org/licenses/by-nc/4.0/", False),
        (("cc-by-4.0",), "https://creativecommons.org/licenses/by/3.0/", False),
        (("cc-by-3.0",), "https://creativecommons.org/licenses/by/3.0/us/", True),
        (("cc0", "public-domain"), "https://creativecommons.org/licenses/publicdomain/", True),
        (("cc0", "public-domain"), "https://creativecommons.org/publicdomain/zero/1.0/", True),
        (("any",), "https://creativecommons.org/licenses/by-nc-nd/2.0/", True),
        (("any",), "https://example.org/terms", False),
        (("any",), "", False),
    ],
)
def test_the_filter(required: tuple[str, ...], address: str, kept: bool) -> None:
    assert LicenseFilter(required).allows(address) == kept


@pytest.mark.parametrize("name", ["by", "cc-by-", "cc-by-nc-sa-nd", "mit", "CC-BY"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="--require-license .*: give any, one of cc0"):
        LicenseFilter((name,))


def test_each_family_is_taken() -> None:
    assert all(LicenseFilter((family, f"{family}-4.0")) for family in FAMILIES)
