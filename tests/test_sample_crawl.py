"""The sample crawl: the same seed gives the same bytes, splits share nothing, and the crawl holds all that it promises."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest
from fastwarc.warc import ArchiveIterator
from PIL import Image

from lcl.core.config import from_dict
from lcl.core.files import read_json
from lcl.core.images import decode_image
from lcl.core.rejected import Reason, Rejected
from pipeline.crawl import Response, read_crawl
from pipeline.pages.extract import extract_pieces
from pipeline.raw import ImageReference
from pipeline.samples import sample_crawl, sample_pictures, sample_text
from pipeline.samples.sample_crawl import SampleCrawlConfig, main
from pipeline.samples.sample_pages import FAULTS, PICTURE_SIDE_PX, REFERENCES, SITE, TRAITS, Page, compose_site
from pipeline.samples.sample_pictures import COLOURS, SPLITS, Split, Supply, load_supplies
from pipeline.samples.sample_text import DIGIT_WORDS, TOPICS, write_filler, write_mention

DIGIT_WORD = re.compile(rf"\b({'|'.join(DIGIT_WORDS)})\b", re.IGNORECASE)
SAMPLE = {"num_pages": 24, "num_labelled_train": 40, "num_labelled_test": 20}  # as the fixture `sample`
SMALLEST = {"num_pages": 16, "num_labelled_train": 10, "num_labelled_test": 10}


@pytest.fixture(scope="module")
def supplies() -> Mapping[Split, Supply]:
    return load_supplies()


@pytest.fixture(scope="module")
def pages(supplies: Mapping[Split, Supply]) -> list[Page]:
    """The pages of the fixture `sample`, with their ground truth."""
    return list(compose_site(supplies["pages"], seed=0, num_pages=24, relevance=0.8))


@pytest.fixture(scope="module")
def responses(sample: Path) -> dict[str, list[Response]]:
    found: dict[str, list[Response]] = {}
    for response in read_crawl(sample / "sample.warc.gz"):
        assert isinstance(response, Response), response
        found.setdefault(response.url, []).append(response)
    return found


def files_in(folder: Path) -> dict[str, bytes]:  # run.json holds the time
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.json"}


def test_bytes_follow_the_seed(sample: Path, tmp_path: Path) -> None:
    main(SampleCrawlConfig(output=str(tmp_path / "again"), **SAMPLE))
    main(SampleCrawlConfig(output=str(tmp_path / "other"), seed=1, **SAMPLE))
    before, again, other = files_in(sample), files_in(tmp_path / "again"), files_in(tmp_path / "other")
    assert len(before) == 1 + 2 * (60 + 1) and before == again
    same = [name for name in before if before[name] == other.get(name)]
    assert sorted(same) == ["labelled/colour/classes.json", "labelled/digit/classes.json"]


def test_an_interrupted_run_leaves_nothing_half_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SampleCrawlConfig(output=str(tmp_path), **SMALLEST)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(sample_crawl, "encode_image", interrupted)
        main(settings)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "sample.warc.gz"}
    with monkeypatch.context() as patch:
        patch.setattr(sample_crawl, "write_crawl", interrupted)  # it is there
        main(settings)
        assert len(list(tmp_path.glob("labelled/*/*/*/*.jpg"))) == 40 and not list(tmp_path.glob(".*"))
        patch.setattr(sample_crawl, "load_supplies", interrupted)  # nothing is left to draw
        main(settings)
    with pytest.raises(ValueError, match="a sample crawl with another seed and relevance; give another --output"):
        main(SampleCrawlConfig(output=str(tmp_path), seed=1, relevance=0.5, **SMALLEST))
    with pytest.raises(ValueError, match="holds files of something else; give another --output"):
        main(SampleCrawlConfig(output=str(tmp_path / "labelled")))


def interrupted(*_: object, **__: object) -> None:
    raise RuntimeError


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", -1), ("num_pages", 15), ("relevance", 1.5), ("relevance", float("nan")), ("num_labelled_train", 15), ("num_labelled_test", 0)],
)
def test_limits_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"here: {key}: "):
        from_dict(SampleCrawlConfig, {"output": "new", key: value}, origin="here")


def test_splits_are_disjoint_and_complete(supplies: Mapping[Split, Supply]) -> None:
    labels = np.repeat(np.arange(10), np.arange(170, 180))
    parts = sample_pictures.split_digits(labels)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    for split, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        assert all((labels[parts[split]] == digit).sum() == pytest.approx(share * (170 + digit), abs=1) for digit in range(10))
    assert sum(len(glyphs) for source in supplies.values() for glyphs in source.glyphs) == 1797
    photo = Image.fromarray(np.random.default_rng(0).integers(256, size=(5, 101, 3), dtype=np.uint8))
    for turn in range(4):
        strips = sample_pictures.split_photo(photo, turn=turn)
        assert set(strips) == set(SPLITS) and list(strips)[0] == SPLITS[turn % 3]
        assert np.array_equal(np.hstack([np.asarray(strip) for strip in strips.values()]), np.asarray(photo))


def test_crops_lie_in_the_image_and_have_the_shape_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        width, height = rng.integers(90, 400, size=2).tolist()
        aspect = rng.uniform(2 / 3, 3 / 2)
        left, top, right, bottom = sample_pictures.draw_crop(rng, (width, height), aspect=aspect)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height and (right - left) / (bottom - top) == pytest.approx(aspect, rel=0.06)
        assert bottom - top >= sample_pictures.CROP_SHARE[0] * min(height, width / aspect) - 1


def test_every_digit_mask_has_the_height_asked_for_and_ink_at_its_borders(supplies: Mapping[Split, Supply]) -> None:
    for glyphs in supplies["pages"].glyphs:
        for glyph in glyphs[::23]:
            pixels = np.asarray(sample_pictures.digit_mask(glyph, height_px=70, most_px=160))
            assert len(pixels) == 70 and 10 <= pixels.shape[1] <= 160 and pixels.max() > 200
            assert min(pixels[:3].max(), pixels[-3:].max(), pixels[:, :3].max(), pixels[:, -3:].max()) > 10


def test_every_colour_is_lighter_than_most_of_the_photographs(supplies: Mapping[Split, Supply]) -> None:
    """ITU-R 601 lightness: the darkest colour against the median of each split's pixels."""
    darkest = min(np.dot(colour, (0.299, 0.587, 0.114)) for colour in COLOURS.values())
    for source in supplies.values():
        assert darkest > np.median(np.concatenate([np.asarray(strip.convert("L")).ravel() for strip in source.strips]))


