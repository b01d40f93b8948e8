"""Pages of the sample crawl's invented site, with what stands around an article on a real one.

    plan_site --> plan of each page --compose_page--> HTML, files of its pictures, ground truth --> captures

On a page the paragraph before a picture or its caption says what is seen with probability `relevance`. Around that: navigation, adverts, lazy
images, source sets, <base href>, duplicates, missing and broken files, other charsets and encodings.
"""

import gzip
import hashlib
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urljoin, urlsplit

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from pipeline.samples.sample_pictures import COLOURS, FORMATS, Supply, draw_picture, encode_image
from pipeline.samples.sample_text import ALTERNATIVE_TEXTS, HEADINGS, PLAIN_CAPTIONS, TOPICS, Topic, draw, write_filler, write_mention
from pipeline.samples.write_crawl import Capture

SITE = "https://sample.example"
IMAGES_PER_PAGE = (10, 20)  # least and most on a page that has any
PICTURE_SIDE_PX = (152, 200)
SMALL_PX = 80  # a srcset's small candidate, below any sensible least size: whoever takes the first candidate loses the picture
MIN_NUM_PAGES = 16  # room for every trait, reference and fault

EMPTY_SHARE = 0.12  # of the pages are without pictures
# Shares of the pages; each trait occurs at least once, and a page may have several.
TRAITS = {
    "charset_in_header": 0.03,  # windows-1252, and no <meta charset>
    "base_href": 0.08,
    "gzip": 0.25,
    "chunked": 0.15,
    "advert_inside": 0.30,
    "charset_in_meta": 0.03,  # iso-8859-1, and none in the header
    "captured_twice": 0.04,
    "duplicate": 0.04,  # the same bytes at another URL
}
# How a page refers to a picture, and how often among 25.
PLAIN_REFERENCES = {"root_relative": 4, "absolute": 3, "page_relative": 4, "protocol_relative": 4, "lazy": 2, "comma": 1, "encoded_space": 1}
REFERENCES = PLAIN_REFERENCES | {"srcset_density": 2, "srcset_width": 2, "picture_source": 2}
# What is wrong with a picture's file, and its share; each occurs at least once, on plain references only.
FAULTS = {
    "not_found": 0.01,  # a 404 record
    "absent": 0.01,  # no record
    "truncated": 0.001,  # a JPEG cut short
    "not_an_image": 0.001,  # HTML sent as image/jpeg
}


@dataclass(frozen=True)
class PicturePlan:
    """One picture to be: how its page refers to it, its file form, and a key of FAULTS, or `present`."""

    number: int
    reference: str
    form: str
    state: str


@dataclass(frozen=True)
class PagePlan:
    """One page to be; `traits` are keys of TRAITS."""

    number: int
    topic: Topic
    title: str
    traits: frozenset[str]
    charset: str
    content_type: str
    pictures: tuple[PicturePlan, ...]

    @property
    def url(self) -> str:
        return f"{SITE}/{self.topic.slug}/page-{self.number:04d}.html"

    @property
    def base_url(self) -> str:
        return f"{SITE}/archive/2024/" if "base_href" in self.traits else self.url


@dataclass(frozen=True)
class PlacedPicture:
    """Ground truth of a picture; `mention` says where the text names the digit: `before`, in the `caption`, or `none`."""

    plan: PicturePlan
    url: str
    digit: int
    mention: str


@dataclass(frozen=True)
class Page:
    """A page, what the crawl holds for it and for its pictures' files, and its ground truth in the order of the document."""

    plan: PagePlan
    html: str
    captures: tuple[Capture, ...]
    pictures: tuple[PlacedPicture, ...]


def compose_site(source: Supply, *, seed: int, num_pages: int, relevance: float) -> Iterator[Page]:
    """The pages of the site in crawl order. Equal arguments give equal pages."""
    site = plan_site(np.random.default_rng([seed, 0]), num_pages=num_pages)
    for plan in site:
        yield compose_page(np.random.default_rng([seed, 1, plan.number]), plan, site=site, source=source, relevance=relevance)


