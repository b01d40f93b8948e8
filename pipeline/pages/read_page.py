"""A captured page to a raw document: what it says and which images it shows, in order.

    Response --charset, extraction--> text and image references --> RawDocument | Rejected
"""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from lcl.core.config import config
from lcl.core.document import CrawlOrigin
from lcl.core.rejected import Reason, Rejected
from pipeline.crawl import Response
from pipeline.fetch.fetch_config import AGENT
from pipeline.fetch.opt_out import opt_out
from pipeline.pages.extract import decode_page, extract_page
from pipeline.raw import RawDocument


@config
class PageRules:
    min_images: Annotated[int, Field(ge=0)] = 1
    """Images a document needs, after their own rules."""
    max_images: Annotated[int, Field(ge=0)] = 100
    """Images a document may have (OBELICS and MINT-1T: 30; a chapter of a book holds more)."""


# What meta elements refuse, as the reason that the header of the same meaning gives.
REFUSALS = {"tdm-reservation": Reason.OPT_OUT_TDMREP, "noai": Reason.OPT_OUT_ROBOTS_TAG, "noimageai": Reason.OPT_OUT_ROBOTS_TAG, "noindex": Reason.OPT_OUT_ROBOTS_TAG}


def read_page(response: Response, *, crawl_file: str, honour_opt_outs: bool = True) -> RawDocument:
    """The document of a page. Raises Rejected with the reason why it has none, or why it must not be used."""
    if response.status != 200:
        raise Rejected(Reason.HTTP_STATUS, f"{response.url}: {response.status}")
    if not is_web_address(response.url):
        raise Rejected(Reason.URL_UNUSABLE, response.url)
    if not response.body.strip():
        raise Rejected(Reason.PAGE_EMPTY, response.url)
    if honour_opt_outs and (reason := opt_out(response.headers, AGENT)) is not None:
        raise Rejected(reason, response.url)
    html = decode_page(response.body, response.headers.get("content-type", ""))
    extracted = extract_page(html, response.url)
    if honour_opt_outs and extracted.opt_outs:
        raise Rejected(REFUSALS[min(extracted.opt_outs)], response.url)
    return RawDocument(
        pieces=extracted.pieces, page_url=response.url, crawl=CrawlOrigin(file=crawl_file, offset=response.offset, date=response.date),
        license=extracted.license, headers=response.headers,
    )  # fmt: skip


def is_web_address(url: str) -> bool:
    """Whether a client could ask for it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable()
    except ValueError:
        return False
