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
    URL_WORDS = "url_words"                            # a banned word in the page's address
    LANGUAGE = "language"                              # none of those to keep
    # texts: of a paragraph, where only that is left out, and of a page
    TOO_MANY_WORDS = "too_many_words"
    WORD_LENGTH = "word_length"
    CHARACTER_REPETITION = "character_repetition"
    WORD_REPETITION = "word_repetition"
    SPECIAL_CHARACTERS = "special_characters"
    PUNCTUATION = "punctuation"
    STOP_WORDS = "stop_words"
    FLAGGED_WORDS = "flagged_words"
    COMMON_WORDS = "common_words"
    SYMBOLS = "symbols"                                # hash signs or ellipses
    BULLETS = "bullets"
    ELLIPSIS_LINES = "ellipsis_lines"
    ALPHABETIC_WORDS = "alphabetic_words"
    DUPLICATE_LINES = "duplicate_lines"                # or paragraphs, by number or by characters
    TOP_NGRAM = "top_ngram"
    DUPLICATE_NGRAMS = "duplicate_ngrams"
    LINE_PUNCTUATION = "line_punctuation"
    SHORT_LINES = "short_lines"
    NEWLINES = "newlines"
    SENTENCES = "sentences"
    LOREM_IPSUM = "lorem_ipsum"
    CURLY_BRACKETS = "curly_brackets"
    JAVASCRIPT = "javascript"
    POLICY_PHRASES = "policy_phrases"
    # images
    IMAGE_NOT_IN_CRAWL = "image_not_in_crawl"
    IMAGE_UNKNOWN_FORMAT = "image_unknown_format"
    IMAGE_DAMAGED = "image_damaged"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_ASPECT = "image_aspect"
    IMAGE_RENDERED_SIZE = "image_rendered_size"        # the page shows it too small or too large
    IMAGE_FORMAT = "image_format"                      # one that can be read but is not among those to keep
    IMAGE_BYTES = "image_bytes"                        # fewer or more than the rules allow
    IMAGE_ANIMATED = "image_animated"
    IMAGE_BLANK = "image_blank"                        # next to no contrast
    IMAGE_URL_WORDS = "image_url_words"                # a banned word in its address
    IMAGE_REPEATED = "image_repeated"                  # the same picture earlier in the same document
    IMAGE_PAGE_DROPPED = "image_page_dropped"          # the image was fine, its page was not


class Rejected(Exception):
    """An item that a rule leaves out: expected, counted by `reason`, never a crash."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