def plan_site(rng: np.random.Generator, *, num_pages: int) -> list[PagePlan]:
    """The plans in crawl order. Every trait, every reference and every fault occurs."""

    def some(share: float) -> set[int]:
        return set(rng.permutation(num_pages)[: max(1, round(share * num_pages))].tolist())

    empty = some(EMPTY_SHARE)
    counts = [0 if page in empty else int(rng.integers(IMAGES_PER_PAGE[0], IMAGES_PER_PAGE[1] + 1)) for page in range(num_pages)]
    pictures = _plan_pictures(rng, sum(counts))
    chosen = {trait: some(share) for trait, share in TRAITS.items()}
    plans = []
    for page in range(num_pages):
        traits = frozenset(trait for trait, pages in chosen.items() if page in pages)
        topic = TOPICS[int(rng.integers(len(TOPICS)))]
        charset = "windows-1252" if "charset_in_header" in traits else "iso-8859-1" if "charset_in_meta" in traits else "utf-8"
        is_said = rng.random() < 0.7  # most servers name the charset of utf-8 pages too
        is_in_header = "charset_in_header" in traits or (is_said and "charset_in_meta" not in traits)
        content_type = f"text/html; charset={charset}" if is_in_header else "text/html"
        first = sum(counts[:page])
        plans.append(PagePlan(page, topic, topic.title, traits, charset, content_type, tuple(pictures[first : first + counts[page]])))
    return plans


def _plan_pictures(rng: np.random.Generator, num_pictures: int) -> list[PicturePlan]:
    deck = [name for name, count in REFERENCES.items() for _ in range(count)]
    references = [deck[card] for _ in range(0, num_pictures, len(deck)) for card in rng.permutation(len(deck))][:num_pictures]
    forms = rng.choice(["jpg", "webp", "png"], size=num_pictures, p=[0.84, 0.11, 0.05]).tolist()
    plain = [number for number in rng.permutation(num_pictures).tolist() if references[number] in PLAIN_REFERENCES]
    states = {plain.pop(): fault for fault, share in FAULTS.items() for _ in range(max(1, round(share * num_pictures)))}
    plans = []
    for number, (reference, form) in enumerate(zip(references, forms, strict=True)):
        state = states.get(number, "present")
        is_jpg = state in ("truncated", "not_an_image") or reference == "picture_source"
        plans.append(PicturePlan(number, reference, "jpg" if is_jpg else form, state))
    return plans


def compose_page(rng: np.random.Generator, plan: PagePlan, *, site: Sequence[PagePlan], source: Supply, relevance: float) -> Page:
    """The page that `plan` asks for, with pictures and texts drawn from `source` and the topic's vocabulary.

    With probability `relevance` a picture's digit is named: by the end of the paragraph before it or by its caption, at even odds.
    `site` gives the pages to link to.
    """
    num_pictures = len(plan.pictures)
    num_fillers = 2 if num_pictures else int(rng.integers(5, 8))
    # Filler 0 opens the article; the others stand before the lead paragraph of a random picture, or after the last one.
    places = rng.integers(num_pictures + 1, size=num_fillers - 1).tolist()
    advert_place = int(rng.integers(num_pictures + 1))
    blocks = [_filler(rng, plan.topic)]
    captures: list[Capture] = []
    placed: list[PlacedPicture] = []
    for position in range(num_pictures + 1):
        for _ in range(places.count(position)):
            if rng.random() < 0.5:
                blocks.append(f"<h2>{draw(rng, HEADINGS)}</h2>")
            blocks.append(_filler(rng, plan.topic))
        if "advert_inside" in plan.traits and position == advert_place:
            blocks.append(_advert(rng))
        if position == num_pictures:
            break
        digit = int(rng.integers(10))
        width, height = rng.integers(PICTURE_SIDE_PX[0], PICTURE_SIDE_PX[1] + 1, size=2).tolist()
        glyph = source.glyphs[digit][int(rng.integers(len(source.glyphs[digit])))]
        image, colour = draw_picture(rng, source, glyph, width_px=width, height_px=height)
        mention = ("before", "caption")[int(rng.integers(2))] if rng.random() < relevance else "none"
        if mention != "caption":
            blocks.append(_lead(rng, plan.topic, digit, colour, is_mentioned=mention == "before"))
        element, files = _show(rng, plan, plan.pictures[position], image)
        caption = write_mention(rng, digit=digit, colour=colour, as_caption=True) if mention == "caption" else None
        blocks.append(_frame(rng, element, caption))
        captures += _as_captured(files, plan.pictures[position])
        placed.append(PlacedPicture(plan.pictures[position], files[0].url, digit, mention))
    text = _document(rng, plan, site, "\n".join(blocks))
    page, *copies = _page_captures(plan, text)
    return Page(plan, text, (page, *captures, *copies), tuple(placed))


def _filler(rng: np.random.Generator, topic: Topic) -> str:
    return _paragraph(write_filler(rng, topic, num_sentences=3))


