"""The sample crawl: the same seed gives the same bytes, splits share nothing, and the crawl holds all that it promises."""

import io
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest
from fastwarc.warc import ArchiveIterator
from PIL import Image
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import DOMNode, HTMLTree, NodeType

from lcl.core.files import read_json
from pipeline import sample_crawl
from pipeline.sample_crawl import (
    CDN,
    CROP_SHARE,
    MIN_CONTRAST,
    PICTURE_SIDE_PX,
    REFERENCES,
    SITE,
    SPLITS,
    Material,
    Page,
    Picture,
    SampleCrawlConfig,
    check,
    compose_page,
    contrast,
    digit_mask,
    draw_crop,
    draw_picture,
    encode_image,
    load_material,
    main,
    plan_site,
    render_picture,
    split_areas,
    split_digits,
    supply,
    write_crawl,
    write_labelled,
)
from pipeline.sample_text import (
    ALTERNATIVE_TEXTS,
    CAPTIONS,
    DIGIT_WORDS,
    FILLER,
    HEADINGS,
    MENTIONS,
    NOISE,
    NOISE_RATE,
    PLAIN_CAPTIONS,
    SHARED_VOCABULARY,
    TOPICS,
    ZERO_SHOT_TEMPLATES,
    write_filler,
    write_mention,
    write_title,
)

DIGIT_WORD = re.compile(rf"\b({'|'.join(DIGIT_WORDS)})\b", re.IGNORECASE)
SMALL = {"num_pages": 24, "images_per_page": (3, 5), "relevance": 0.6}


@dataclass(frozen=True)
class Capture:
    """One parsed record: WARC and HTTP headers by lower-case name, and the body without its encodings."""

    kind: str
    url: str | None
    status: int | None
    warc: Mapping[str, str]
    http: Mapping[str, str]
    body: bytes
    raw: bytes


@dataclass(frozen=True)
class Crawl:
    path: Path
    pages: list[Page]
    captures: list[Capture]

    def responses(self, url: str) -> list[Capture]:
        return [capture for capture in self.captures if capture.kind == "response" and capture.url == url]


def read_captures(path: Path) -> list[Capture]:
    """All records of the file, read once with and once without undoing HTTP encodings."""
    records: list[list[tuple]] = []
    for auto_decode in ("all", "none"):
        with open(path, "rb") as file:
            records.append(
                [
                    (
                        record.headers["WARC-Type"],
                        record.headers.get("WARC-Target-URI"),
                        record.http_headers.status_code if record.headers["WARC-Type"] == "response" else None,
                        {name.lower(): value for name, value in record.headers.items()},
                        {name.lower(): value for name, value in record.http_headers.items()} if record.http_headers else {},
                        record.reader.read(),
                    )
                    for record in ArchiveIterator(file, parse_http=True, auto_decode=auto_decode)
                ]
            )
    return [Capture(*decoded, raw=raw[-1]) for decoded, raw in zip(*records, strict=True)]


@pytest.fixture(scope="module")
def material() -> Material:
    return load_material()


@pytest.fixture(scope="module")
def crawl(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    path = tmp_path_factory.mktemp("crawl") / "sample.warc.gz"
    pages = write_crawl(path, seed=0, material=material, **SMALL)
    return Crawl(path, pages, read_captures(path))


@pytest.fixture(scope="module")
def labelled(material: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Picture]]]:
    folder = tmp_path_factory.mktemp("output") / "labelled"
    return folder, write_labelled(folder, seed=0, num_train=60, num_test=40, material=material)


# --- Same seed, same bytes


def test_crawl_bytes_follow_the_seed(crawl: Crawl, material: Material, tmp_path: Path) -> None:
    again, other = tmp_path / "again.warc.gz", tmp_path / "other.warc.gz"
    assert write_crawl(again, seed=0, material=material, **SMALL) == crawl.pages
    write_crawl(other, seed=1, material=material, **SMALL)
    assert again.read_bytes() == crawl.path.read_bytes()
    assert other.read_bytes() != crawl.path.read_bytes()


