"""Why an item was left out: one enum for the whole project, so that every loss has a name and a count."""

from enum import StrEnum


class Reason(StrEnum):
    # crawl files
    NOT_A_CRAWL = "not_a_crawl"                        # no WARC or ARC record in the file
    CRAWL_UNREADABLE = "crawl_unreadable"              # cannot be opened
    CRAWL_CHANGED = "crawl_changed"                    # its shards were built from other bytes, rules or libraries
    CRAWL_CRASHES = "crawl_crashes"                    # its task failed in a way that no rule foresees, or its worker died at each retry
    # records
    RECORD_DAMAGED = "record_damaged"                  # cut short, or its headers cannot be parsed
    BODY_TOO_LARGE = "body_too_large"
    # pages
    HTTP_STATUS = "http_status"                        # not 200
    URL_UNUSABLE = "url_unusable"                      # no http(s) address
    PAGE_EMPTY = "page_empty"
    PAGE_TOO_COMPLEX = "page_too_complex"              # more bytes, tags, attributes or nesting than a parser should see
    PAGE_UNPARSABLE = "page_unparsable"
    NO_TEXT = "no_text"
    TOO_FEW_WORDS = "too_few_words"
    NO_IMAGES = "no_images"
    TOO_MANY_IMAGES = "too_many_images"
    DUPLICATE_URL = "duplicate_url"
    DUPLICATE_CONTENT = "duplicate_content"
    REMOVED = "removed"                                # taken down after the build (`lcl remove`)
    # images
    IMAGE_NOT_IN_CRAWL = "image_not_in_crawl"
    IMAGE_UNKNOWN_FORMAT = "image_unknown_format"
    IMAGE_DAMAGED = "image_damaged"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_ASPECT = "image_aspect"
    IMAGE_REPEATED = "image_repeated"                  # the same picture earlier in the same document
    IMAGE_PAGE_DROPPED = "image_page_dropped"          # the image was fine, its page was not


class Rejected(Exception):
    """An item that a rule leaves out: expected, counted by `reason`, never a crash."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