def _lead(rng: np.random.Generator, topic: Topic, digit: int, colour: str, *, is_mentioned: bool) -> str:
    """The paragraph just before a picture; a mention is its last sentence."""
    if not is_mentioned:
        return _paragraph(write_filler(rng, topic, num_sentences=1, not_digit=digit))
    mention = write_mention(rng, digit=digit, colour=colour)
    if rng.random() < 0.8:
        return _paragraph(mention)
    return _paragraph(write_filler(rng, topic, num_sentences=1, not_digit=digit) + " " + mention)


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text, quote=False)}</p>"


def _frame(rng: np.random.Generator, element: str, caption: str | None) -> str:
    """The picture's element inside a figure, a div or a paragraph."""
    chance = rng.random() if caption is None else 0
    if chance < 0.2:
        return f"<figure>{element}<figcaption>{html.escape(caption or draw(rng, PLAIN_CAPTIONS))}</figcaption></figure>"
    return f'<div class="photo">{element}</div>' if chance < 0.8 else f"<p>{element}</p>"


def _show(rng: np.random.Generator, plan: PagePlan, picture: PicturePlan, image: Image.Image) -> tuple[str, list[Capture]]:
    """The picture's element and its files, the main one first."""
    folder = {
        "absolute": f"{SITE}/img/",
        "page_relative": "../img/",
        "protocol_relative": "//cdn.sample.example/img/",
        "comma": f"/img/w_{image.width},h_{image.height}/",
        "encoded_space": "/img/day%20trip%20",
    }.get(picture.reference, "/img/")
    stem = folder + hashlib.sha256(f"picture {picture.number}".encode()).hexdigest()[:10]
    src = f"{stem}.{picture.form}"
    files = {src: image}
    alternative = draw(rng, ALTERNATIVE_TEXTS)
    rest = f'alt="{alternative}"' + (f' width="{image.width}" height="{image.height}"' if rng.random() < 0.5 else "")
    element = f'<img src="{src}" {rest}>'
    match picture.reference:
        case "lazy":
            blank = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
            element = f'<img class="lazyload" src="{blank}" data-src="{src}" {rest}><noscript><img src="{src}" alt="{alternative}"></noscript>'
        case "comma":
            element = f'<img src="{src}" srcset="{src} {image.width}w" {rest}>'
        case "srcset_density":
            twice = f"{stem}-2x.{picture.form}"
            files[twice] = ImageOps.scale(image, 2)
            element = f'<img src="{src}" srcset="{src} 1x, {twice} 2x" {rest}>'
        case "srcset_width":
            small = f"{stem}-{SMALL_PX}.{picture.form}"
            files[small] = ImageOps.scale(image, SMALL_PX / image.width)
            element = f'<img src="{src}" srcset="{small} {SMALL_PX}w, {src} {image.width}w" sizes="(max-width: 600px) 100vw, 600px" {rest}>'
        case "picture_source":
            files[f"{stem}.webp"] = image
            element = f'<picture><source type="image/webp" srcset="{stem}.webp">{element}</picture>'
    return element, [_image_file(urljoin(plan.base_url, address), some) for address, some in files.items()]


def _image_file(url: str, image: Image.Image) -> Capture:
    form = url.rpartition(".")[2]
    return Capture(url, f"image/{FORMATS[form].lower()}", encode_image(image, form))