def test_labelled_bytes_follow_the_seed(labelled: tuple[Path, dict[str, list[Picture]]], material: Material, tmp_path: Path) -> None:
    folder, _ = labelled
    write_labelled(tmp_path / "again", seed=0, num_train=60, num_test=40, material=material)
    write_labelled(tmp_path / "other", seed=1, num_train=60, num_test=40, material=material)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert len(names) == 101
    for again, is_equal in (("again", True), ("other", False)):
        assert names == sorted(path.relative_to(tmp_path / again) for path in (tmp_path / again).rglob("*.*"))
        pictures = [name for name in names if name.suffix == ".jpg"]
        assert all(((folder / name).read_bytes() == (tmp_path / again / name).read_bytes()) == is_equal for name in pictures)


# --- Splits


def test_digit_splits_are_disjoint_and_complete(material: Material) -> None:
    parts = split_digits(material.labels)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(material.labels)))
    for split, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        for digit in range(10):
            members = (material.labels == digit).sum()
            assert (material.labels[parts[split]] == digit).sum() == pytest.approx(share * members, abs=1)


def test_photo_areas_are_disjoint(material: Material) -> None:
    areas = split_areas(material.photos)
    num_pairs = 0
    for name, photo in material.photos.items():
        boxes = [areas[split][name] for split in SPLITS]
        assert sum((right - left) * (bottom - top) for left, top, right, bottom in boxes) == photo.width * photo.height
        for one, other in combinations(boxes, 2):
            assert not overlap(one, other)
            num_pairs += 1
    assert num_pairs == 3 * len(material.photos) == 30


def test_what_was_drawn_stays_in_its_split(crawl: Crawl, labelled: tuple[Path, dict[str, list[Picture]]], material: Material) -> None:
    drawn = {
        "pages": [(picture.digit_index, picture.photo, picture.crop) for page in crawl.pages for picture in page.pictures],
        **{split: [(picture.digit_index, picture.photo, picture.crop) for picture in some] for split, some in labelled[1].items()},
    }
    for one, other in combinations(SPLITS, 2):
        assert not {index for index, _, _ in drawn[one]} & {index for index, _, _ in drawn[other]}
        for _, photo, crop in drawn[one]:
            assert not any(photo == other_photo and overlap(crop, other_crop) for _, other_photo, other_crop in drawn[other])
    assert min(map(len, drawn.values())) >= 40


