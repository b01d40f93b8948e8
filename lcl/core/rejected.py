"""Why an item was left out: one enum for the whole project, so that every loss has a name and a count."""

from enum import StrEnum


class Reason(StrEnum):
    # crawl files
    NOT_A_CRAWL = "not_a_crawl"                        # no WARC or ARC record in the file
    NOT_A_SOURCE = "not_a_source"                      # no file of the kind of source that it was given as
    CRAWL_UNREADABLE = "crawl_unreadable"              # cannot be opened, or not read to its end
    CRAWL_CHANGED = "crawl_changed"                    # its shards were built from other bytes, rules or libraries
    CRAWL_CRASHES = "crawl_crashes"                    # its task failed in a way that no rule foresees, or its worker died at each retry
    # records
    RECORD_DAMAGED = "record_damaged"                  # cut short, or its headers cannot be parsed
    BODY_TOO_LARGE = "body_too_large"
    ROW_MALFORMED = "row_malformed"                    # a row, line or sample without the fields of its kind of source
    ROW_TOO_LARGE = "row_too_large"                    # more bytes than a document may have
    ARCHIVE_TOO_LARGE = "archive_too_large"            # expands to more than any honest file of its size: the rest is not read
    # pages
    HTTP_STATUS = "http_status"                        # not 200
    URL_UNUSABLE = "url_unusable"                      # no http(s) address
    PAGE_EMPTY = "page_empty"
    PAGE_TOO_COMPLEX = "page_too_complex"              # more bytes, tags, attributes or nesting than a parser should see
    PAGE_UNPARSABLE = "page_unparsable"
    PAGE_CRASHES = "page_crashes"                      # its worker died at it again and again, or took too long
    NO_LICENSE = "no_license"                          # names none of those that --require-license asks for
    NO_TEXT = "no_text"
    TOO_FEW_WORDS = "too_few_words"
    NO_IMAGES = "no_images"
    TOO_MANY_IMAGES = "too_many_images"
    DUPLICATE_URL = "duplicate_url"
    DUPLICATE_CONTENT = "duplicate_content"
    REMOVED = "removed"                                # taken down after the build (`lcl remove`)
    # deduplication (also duplicate_url and duplicate_content)
    NEAR_DUPLICATE = "near_duplicate"                  # enough of its word sequences stand in an earlier document
    SAME_IMAGE_SET = "same_image_set"                  # an earlier document has the same images
    CONTAMINATED = "contaminated"                      # shares a run of words with an evaluation text
    IMAGE_CONTAMINATED = "image_contaminated"          # is, or nearly is, on a list of evaluation images
    IMAGE_FORBIDDEN = "image_forbidden"                # is, or nearly is, on a list of material that must not be kept
    IMAGE_FREQUENT = "image_frequent"                  # its address or its bytes occur in too many documents
    PARAGRAPH_REPEATED = "paragraph_repeated"          # stands earlier in the same domain
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
    IMAGE_SCORE = "image_score"                        # below or above what `lcl apply-scores` was told, its similarity included
    IMAGE_UNMATCHED = "image_unmatched"                # no text was left for it when images were assigned to texts
    IMAGES_CRASH = "images_crash"                      # the worker died at the images of its document, again and again
    IMAGE_PAGE_DROPPED = "image_page_dropped"          # the image was fine, its page was not
    # fetching
    ADDRESS_REFUSED = "address_refused"                # private, loopback or otherwise not the public web, or another port than it uses
    HOST_UNREACHABLE = "host_unreachable"              # no such name, no connection, or a certificate that does not hold
    FETCH_TIMEOUT = "fetch_timeout"
    CONNECTION_BROKEN = "connection_broken"            # reset, or ended before the length that was announced
    ANSWER_UNREADABLE = "answer_unreadable"            # no HTTP
    SERVER_ERROR = "server_error"                      # 408, 425 or 5xx, at each retry
    TOO_MANY_REQUESTS = "too_many_requests"            # 429 at each retry
    WAIT_TOO_LONG = "wait_too_long"                    # the site asks for a longer wait than this run allows
    TOO_MANY_REDIRECTS = "too_many_redirects"
    ROBOTS_DISALLOWED = "robots_disallowed"            # robots.txt
    ROBOTS_UNREACHABLE = "robots_unreachable"          # a robots.txt that cannot be read is taken for "no" (RFC 9309, 2.3.1.4)
    OPT_OUT_ROBOTS_TAG = "opt_out_robots_tag"          # X-Robots-Tag: noai, noimageai, noindex, noimageindex
    OPT_OUT_TDMREP = "opt_out_tdmrep"                  # TDMRep: text and data mining is reserved
    OPT_OUT_AIPREF = "opt_out_aipref"                  # AIPREF: Content-Usage: train-ai=n


class Rejected(Exception):
    """An item that a rule leaves out: expected, counted by `reason`, never a crash."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