def test_missing_material_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in {"skimage/nowhere.png": "nowhere.png is missing", "nopackage/x.png": "nopackage is not installed"}.items():
        monkeypatch.setattr(sample_pictures, "PHOTO_FILES", (name,))
        with pytest.raises(ValueError, match=message):
            load_supplies()


def test_labelled_folders_hold_the_same_pictures_by_digit_and_by_colour(sample: Path) -> None:
    for label, names in (("digit", DIGIT_WORDS), ("colour", tuple(COLOURS))):
        spec = read_json(sample / "labelled" / label / "classes.json")
        assert tuple(spec["classes"]) == names and all(template.count("{}") == 1 for template in spec["templates"])
    for split, count in (("train", 4), ("test", 2)):
        by_digit = sorted((sample / "labelled" / "digit" / split).glob("*/*"))
        assert [path.parent.name for path in by_digit] == sorted(word for word in DIGIT_WORDS for _ in range(count))
        assert all(path.name.startswith(path.parent.name) for path in by_digit)
        by_colour = {path.name: path.read_bytes() for path in (sample / "labelled" / "colour" / split).glob("*/*")}
        assert by_colour == {path.name: path.read_bytes() for path in by_digit}
        assert {decode_image(path.read_bytes()).size for path in by_digit} == {(96, 96)}