def overlap(one: sample_crawl.Box, other: sample_crawl.Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- Pictures


def test_crops_lie_in_their_area_and_have_the_shape_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        area = (10, 20, 10 + int(rng.integers(90, 400)), 20 + int(rng.integers(90, 400)))
        aspect = rng.uniform(2 / 3, 3 / 2)
        left, top, right, bottom = draw_crop(rng, area, aspect=aspect)
        assert area[0] <= left < right <= area[2] and area[1] <= top < bottom <= area[3]
        assert (right - left) / (bottom - top) == pytest.approx(aspect, rel=0.06)
        assert bottom - top >= CROP_SHARE[0] * min(area[3] - area[1], (area[2] - area[0]) / aspect) - 1


def test_every_digit_mask_has_the_height_asked_for_and_ink_at_its_borders(material: Material) -> None:
    for index in range(0, len(material.labels), 23):
        mask = digit_mask(material.intensities[index], height_px=70, most_px=160)
        pixels = np.asarray(mask)
        assert mask.mode == "L" and mask.height == 70 and 10 <= mask.width <= 160
        assert pixels.max() > 200 and min(pixels[:3].max(), pixels[-3:].max(), pixels[:, :3].max(), pixels[:, -3:].max()) > 10


def test_render_picture_paints_under_the_mask_only_and_leaves_the_background_alone() -> None:
    background = Image.new("RGB", (8, 6), (9, 9, 9))
    mask = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    pixels = np.asarray(render_picture(background, mask, left_px=3, top_px=2, colour="white"))
    painted = (pixels != 9).any(axis=2)
    assert np.argwhere(painted).tolist() == [[2, 4], [3, 3]] and np.asarray(background).max() == 9


def test_colours_stand_out() -> None:
    grey, white, mask = Image.new("RGB", (20, 20), (128, 128, 128)), Image.new("RGB", (20, 20), "white"), Image.new("L", (20, 20), 255)
    assert contrast(Image.new("RGB", (20, 20), sample_crawl.COLOURS["red"]), mask, "red") == pytest.approx(0)
    assert contrast(grey, mask, "white") == pytest.approx(2.5 * (250 - 128) / 255)
    rng = np.random.default_rng(0)
    drawn = {sample_crawl.draw_colour(rng, white, mask) for _ in range(100)}
    assert drawn == {name for name in sample_crawl.COLOURS if contrast(white, mask, name) >= MIN_CONTRAST} and len(drawn) >= 6
    assert "white" not in drawn


def test_pictures_are_large_enough_for_size_filters(crawl: Crawl) -> None:
    num_seen = 0
    for page in crawl.pages:
        for picture in page.pictures:
            if picture.state == "present":
                with Image.open(io.BytesIO(crawl.responses(picture.urls[0])[0].body)) as image:
                    assert PICTURE_SIDE_PX[0] <= min(image.size) and max(image.size) <= PICTURE_SIDE_PX[1]
                num_seen += 1
    assert num_seen > 50


def test_unknown_image_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'gif' is not known; there are: jpg, png, webp"):
        encode_image(Image.new("RGB", (2, 2)), "gif")


# --- Texts


def test_only_noise_and_mentions_hold_digit_words() -> None:
    texts = [*FILLER, *PLAIN_CAPTIONS, *ALTERNATIVE_TEXTS, *HEADINGS, *(title for topic in TOPICS for title in topic.titles)]
    for vocabulary in (SHARED_VOCABULARY, *(topic.vocabulary for topic in TOPICS)):
        texts += [word for words in vocabulary.values() for word in words]
    assert len(FILLER) >= 60 and len(set(FILLER)) == len(FILLER)
    assert not [text for text in texts if DIGIT_WORD.search(text)]
    mentions = [template for group in (MENTIONS, CAPTIONS) for templates in group.values() for template in templates]
    assert all("{digit}" in template for template in (*mentions, *NOISE)) and all("{}" in template for template in ZERO_SHOT_TEMPLATES)


def test_every_template_can_be_filled_and_written_in_latin_1() -> None:
    rng = np.random.default_rng(0)
    num_filled = 0
    for topic in TOPICS:
        texts = [write_title(rng, topic) for _ in range(20)] + [write_filler(rng, topic, num_sentences=len(FILLER)) for _ in range(5)]
        for digit, colour in enumerate(sample_crawl.COLOURS):
            for as_caption in (False, True):
                mentions = [write_mention(rng, topic, digit=digit, colour=colour, as_caption=as_caption) for _ in range(20)]
                assert all(DIGIT_WORDS[digit] in mention.lower() for mention in mentions)
                texts += mentions
        for text in texts:
            text.encode("iso-8859-1")
            assert text[0] == text[0].upper() and not re.search(r"[{}]|\ba (orange|eight|old)|\ban (?!hour)[^aeiou]", text, re.IGNORECASE)
            num_filled += 1
    assert num_filled == 10 * (25 + 400)


def test_filler_is_noisy_at_the_rate_said_and_never_right_by_chance() -> None:
    rng = np.random.default_rng(0)
    found: Counter[str] = Counter()
    for _ in range(400):
        found.update(word.lower() for word in DIGIT_WORD.findall(write_filler(rng, TOPICS[0], num_sentences=20, not_digit=3)))
    assert found.total() / 8000 == pytest.approx(NOISE_RATE, rel=0.25)
    assert found["three"] == 0 and len(found) == 9


def test_relevance_is_what_was_asked_for(material: Material) -> None:
    source = supply(material, "pages")
    site = plan_site(np.random.default_rng(0), num_pages=60, images_per_page=(5, 9))
    for relevance, share_of_captions in ((0.0, 0.2), (0.6, 0.2), (1.0, 0.0)):
        plans = site if relevance == 0.6 else site[:20]
        pages = [compose_page(np.random.default_rng([7, plan.number]), plan, site=site, source=source, relevance=relevance) for plan in plans]
        mentions = Counter(picture.mention for page in pages for picture in page.pictures)
        assert mentions.total() > 5 * len(plans)
        for mention, share in (("before", relevance), ("caption", share_of_captions)):
            deviation = (share * (1 - share) / mentions.total()) ** 0.5
            assert mentions[mention] / mentions.total() == pytest.approx(share, abs=3 * deviation)


# --- Pages


def test_the_paragraph_before_a_picture_says_what_the_ground_truth_says(crawl: Crawl) -> None:
    num_checked: Counter[str] = Counter()
    for page in crawl.pages:
        blocks = article_blocks(HTMLTree.parse(page.html))
        shown = [position for position, block in enumerate(blocks) if is_picture_block(block)]
        assert len(shown) == len(page.pictures)
        for position, picture in zip(shown, page.pictures, strict=True):
            lead = blocks[position - 1]
            caption = blocks[position].query_selector("figcaption")
            assert lead.tag == "p" and lead.query_selector("img") is None
            words = {word.lower() for word in DIGIT_WORD.findall(lead.text.rpartition(". ")[2])}
            assert (DIGIT_WORDS[picture.digit] in words) == (picture.mention == "before")
            assert (caption is not None and DIGIT_WORDS[picture.digit] in caption.text.lower()) == (picture.mention == "caption")
            num_checked[picture.mention] += 1
    assert min(num_checked["before"], num_checked["caption"], num_checked["none"]) >= 5


def article_blocks(tree: HTMLTree) -> list[DOMNode]:
    return [node for node in tree.body.query_selector("article").child_nodes if node.type == NodeType.ELEMENT]


def is_picture_block(block: DOMNode) -> bool:
    return block.query_selector("img") is not None and block.class_name not in ("byline", "advert")


def test_article_survives_boilerplate_removal(crawl: Crawl) -> None:
    num_paragraphs = 0
    for page in crawl.pages:
        text = extract_plain_text(page.html, main_content=True)
        kept = " ".join(text.split())
        for paragraph in HTMLTree.parse(page.html).body.query_selector("article").query_selector_all("p"):
            assert paragraph.text.strip() in kept
            num_paragraphs += 1
        assert not [clutter for clutter in ("cookies", "About us", "All rights reserved", "Related pages") if clutter in kept]
    assert num_paragraphs > 150


def test_most_pages_have_150_to_400_words(crawl: Crawl, material: Material) -> None:
    source = supply(material, "pages")
    site = plan_site(np.random.default_rng(0), num_pages=40, images_per_page=(5, 9))
    num_words = [compose_page(np.random.default_rng(plan.number), plan, site=site, source=source, relevance=0.6).num_words for plan in site]
    assert np.mean([150 <= count <= 400 for count in num_words]) > 0.95


# --- Records


def test_records_are_well_formed(crawl: Crawl) -> None:
    assert crawl.captures[0].kind == "warcinfo"
    ids = [capture.warc["warc-record-id"] for capture in crawl.captures]
    dates = [capture.warc["warc-date"] for capture in crawl.captures]
    assert len(set(ids)) == len(ids) > 100 and dates == sorted(dates)
    requests = [capture for capture in crawl.captures if capture.kind == "request"]
    assert requests and all(crawl.responses(str(capture.url))[0].warc["warc-record-id"] == capture.warc["warc-concurrent-to"] for capture in requests)
    with open(crawl.path, "rb") as file:
        digests = [record.verify_block_digest() for record in ArchiveIterator(file, parse_http=False)]
    assert len(digests) == len(ids) and all(digests)


def test_every_page_is_there_and_decodes_to_what_was_composed(crawl: Crawl) -> None:
    seen: Counter[str] = Counter()
    for page in crawl.pages:
        for capture in crawl.responses(page.url):
            assert capture.body.decode(page.plan.charset) == page.html and capture.status == 200
            header = f"text/html; charset={page.plan.charset}" if page.plan.charset_in == "header" else "text/html"
            assert capture.http["content-type"] == header
            assert f'<meta charset="{page.plan.charset}">' in page.html or page.plan.charset_in == "header"
            seen["gzip"] += capture.http.get("content-encoding") == "gzip" and capture.raw != capture.body
            seen["chunked"] += capture.http.get("transfer-encoding") == "chunked" and capture.raw != capture.body
            seen["page"] += 1
            seen[page.plan.charset] += 1
    num_duplicates = sum(page.url != page.plan.url for page in crawl.pages)
    num_twice = sum(page.plan.is_captured_twice for page in crawl.pages if page.url == page.plan.url)
    assert seen["page"] == SMALL["num_pages"] + num_duplicates + num_twice and num_duplicates >= 1 and num_twice >= 1
    assert min(seen[kind] for kind in ("gzip", "chunked", "utf-8", "iso-8859-1", "windows-1252")) >= 1
    assert any(page.html.encode(page.plan.charset) != page.html.encode() for page in crawl.pages)


def test_ground_truth_pictures_are_in_the_crawl_as_their_state_says(crawl: Crawl) -> None:
    seen: Counter[str] = Counter()
    for page in crawl.pages:
        for picture in page.pictures:
            found = crawl.responses(picture.urls[0])
            seen[picture.state] += 1
            if picture.state == "absent":
                assert not found
                continue
            assert len(found) == 1
            if picture.state == "not_found":
                assert found[0].status == 404
            elif picture.state == "not_an_image":
                assert found[0].http["content-type"] == "image/jpeg" and found[0].body.startswith(b"<!DOCTYPE html")
            elif picture.state == "truncated":
                with Image.open(io.BytesIO(found[0].body)) as image, pytest.raises(OSError, match="truncated"):
                    image.load()
            else:
                for url in picture.urls:
                    capture = crawl.responses(url)[0]
                    with Image.open(io.BytesIO(capture.body)) as image:
                        image.load()
                        assert capture.http["content-type"] == Image.MIME[image.format] and min(image.size) >= 150
                        seen[image.format] += 1
    assert min(seen[kind] for kind in ("present", "absent", "not_found", "not_an_image", "truncated", "JPEG", "PNG", "WEBP")) >= 1


def test_references_resolve_to_the_ground_truth_urls(crawl: Crawl) -> None:
    """Resolved as a browser would (RFC 3986, against <base href> where there is one)."""
    forms: Counter[str] = Counter()
    for page in crawl.pages:
        tree = HTMLTree.parse(page.html)
        base = tree.head.query_selector("base")
        base_url = urljoin(page.url, base["href"]) if base else page.url
        blocks = filter(is_picture_block, article_blocks(tree))
        for block, picture in zip(blocks, page.pictures, strict=True):
            image = block.query_selector("img")
            source = image.getattr("data-src") or image["src"]
            assert urljoin(base_url, source) == picture.urls[0]
            srcsets = [element.getattr("srcset") for element in block.query_selector_all("source[srcset], img[srcset]")]
            candidates = [part.strip().split(" ")[0] for srcset in srcsets for part in re.split(r",\s+", srcset)]
            resolved = {urljoin(base_url, candidate) for candidate in candidates}
            assert set(picture.urls[1:]) <= resolved
            assert all(crawl.responses(url) for url in resolved if picture.state == "present")
            forms[picture.reference] += 1
            forms["base_href"] += base is not None and f"{SITE}/archive/" in picture.urls[0] and not source.startswith(("/", "http"))
            forms["dot dot"] += source.startswith("../")
            forms["//"] += source.startswith("//")
            forms["cdn host"] += picture.urls[0].startswith(CDN)
            forms["small candidate"] += "80w" in (image.getattr("srcset") or "")
            forms["twice"] += " 2x" in (image.getattr("srcset") or "")
            forms["comma in srcset"] += re.search(r"\S,\S", image.getattr("srcset") or "") is not None
            forms["%20"] += "%20" in source
            forms["data-src"] += image["src"].startswith("data:")
            forms["noscript img"] += block.query_selector("noscript") is not None
            forms["source"] += block.query_selector("picture > source[srcset]") is not None
            forms["figure"] += block.tag == "figure"
    assert set(REFERENCES) <= set(forms) and min(forms.values()) >= 1, forms


def test_clutter_occurs(crawl: Crawl) -> None:
    kinds: Counter[str] = Counter()
    for page in crawl.pages:
        body = HTMLTree.parse(page.html).body
        for selector in ("header", "nav", "footer", "aside", ".advert img", ".cookie-notice", ".related a", "article .advert"):
            kinds[selector] += body.query_selector(selector) is not None
        kinds["no picture"] += not page.pictures
        for element in body.query_selector_all("header img, .byline img, .advert img"):
            assert crawl.responses(urljoin(page.url, element["src"]))
    assert kinds["header"] == kinds["footer"] == kinds[".cookie-notice"] == kinds[".advert img"] == kinds[".related a"] == len(crawl.pages)
    assert kinds["article .advert"] >= 1 and kinds["no picture"] >= 1 and kinds["nav"] and kinds["aside"]
    sizes = {name: Image.open(io.BytesIO(crawl.responses(f"{SITE}{name}")[0].body)).size for name in ("/static/logo.png", "/ads/holiday.png")}
    assert sizes == {"/static/logo.png": (32, 32), "/ads/holiday.png": (300, 250)}
    redirect = crawl.responses(f"{SITE}/latest")[0]
    assert redirect.status == 301 and crawl.responses(redirect.http["location"])
    assert crawl.responses(f"{SITE}/closed/old-page.html")[0].status == 404
    assert [crawl.responses(f"{SITE}{path}")[0].http["content-type"] for path in ("/robots.txt", "/static/site.css")] == ["text/plain", "text/css"]


# --- Labelled pictures


def test_labelled_folder_is_balanced(labelled: tuple[Path, dict[str, list[Picture]]]) -> None:
    folder, pictures = labelled
    classes = read_json(folder / "classes.json")
    assert classes["classes"] == list(DIGIT_WORDS) and all(template.format("seven") != template for template in classes["templates"])
    for split, count in (("train", 6), ("test", 4)):
        assert sorted(path.name for path in (folder / split).iterdir()) == sorted(DIGIT_WORDS)
        paths = [folder / split / word / f"{number:04d}.jpg" for word in DIGIT_WORDS for number in range(count)]
        assert sorted(paths) == sorted((folder / split).glob("*/*"))
        for path, picture in zip(paths, pictures[split], strict=True):
            assert path.parent.name == DIGIT_WORDS[picture.digit]
            with Image.open(path) as image:
                assert image.size == (96, 96) and image.mode == "RGB"
                assert np.abs(np.asarray(image, dtype=float) - np.asarray(picture.image, dtype=float)).mean() < 4


def test_labelled_refuses_a_folder_of_another_run(material: Material, tmp_path: Path) -> None:
    write_labelled(tmp_path, seed=0, num_train=20, num_test=10, material=material)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    with pytest.raises(ValueError, match="files of another run .*0001.jpg"):
        write_labelled(tmp_path, seed=1, num_train=10, num_test=10, material=material)
    assert len(before) == 30 and all(path.read_bytes() == content for path, content in before.items())


# --- The entry point


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"num_pages": 15}, "num_pages is 15"),
        ({"images_per_page": (1, 4)}, "images_per_page is 1 4"),
        ({"images_per_page": (5, 4)}, "images_per_page is 5 4"),
        ({"relevance": 1.5}, "relevance is 1.5"),
        ({"relevance": float("nan")}, "relevance is nan"),
        ({"num_labelled_train": 15}, "num_labelled_train is 15"),
        ({"num_labelled_test": 0}, "num_labelled_test is 0"),
    ],
)
def test_settings_that_make_no_crawl_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    good = SampleCrawlConfig(output=tmp_path / "new")
    check(good)
    with pytest.raises(ValueError, match=message):
        main(replace(good, **changes))
    assert not (tmp_path / "new").exists()


def test_missing_photographs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_crawl, "SKIMAGE_PHOTOS", ("nowhere.png",))
    with pytest.raises(ValueError, match="nowhere.png is missing"):
        load_material()
    monkeypatch.setattr(sample_crawl.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="scikit-image is not installed"):
        load_material()


def test_main_writes_everything(tmp_path: Path) -> None:
    main(SampleCrawlConfig(output=tmp_path, num_pages=16, images_per_page=(2, 2), num_labelled_train=10, num_labelled_test=10))
    assert {path.name for path in tmp_path.iterdir()} == {"sample.warc.gz", "labelled", "run.json"}
    assert read_json(tmp_path / "run.json")["config"]["num_pages"] == 16
