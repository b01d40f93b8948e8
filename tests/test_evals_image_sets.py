"""One set of images in every form that evaluations read; what is hostile or broken is named."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from lcl.core.images import decode_image
from lcl.evals import tar_members
from lcl.evals.image_sets import ImageSet, draw_stratified, open_image_set
from tests.made_checkpoint import COLOURS, made_picture, made_pictures, write_files

PICTURES = made_pictures({"train": 3, "validation": 1, "test": 2})


def pack(path: Path, files: Mapping[str, bytes], *, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def as_web_dataset(folder: Path, *, sidecar: Callable[[str, int], tuple[str, bytes]]) -> Path:
    """Two tars a split, samples numbered through."""
    for split in ("train", "validation", "test"):
        files: list[dict[str, bytes]] = [{}, {}]
        for index, (name, data) in enumerate(one for one in PICTURES.items() if one[0].startswith(split)):
            ending, annotation = sidecar(name.split("/")[1], index)
            files[index % 2] |= {f"{index:03d}.png": data, f"{index:03d}.{ending}": annotation}
        for number, part in enumerate(files):
            pack(folder / split / f"{number}.tar", part)
    return folder


def as_hugging_face(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(COLOURS)), "captions": datasets.Sequence(datasets.Value("string"))})
    parts = {}
    for split in ("train", "validation", "test"):
        rows = [(name.split("/")[1], data) for name, data in PICTURES.items() if name.startswith(split)]
        columns = {"image": [{"bytes": data, "path": None} for _, data in rows], "label": [sorted(COLOURS).index(colour) for colour, _ in rows]}
        parts[split] = datasets.Dataset.from_dict(columns | {"captions": [[f"it is {colour}", "a second"] for colour, _ in rows]}, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "folders": lambda at: write_files(at / "set", PICTURES),
    "tar": lambda at: pack(at / "set.tar", PICTURES),
    "tar.gz": lambda at: pack(at / "set.tar.gz", PICTURES, mode="w:gz"),
    "below more folders": lambda at: pack(at / "set.tar", {f"data/2024/Dataset/{name}": data for name, data in PICTURES.items()}),
    "web dataset, classes": lambda at: as_web_dataset(at / "set", sidecar=lambda colour, _: ("cls", colour.encode())),
    "web dataset, numbers": lambda at: write_files(
        as_web_dataset(at / "set", sidecar=lambda colour, _: ("cls", str(sorted(COLOURS).index(colour)).encode())), {"classnames.txt": b"blue\ngreen\nred\n"}
    ),
    "web dataset, json": lambda at: as_web_dataset(at / "set", sidecar=lambda colour, _: ("json", json.dumps({"label": colour, "caption": f"it is {colour}"}).encode())),
    "hugging face": lambda at: as_hugging_face(at / "set"),
}


def content(images: ImageSet) -> dict[str, list[tuple[bytes, str]]]:
    return {split: sorted((images.readers[place](), images.classes[images.labels[place]]) for place in places) for split, places in images.splits.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_labels_and_splits(form: str, tmp_path: Path) -> None:
    images = open_image_set(FORMS[form](tmp_path))
    assert images.classes == ("blue", "green", "red") and len(set(images.ids)) == len(images) == 18 and list(images.ids) == sorted(images.ids)
    expected = {split: sorted((data, name.split("/")[1]) for name, data in PICTURES.items() if name.startswith(split)) for split in ("train", "validation", "test")}
    assert content(images) == expected


def numbered(folder: Path, numbers: Mapping[str, int], **files: bytes) -> Path:
    return write_files(as_web_dataset(folder, sidecar=lambda colour, _: ("cls", str(numbers[colour]).encode())), {name.replace("_", "."): data for name, data in files.items()})


def test_a_number_is_a_place_among_names_and_a_key_of_a_spec(tmp_path: Path) -> None:
    numbers = {"red": 0, "green": 1, "blue": 2}
    digits = open_image_set(numbered(tmp_path / "digits", numbers, classnames_txt=b"2\n1\n0\n"))
    assert digits.classes == ("2", "1", "0") and np.bincount(digits.labels).tolist() == [6, 6, 6]
    assert {digits.captions[place] for place in range(18)} == {()} and digits.labels[0] == 0  # the first image is red
    spec = json.dumps({"classes": {"2": "sky", "0": "crimson", "1": "leaf"}}).encode()
    keyed = open_image_set(numbered(tmp_path / "keyed", numbers, classes_json=spec))
    assert keyed.classes[keyed.labels[0]] == "crimson"
    with pytest.raises(ValueError, match=r"\(0\) is not among 5, 7, 9; add it to"):
        open_image_set(numbered(tmp_path / "others", numbers, classes_json=json.dumps({"classes": {"5": "a", "7": "b", "9": "c"}}).encode()))


def test_minus_one_is_no_class_and_a_wild_number_none_either(tmp_path: Path) -> None:
    images = open_image_set(numbered(tmp_path / "hidden", {"red": 0, "green": 1, "blue": -1}))
    assert images.classes == ("0", "1") and np.bincount(images.labels + 1).tolist() == [6, 6, 6]
    with pytest.raises(ValueError, match="is of class 20000000: if that is no mistake, name the classes in"):
        open_image_set(numbered(tmp_path / "wild", {"red": 0, "green": 1, "blue": 20_000_000}))


def test_folders_that_links_lead_to_are_part_of_the_set(tmp_path: Path) -> None:
    whole = open_image_set(write_files(tmp_path / "whole" / "set", PICTURES))
    linked = write_files(tmp_path / "linked" / "set", {name: data for name, data in PICTURES.items() if "/red/" not in name})
    for split in ("train", "validation", "test"):
        (linked / split / "red").symlink_to(tmp_path / "whole" / "set" / split / "red", target_is_directory=True)
    assert open_image_set(linked).index_sha256 == whole.index_sha256


def test_captions_are_several_for_an_image(tmp_path: Path) -> None:
    for path, expected in ((FORMS["web dataset, json"](tmp_path / "a"), 1), (FORMS["hugging face"](tmp_path / "b"), 2)):
        images = open_image_set(path)
        assert all(len(texts) == expected and texts[0] == f"it is {images.classes[label]}" for texts, label in zip(images.captions, images.labels, strict=True))
    texts = as_web_dataset(tmp_path / "c", sidecar=lambda colour, index: ("txt", f"one {colour}\n\n two {index}\n".encode()))
    assert open_image_set(texts).captions[0] == ("one red", "two 0") and set(open_image_set(texts).labels) == {-1}


def test_the_index_hash_is_of_ids_bytes_labels_and_splits_alone(tmp_path: Path) -> None:
    first = open_image_set(write_files(tmp_path / "a" / "set", PICTURES)).index_sha256
    assert open_image_set(pack(tmp_path / "b.tar", dict(reversed(PICTURES.items())))).index_sha256 == first
    for number, change in enumerate(({"train/red/0.png": made_picture("red", 999)}, {"train/red/9.png": PICTURES["train/red/0.png"]})):
        assert open_image_set(write_files(tmp_path / str(number) / "set", PICTURES | change)).index_sha256 != first
    moved = {name.replace("validation/", "train/v"): data for name, data in PICTURES.items()}
    assert open_image_set(write_files(tmp_path / "c" / "set", moved)).index_sha256 != first


def test_a_spec_names_classes_and_templates(tmp_path: Path) -> None:
    path = pack(tmp_path / "set.tar", PICTURES)
    (tmp_path / "set.classes.json").write_text(json.dumps({"classes": {"red": "crimson", "green": "leaf", "blue": "sky"}, "templates": ["a {} thing"]}))
    images = open_image_set(path)
    assert images.classes == ("crimson", "leaf", "sky") and images.templates == ("a {} thing",)
    assert {images.ids[place].split("/")[1]: images.classes[label] for place, label in enumerate(images.labels)} == {"red": "crimson", "green": "leaf", "blue": "sky"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"templates": ["{} it is"]}))
    assert open_image_set(path, spec=other).templates == ("{} it is",)
    inside = pack(tmp_path / "inside.tar", PICTURES | {"classes.json": b'{"templates": ["inside {}"]}'})
    assert open_image_set(inside).templates == ("inside {}",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"templates": ["a {}", "a digit"]}, "template 'a digit' has no {} for the class name"),
        ({"classes": ["red", "green"]}, r"the class of test/blue/0.png \(blue\) is not among red, green; add it to"),
        ({"classes": ["red", "red", "blue", "green"]}, "a class stands there twice"),
        ({"classes": {"red": "warm", "green": "cold", "blue": "cold"}}, r"a class stands there twice \(cold\)"),
        ({"clases": ["red"]}, "unknown key clases, did you mean classes"),
    ],
)
def test_a_spec_that_does_not_fit_is_one_error(tmp_path: Path, spec: dict, message: str) -> None:
    folder = write_files(tmp_path / "set", PICTURES)
    (folder / "classes.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=message):
        open_image_set(folder)


def test_a_set_without_test_images_names_the_cure_and_one_can_be_drawn(tmp_path: Path) -> None:
    path = pack(tmp_path / "set.tar", {name.replace("train/", "Dataset/"): data for name, data in made_pictures({"train": 10}).items()})
    images = open_image_set(path)
    with pytest.raises(ValueError, match=r"set.tar has no test split \(its 30 images lie in blue, green, red\): put images into .* or draw a part of all with --test-part 0.2"):
        images.split("test")
    with pytest.raises(ValueError, match="has no train split"):
        images.split("train")
    drawn = open_image_set(path, test_part=0.2)
    assert np.array_equal(np.bincount(drawn.labels[drawn.split("test")]), [2, 2, 2]) and "20% of all images" in drawn.test_drawn
    assert sorted([*drawn.split("train"), *drawn.split("test")]) == list(range(30))
    assert np.array_equal(drawn.split("test"), open_image_set(path, test_part=0.2).split("test")) and drawn.index_sha256 != images.index_sha256
    official = open_image_set(write_files(tmp_path / "set", PICTURES), test_part=0.5)
    assert len(official.split("test")) == 6 and not official.test_drawn


def test_a_stratified_draw_leaves_something_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [2, 10, 41])
    drawn = draw_stratified(labels, "abcdefghij", part=0.2, seed=3)
    assert np.array_equal(np.bincount(labels[drawn]), [1, 2, 8]) and np.array_equal(drawn, np.unique(drawn))
    assert np.array_equal(drawn, draw_stratified(labels, "abcdefghij", part=0.2, seed=3)) and not np.array_equal(drawn, draw_stratified(labels, "abcdefghij", part=0.2, seed=4))
    with pytest.raises(ValueError, match="every class needs at least 2 training images"):
        draw_stratified(np.array([0, 0, 1]), ("cat", "dog"), part=0.2, seed=0)


def hostile(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (hostile(tarfile.SYMTYPE, "train/red/link.png", "/etc/passwd"), "link.png is no plain file"),
        (hostile(tarfile.LNKTYPE, "train/red/hard.png", "train/red/0.png"), "hard.png is no plain file"),
        (hostile(tarfile.CHRTYPE, "train/red/device.png"), "device.png is no plain file"),
        (hostile(tarfile.FIFOTYPE, "train/red/pipe.png"), "pipe.png is no plain file"),
        (hostile(tarfile.REGTYPE, "/train/red/absolute.png"), "absolute.png lies outside of the tar"),
        (hostile(tarfile.REGTYPE, "train/../../red/up.png"), "up.png lies outside of the tar"),
        (hostile(tarfile.REGTYPE, "train/red/0.png"), "train/red/0.png stands in it twice"),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_hostile_tars_are_refused(tmp_path: Path, member: tarfile.TarInfo, message: str, mode: str) -> None:
    path = pack(tmp_path / ("set.tar" if mode == "w" else "set.tgz"), PICTURES, mode=mode)
    if mode == "w":
        with tarfile.open(path, "a") as tar:
            tar.addfile(member)
    else:
        with tarfile.open(path, mode) as tar:
            for name, data in PICTURES.items():
                ordinary = tarfile.TarInfo(name)
                ordinary.size = len(data)
                tar.addfile(ordinary, io.BytesIO(data))
            tar.addfile(member)
    with pytest.raises(ValueError, match=message):
        open_image_set(path)


def test_a_tar_that_was_cut_is_refused_wherever_the_cut_is(tmp_path: Path) -> None:
    """Between two members, in a header and in an image: a test set must not shrink in silence."""
    whole = pack(tmp_path / "whole.tar", PICTURES)
    assert len(open_image_set(whole)) == len(PICTURES)
    with tarfile.open(whole) as tar:
        members = list(tar)
    path = tmp_path / "cut.tar"
    for end in (members[-1].offset, members[-1].offset + 100, members[-1].offset_data + 1, members[-2].offset, members[-1].offset_data + 512 * -(-members[-1].size // 512)):
        path.write_bytes(whole.read_bytes()[:end])
        with pytest.raises(ValueError, match="cut.tar cannot be read as a tar"):
            open_image_set(path)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "set", PICTURES | {"test/red/._0.png": b"note", "test/red/.x.bmp": b"note"})
    assert len(open_image_set(folder)) == len(PICTURES)


def test_a_compressed_tar_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_members, "MEMORY_BYTES", 1000)
    with pytest.raises(ValueError, match="unpack it to a plain .tar"):
        open_image_set(pack(tmp_path / "set.tar.gz", PICTURES, mode="w:gz"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: at / "nothing", "no such folder or tar of images"),
        (lambda at: write_files(at, {"a.zip": b"x"}) / "a.zip", "a.zip is no tar"),
        (lambda at: write_files(at, {"a.tar": b"x" * 2000}) / "a.tar", "a.tar cannot be read as a tar"),
        (lambda at: write_files(at / "empty", {"readme.txt": b"x"}), "holds no image"),
        (lambda at: write_files(at / "set", {"train/1.png": b""}), "train/1.png lies in no class folder"),
        (lambda at: write_files(at / "set", {"train/red/1.png": b"", "red/2.png": b""}), "red/2.png lies below no split, and other images do"),
        (lambda at: write_files(at / "set", {"train/red/1.png": b"", "test/red/2.BMP": b""}), "2.BMP is of a format that is not read .*: convert it"),
        (lambda at: pack(at / "set.tar", {"1.png": b"", "1.json": b"{"}), "the label or caption of 1.png cannot be read"),
        (lambda at: pack(at / "set.tar", {"1.png": b"", "1.json": b'{"label": [3]}'}), "a label is a number or a text"),
    ],
)
def test_data_that_is_no_image_set_is_named(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_image_set(make(tmp_path))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    images = open_image_set(write_files(tmp_path / "set", PICTURES | {"test/red/0.png": b"nothing"}))
    with pytest.raises(ValueError, match="set: test/red/0.png cannot be read as an image"):
        images.read(images.ids.index("test/red/0.png"), decode_image)


@pytest.mark.parametrize(
    ("name", "splits"), [("clothing10_cc0_s128.tar", (3068, 341, 372)), ("mnist_png_subset.tar.gz", (5000, 0, 1000)), ("sign_digits_apache2_subset.tar", (0, 0, 0))]
)
def test_real_sets_open(shared: Path, name: str, splits: tuple[int, int, int]) -> None:
    images = open_image_set(shared / "data" / "eval" / name)
    assert len(images.classes) == 10 and tuple(len(images.splits.get(split, ())) for split in ("train", "validation", "test")) == splits
    assert images.read(len(images) - 1, decode_image).size[0] > 20