def test_only_noise_and_mentions_hold_digit_words() -> None:
    plain = [sample_text.PLAIN_CAPTIONS, sample_text.ALTERNATIVE_TEXTS, sample_text.HEADINGS, *((topic.title, *topic.filler) for topic in TOPICS)]
    assert not [text for group in plain for text in group if DIGIT_WORD.search(text)]
    naming = [sample_text.NOISE, sample_text.MENTIONS, sample_text.CAPTIONS]
    assert all("{digit}" in template for group in naming for template in group)


def test_every_template_can_be_filled_and_written_in_latin_1() -> None:
    rng = np.random.default_rng(0)
    texts = [write_filler(rng, topic, num_sentences=6) for topic in TOPICS]
    for digit in range(10):
        for colour in COLOURS:
            mentions = [write_mention(rng, digit=digit, colour=colour, as_caption=bool(number % 2)) for number in range(40)]
            assert all(DIGIT_WORDS[digit] in mention.lower() for mention in mentions)
            texts += mentions
    for text in texts:
        text.encode("iso-8859-1")
        assert text[0] == text[0].upper() and not re.search(r"[{}]|\ba (orange|eight|old)|\ban (?!old|orange|eight|hour)", text, re.IGNORECASE), text


def test_filler_is_noisy_at_the_rate_said_and_never_right_by_chance() -> None:
    rng = np.random.default_rng(0)
    text = " ".join(write_filler(rng, TOPICS[0], num_sentences=6, not_digit=3) for _ in range(1300))
    found = Counter(word.lower() for word in DIGIT_WORD.findall(text))
    assert found.total() / 7800 == pytest.approx(sample_text.NOISE_RATE, rel=0.25) and len(found) == 9 and found["three"] == 0


@pytest.mark.parametrize("relevance", [0.0, 0.6, 1.0])
def test_relevance_is_what_was_asked_for(relevance: float, supplies: Mapping[Split, Supply]) -> None:
    site = compose_site(supplies["pages"], seed=7, num_pages=20, relevance=relevance)
    mentions = Counter(picture.mention for page in site for picture in page.pictures)
    assert mentions.total() > 85
    for mention, share in (("before", relevance / 2), ("caption", relevance / 2), ("none", 1 - relevance)):
        assert mentions[mention] / mentions.total() == pytest.approx(share, abs=3 * (share * (1 - share) / mentions.total()) ** 0.5)


def test_extraction_finds_every_picture_beside_the_words_that_name_it(pages: list[Page]) -> None:
    seen: Counter[str] = Counter()
    for page in pages:
        pieces = extract_pieces(page.html, page.plan.url)
        shown = [place for place, piece in enumerate(pieces) if isinstance(piece, ImageReference) and not re.search("/(static|ads)/", piece.candidates[0])]
        assert len(shown) == len(page.pictures)
        for place, picture in zip(shown, page.pictures, strict=True):
            assert picture.url in pieces[place].candidates
            beside = pieces[place - 1 : place + 2]
            word = DIGIT_WORDS[picture.digit]
            before = re.split(r"\. |\n\n", beside[0])[-1] if isinstance(beside[0], str) else ""
            behind = beside[2].partition("\n\n")[0] if len(beside) == 3 and isinstance(beside[2], str) else ""
            assert (picture.mention != "before" or word in before.lower()) and (picture.mention != "caption" or word in behind.lower())
            seen.update((picture.mention, picture.plan.reference, picture.plan.form))
        text = " ".join(piece for piece in pieces if isinstance(piece, str))
        assert not re.search("cookies|About us|All rights reserved|Related pages", text)
        seen["100 to 400 words"] += 100 <= len(text.split()) <= 400
    assert set(seen) >= {"before", "caption", "none", "jpg", "png", "webp", *REFERENCES} and seen["100 to 400 words"] >= 0.9 * len(pages)


