"""What sites ask of crawlers is understood: headers, robots.txt, TDMRep, AIPREF; and no such file makes a crawler slow."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.rejected import Reason
from pipeline.fetch.opt_out import merge_headers, opt_out
from pipeline.fetch.site_rules import MAX_RULES_BYTES, Robots, TdmFile, decode_rules

TAG, TDM, AIPREF = Reason.OPT_OUT_ROBOTS_TAG, Reason.OPT_OUT_TDMREP, Reason.OPT_OUT_AIPREF
SITE = "https://example.org"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("X-Robots-Tag", "noai", TAG),
        ("X-Robots-Tag", "noimageai", TAG),
        ("X-Robots-Tag", "NoIndex", TAG),
        ("X-Robots-Tag", "nofollow, noimageindex", TAG),
        ("X-Robots-Tag", "none", TAG),
        ("X-Robots-Tag", "lcl-fetch: noai", TAG),
        ("X-Robots-Tag", "LCL-Fetch: nofollow, noindex", TAG),
        ("X-Robots-Tag", "*: noai", TAG),
        ("X-Robots-Tag", "max-snippet: 20, noindex", TAG),
        ("X-Robots-Tag", "unavailable_after: 25 Jun 2010 15:00:00 PST, noai", TAG),
        ("X-Robots-Tag", "otherbot: noindex, noai", None),
        ("X-Robots-Tag", "otherbot: noindex, lcl-fetch: noai", TAG),
        ("X-Robots-Tag", "otherbot: noindex\nnoai", TAG),
        ("X-Robots-Tag", "noai\nall", TAG),
        ("X-Robots-Tag", "all, nofollow, nosnippet, noarchive", None),
        ("X-Robots-Tag", "noaix", None),
        ("TDM-Reservation", "1", TDM),
        ("TDM-Reservation", " 1 ", TDM),
        ("TDM-Reservation", "0", None),
        ("TDM-Reservation", "yes", None),
        ("Content-Usage", "train-ai=n", AIPREF),
        ("Content-Usage", "search=y, train-ai=n;x=1", AIPREF),
        ("Content-Usage", "train-ai=y", None),
        ("Content-Usage", "train-ai=y\ntrain-ai=n", AIPREF),
        ("Content-Usage", "search=n", None),
        ("Content-Type", "text/html; noai", None),
    ],
)
def test_headers(name: str, value: str, reason: Reason | None) -> None:
    assert opt_out(merge_headers([(name, line) for line in value.split("\n")]), "lcl-fetch") is reason


def test_aipref_can_be_left_out() -> None:
    assert opt_out({"content-usage": "train-ai=n"}, "lcl-fetch", aipref=False) is None


@given(st.dictionaries(st.sampled_from(["x-robots-tag", "tdm-reservation", "content-usage"]), st.text()))
def test_any_header_gives_an_answer(headers: dict[str, str]) -> None:
    assert opt_out(headers, "lcl-fetch") in (None, TAG, TDM, AIPREF)


def refusal(robots: str, path: str = "/a.jpg", **options: object) -> Reason | None:
    return Robots(robots, agent="lcl-fetch", **options).refusal(SITE + path)


NO = Reason.ROBOTS_DISALLOWED


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("", "/a", None),
        ("User-agent: *\nDisallow: /", "/a", NO),
        ("User-agent: *\nDisallow:", "/a", None),
        ("user-agent: *\ndisallow: /private/\n", "/private/a.jpg", NO),
        ("User-agent: *\nDisallow: /\nAllow: /images/", "/images/a.jpg", None),
        ("User-agent: *\nAllow: /images/\nDisallow: /images/new", "/images/new/a", NO),
        ("User-agent: *\nDisallow: /*.gif$", "/x/a.gif", NO),
        ("User-agent: *\nDisallow: /*.gif$", "/x/a.gif?1", None),
        ("User-agent: *\nDisallow: /\n\nUser-agent: lcl-fetch\nAllow: /", "/a", None),
        ("User-agent: LCL-Fetch/2.0\nDisallow: /", "/a", NO),
        ("User-agent: lcl\nDisallow: /", "/a", None),
        ("User-agent: otherbot\nUser-agent: lcl-fetch\nDisallow: /x", "/x", NO),
        ("User-agent: lcl-fetch\nDisallow: /x\nUser-agent: other\nDisallow: /y", "/y", None),
        ("User-agent: lcl-fetch\nDisallow: /x\n\nUser-agent: lcl-fetch\nDisallow: /y", "/y", NO),
        ("\ufeffUser-agent: *\rDisallow: /a", "/a", NO),
        ("Disallow: /\nUser-agent: *\nAllow: /", "/a", None),
        ("User-agent: *\nDisallow: /a%20b", "/a b", NO),
        ("User-agent: * # all\nDisallow: /a # not this", "/a", NO),
        ("User-agent: *\nSitemap: https://example.org/s.xml\nDisallow: /a", "/a", NO),
        ("<html>no robots here</html>", "/a", None),
    ],
)
def test_robots(text: str, path: str, expected: Reason | None) -> None:
    assert refusal(decode_rules(text.encode()), path) is expected


def test_groups_of_other_crawlers_count_where_there_is_none_for_us() -> None:
    closed = "User-agent: CCBot\nDisallow: /\n"
    assert refusal(closed) is None and refusal(closed, also=("CCBot",)) is NO
    assert refusal(closed + "User-agent: *\nDisallow: /x", also=("CCBot",)) is NO
    assert refusal(closed + "User-agent: lcl-fetch\nAllow: /", also=("CCBot",)) is None
    assert refusal("User-agent: *\nDisallow: /\nUser-agent: CCBot\nAllow: /", also=("CCBot",)) is NO


@pytest.mark.parametrize(("path", "expected"), [("/test", AIPREF), ("/never/test", NO), ("/ai-ok/test", None)])
def test_content_usage_as_the_draft_has_it(path: str, expected: Reason | None) -> None:
    """The example of draft-ietf-aipref-attach, figure 2 and table 1."""
    text = "User-Agent: *\nAllow: /\nDisallow: /never/\nContent-Usage: train-ai=n\nContent-Usage: /ai-ok/ train-ai=y\n\n"
    text += "User-Agent: ExampleBot\nAllow: /\nContent-Usage: train-ai=y\n"
    assert refusal(text, path) is expected
    assert Robots(text, agent="ExampleBot").refusal(SITE + path) is None
    assert Robots(text, agent="lcl-fetch").refusal(SITE + path, aipref=False) is (NO if expected is NO else None)


def test_of_two_preferences_for_one_path_the_refusal_counts() -> None:
    for order in ("n y", "y n"):
        first, second = order.split()
        assert refusal(f"User-agent: *\nContent-Usage: /a train-ai={first}\nContent-Usage: /a train-ai={second}", "/a") is AIPREF
    assert refusal("User-agent: *\nContent-Usage: /a train-ai=n\nContent-Usage: /ab train-ai=y", "/ab") is None
    assert refusal("User-agent: *\nContent-Usage: search=n", "/a") is None


def test_crawl_delay() -> None:
    assert Robots("User-agent: *\nCrawl-delay: 2.5\nDisallow: /x", agent="lcl-fetch").delay_seconds == 2.5
    assert Robots("User-agent: other\nCrawl-delay: 9", agent="lcl-fetch").delay_seconds == 0
    assert Robots("User-agent: *\nCrawl-delay: -1\nCrawl-delay: nan\nCrawl-delay: 1e9", agent="lcl-fetch").delay_seconds == 0


def test_a_rule_that_the_size_limit_cuts_is_left_out() -> None:
    text = "User-agent: *\n" + "# filler\n" * (MAX_RULES_BYTES // 9 - 3)
    whole = (text + "Disallow: /" + "a" * 100).encode()
    assert len(whole) > MAX_RULES_BYTES and refusal(decode_rules(whole), "/b") is None
    assert refusal(decode_rules(("User-agent: *\nDisallow: /b\n" + text).encode()), "/b") is NO


HALF = MAX_RULES_BYTES // 2
HOSTILE = {
    "agents before rules": "".join(f"User-agent: bot{number}\n" for number in range(HALF // 19)) + "User-agent: *\n" + "Disallow: /x\n" * (HALF // 13),
    "one agent again and again": "User-agent: *\n" * (HALF // 14) + "Disallow: /x\n" * (HALF // 13),
    "many wildcards": "User-agent: *\n" + "Disallow: /*a*b*c$\n" * (2 * HALF // 19),
    "one long pattern": "User-agent: *\nDisallow: /" + "*a" * (HALF - 20),
    "a long line": "User-agent: *\nDisallow: " + " " * (2 * HALF - 100) + "/x",
    "colons": ":" * 2 * HALF,
    "spaces": " " * 2 * HALF,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_robots_txt_is_slow(name: str) -> None:
    start = time.process_time()
    robots = Robots(decode_rules(HOSTILE[name].encode()), agent="lcl-fetch", also=("CCBot",))
    for number in range(20):
        robots.refusal(f"{SITE}/{'a' * 1000}{number}")
    assert time.process_time() - start < 2


@given(st.binary(max_size=300))
def test_any_bytes_are_a_robots_txt(body: bytes) -> None:
    refusal = Robots(decode_rules(b"User-agent: *\n" + body), agent="lcl-fetch", also=("CCBot",)).refusal(SITE + "/a.jpg")
    assert refusal is None or isinstance(refusal, Reason)


def reserved(entries: object, path: str) -> Reason | None:
    return TdmFile(json.dumps(entries)).refusal(SITE + path)


def test_tdmrep_first_match_counts() -> None:
    """The example of the specification, section 'TDM File on the Origin Server'."""
    entries = [
        {"location": "/directory-a/", "tdm-reservation": 1},
        {"location": "/directory-b/html/", "tdm-reservation": 1, "tdm-policy": "https://provider.com/policies/policy.json"},
        {"location": "/directory-b/images/*.jpg", "tdm-reservation": 0},
        {"location": "/directory-b/", "tdm-reservation": 1},
    ]
    assert reserved(entries, "/directory-a/x.pdf") is TDM and reserved(entries, "/directory-b/html/a") is TDM
    assert reserved(entries, "/directory-b/images/a.jpg") is None and reserved(entries, "/directory-b/images/a.png") is TDM
    assert reserved(entries, "/directory-c/") is None
    assert reserved([{"location": "/", "tdm-reservation": 1}], "/a") is TDM


NO_TDM_FILES = [
    "", "null", "{}", "[1, null, {}]", "[" * 100_000, '[{"location": 3, "tdm-reservation": 1}]', '[{"location": "/", "tdm-reservation": 7}]',
    '[{"location": "/\\nallow: /", "tdm-reservation": 1}]',
]  # fmt: skip


@pytest.mark.parametrize("text", NO_TDM_FILES)
def test_a_tdmrep_that_is_none_reserves_nothing(text: str) -> None:
    assert TdmFile(text).refusal(SITE + "/a") is None