def _as_captured(files: Sequence[Capture], picture: PicturePlan) -> Sequence[Capture]:
    """The picture's files with its fault."""
    match picture.state:
        case "not_found":
            return [not_found(files[0].url)]
        case "absent":
            return []
        case "truncated":
            return [replace(files[0], body=files[0].body[: len(files[0].body) * 2 // 5])]
        case "not_an_image":
            return [replace(files[0], body=b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in first.</body></html>")]
    return files


def _page_captures(plan: PagePlan, text: str) -> Iterator[Capture]:
    """The page as it was sent, then again, plainly, for each copy that the crawl holds."""
    page = Capture(plan.url, plan.content_type, text.encode(plan.charset))
    body, headers = page.body, {}
    if "gzip" in plan.traits:
        body, headers["Content-Encoding"] = gzip.compress(body, mtime=0), "gzip"
    if "chunked" in plan.traits:
        body, headers["Transfer-Encoding"] = _chunked(body), "chunked"
    yield replace(page, body=body, headers=headers)
    if "duplicate" in plan.traits:
        yield replace(page, url=f"{SITE}/syndicated/page-{plan.number:04d}.html")
    if "captured_twice" in plan.traits:
        yield page


def _chunked(body: bytes, *, chunk_bytes: int = 1500) -> bytes:
    """The body in chunked transfer coding (RFC 9112, section 7.1)."""
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


# --- What stands around an article

ADVERT_NAMES = ("spring-sale", "holiday", "insurance", "shoes")
ICON_NAMES = ("logo", "search", "print")


def _advert(rng: np.random.Generator) -> str:
    name = ADVERT_NAMES[int(rng.integers(len(ADVERT_NAMES)))]
    picture = f'<img src="/ads/{name}.png" width="300" height="250" alt="Advertisement">'
    return f'<div class="advert"><span>Advertisement</span><a href="https://shop.sample.example/{name}">{picture}</a></div>'


def _document(rng: np.random.Generator, plan: PagePlan, site: Sequence[PagePlan], article: str) -> str:
    """The whole HTML document around the article's blocks."""
    title = html.escape(plan.title, quote=False)
    head = [
        "" if "charset_in_header" in plan.traits else f'<meta charset="{plan.charset}">\n',
        f"<title>{title} · Sample Walks</title>\n",
        f'<base href="{plan.base_url}">\n' if "base_href" in plan.traits else "",
        '<link rel="stylesheet" href="/static/site.css">\n',
        f'<script>window.site = {{"page": {plan.number}, "theme": "light"}};</script>',
    ]
    topics = "".join(f'<li><a href="/{topic.slug}/">{topic.slug.capitalize()}</a></li>' for topic in TOPICS)
    others = [site[int(other)] for other in rng.integers(len(site), size=5)]
    related = "".join(f'<li><a href="{urlsplit(other.url).path}">{html.escape(other.title, quote=False)}</a></li>' for other in others)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
{"".join(head)}
</head>
<body>
<div class="cookie-notice" role="dialog"><p>We use cookies to remember your settings. <button>Accept all</button> <a href="/privacy">Read more</a></p></div>
<header>
<a href="/"><img src="/static/logo.png" width="32" height="32" alt="Sample Walks"></a>
<nav><ul><li><a href="/">Home</a></li>{topics}<li><a href="/about">About us</a></li></ul></nav>
<form action="/search"><input name="q"><button><img src="/static/search.png" width="32" height="32" alt="Search"></button></form>
</header>
<main>
<article>
<h1>{title}</h1>
<div class="byline">By Zoë <a href="#print"><img src="/static/print.png" width="32" height="32" alt="Print"></a></div>
{article}
</article>
</main>
<aside class="sidebar">
{_advert(rng)}
<div class="related"><h2>Related pages</h2><ul>{related}</ul></div>
</aside>
<footer>
<p>© Sample Walks, a site that does not exist. All rights reserved.</p>
<ul><li><a href="/privacy">Privacy</a></li><li><a href="/contact">Contact</a></li><li><a href="/terms">Terms of use</a></li></ul>
</footer>
</body>
</html>
"""


def site_furniture() -> Iterator[Capture]:
    """What belongs to no page: robots.txt, the style sheet, icons, adverts, a redirect and a page that is gone."""
    yield Capture(f"{SITE}/robots.txt", "text/plain", b"User-agent: *\nAllow: /\nDisallow: /search\n")
    yield Capture(f"{SITE}/static/site.css", "text/css", b"body { margin: auto; max-width: 50rem; }\n.advert { float: right; }\n")
    for turn, name in enumerate(ICON_NAMES):
        yield _image_file(f"{SITE}/static/{name}.png", _drawing((32, 32), turn=turn))
    for turn, name in enumerate(ADVERT_NAMES):
        yield _image_file(f"{SITE}/ads/{name}.png", _drawing((300, 250), turn=turn))
    yield Capture(f"{SITE}/favicon.ico", "text/html", b"<html><body>Moved.</body></html>", status=301, headers={"Location": "/static/logo.png"})
    yield not_found(f"{SITE}/closed/old-page.html")


def _drawing(size: tuple[int, int], *, turn: int) -> Image.Image:
    """A polygon on a plain ground: an icon or an advert."""
    image = Image.new("RGB", size, list(COLOURS.values())[turn])
    ImageDraw.Draw(image).regular_polygon((size[0] // 2, size[1] // 2, size[1] * 2 // 5), n_sides=3 + turn, fill="white")
    return image


def not_found(url: str) -> Capture:
    """The site's answer where there is nothing."""
    body = f"<!DOCTYPE html><html><head><title>Not found</title></head><body><h1>Not found</h1><p>There is no {urlsplit(url).path} here.</p></body></html>"
    return Capture(url, "text/html; charset=utf-8", body.encode(), status=404)