def test_crawl_holds_the_pages_as_composed_and_every_kind_of_clutter(pages: list[Page], responses: Mapping[str, list[Response]]) -> None:
    seen: Counter[str] = Counter()
    for page in pages:
        own = responses[page.plan.url]
        copies = responses.get(f"{SITE}/syndicated/page-{page.plan.number:04d}.html", [])
        assert all(response.status == 200 and response.body == page.html.encode(page.plan.charset) for response in own + copies)
        encodings = {own[0].headers.get("content-encoding"), own[0].headers.get("transfer-encoding")} - {None}
        assert (own[0].body != page.captures[0].body) == bool(encodings)  # really encoded
        assert encodings == page.plan.traits & {"gzip", "chunked"}
        assert (len(own), len(copies)) == (1 + ("captured_twice" in page.plan.traits), "duplicate" in page.plan.traits)
        assert f"charset={page.plan.charset}" in own[0].headers["content-type"] or f'<meta charset="{page.plan.charset}">' in page.html
        seen.update(page.plan.traits | {page.plan.charset, own[0].headers["content-type"]})
        seen["no picture"] += not page.pictures
        seen["relative to <base>"] += "<base" in page.html and '="../' in page.html
        marks = ('<base href="', " 2x", "80w", "data-src", "<noscript>", "<source", "<figcaption>", "%20", '="../', '="//', '<div class="advert">')
        seen.update(mark for mark in marks if mark in page.html)
        for icon in re.findall(r'src="(/(?:static|ads)/[^"]+)"', page.html):
            assert responses[urljoin(SITE, icon)][0].media_type == "image/png"
    charsets = {"windows-1252", "iso-8859-1", "utf-8", "text/html", "text/html; charset=utf-8", "text/html; charset=windows-1252"}
    assert set(seen) >= {*TRAITS, *charsets, *marks} and min(seen.values()) >= 1
    assert {response.status for some in responses.values() for response in some} == {200, 301, 404}
    assert urljoin(SITE, responses[f"{SITE}/favicon.ico"][0].headers["location"]) in responses


def test_pictures_are_in_the_crawl_as_their_state_says(pages: list[Page], responses: Mapping[str, list[Response]]) -> None:
    seen: Counter[str] = Counter()
    for picture in (picture for page in pages for picture in page.pictures):
        found = responses.get(picture.url, [])
        seen[picture.plan.state] += 1
        match picture.plan.state:
            case "present":
                size = decode_image(found[0].body).size
                assert PICTURE_SIDE_PX[0] <= min(size) <= max(size) <= PICTURE_SIDE_PX[1] and found[0].media_type.startswith("image/")
            case "absent":
                assert not found
            case "not_found":
                assert found[0].status == 404
            case "not_an_image":
                assert found[0].media_type == "image/jpeg" and found[0].body.startswith(b"<!DOCTYPE html")
            case "truncated":
                with pytest.raises(Rejected, match=Reason.IMAGE_DAMAGED):
                    decode_image(found[0].body)
    assert set(seen) == {"present", *FAULTS} and seen["present"] > 80


def test_records_are_well_formed(sample: Path) -> None:
    with open(sample / "sample.warc.gz", "rb") as file:
        records = [(dict(record.headers), record.verify_block_digest()) for record in ArchiveIterator(file, parse_http=False)]
    heads = [head for head, is_sound in records if is_sound]
    assert [head["WARC-Type"] for head in heads] == ["warcinfo"] + ["response", "request"] * (len(records) // 2)
    for response, request in zip(heads[1::2], heads[2::2], strict=True):
        assert request["WARC-Concurrent-To"] == response["WARC-Record-ID"] and request["WARC-Target-URI"] == response["WARC-Target-URI"]
    assert len({head["WARC-Record-ID"] for head in heads}) == len(heads) > 200
    assert [head["WARC-Date"] for head in heads] == sorted(head["WARC-Date"] for head in heads)
