"""Marks of origin in picture files: that a model made or changed them, which one, and from what.

    Mark --XMP packet: IPTC's DigitalSourceType, the model's and the source's SHA-256--> in PNG (iTXt), JPEG (APP1) and WebP, where viewers and archives look

DigitalSourceType takes a term of the IPTC vocabulary http://cv.iptc.org/newscodes/digitalsourcetype (version of 2024-09-17): `algorithmicallyEnhanced` for a
photograph that was corrected, `trainedAlgorithmicMedia` for a picture that a model made, `compositeWithTrainedAlgorithmicMedia` for one with such parts.
A picture that already says that it, or a part of it, was not taken from life keeps saying so: a restored drawing is a drawing.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from xml.sax.saxutils import escape, quoteattr, unescape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lcl.core.files import open_aside

Made = Literal[
    "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "algorithmicMedia", "dataDrivenMedia", "virtualRecording", "digitalCreation",
    "digitalArt", "softwareImage",
]  # fmt: skip
"""Not taken from life, or in parts; of several that a picture says the first here is kept. The last two are retired terms, which files have."""
Kind = Literal["algorithmicallyEnhanced", Made]
MADE: tuple[Made, ...] = get_args(Made)
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
PNG_KEYWORD = "XML:com.adobe.xmp"  # XMP specification, part 3
SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "xmp": "http://ns.adobe.com/xap/1.0/",
    "lcl": "urn:lcl:origin-mark/1#",
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    kind: Kind
    model_sha256: str
    """Of the model's file."""
    source_sha256: str = ""
    """Of the file that the picture was made from; empty where there was none."""
    settings: str = ""
    """What it was made with, for people: task, steps, seed."""


def to_xmp(mark: Mark) -> bytes:
    """The mark as an XMP packet."""
    spaces = " ".join(f"xmlns:{name}={quoteattr(address)}" for name, address in SPACES.items())
    fields = {
        "Iptc4xmpExt:DigitalSourceType": VOCABULARY + mark.kind, "xmp:CreatorTool": "lcl",
        "lcl:ModelSHA256": mark.model_sha256, "lcl:SourceSHA256": mark.source_sha256, "lcl:Settings": mark.settings,
    }  # fmt: skip
    body = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items() if value)
    description = f'<rdf:Description rdf:about="">{body}</rdf:Description>'
    packet = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {spaces}>{description}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    return packet.encode()


def from_xmp(packet: bytes) -> Mark | None:
    """The mark in a packet that `to_xmp` wrote; None in any other. The inverse of `to_xmp`."""
    text = packet.decode(errors="replace")

    def field(name: str) -> str:
        found = re.search(rf"<{name}>([^<]*)</{name}>", text)
        return unescape(found[1]) if found else ""

    kind = field("Iptc4xmpExt:DigitalSourceType").removeprefix(VOCABULARY)
    if kind not in ("algorithmicallyEnhanced", *MADE) or not field("lcl:ModelSHA256"):
        return None
    return Mark(kind, field("lcl:ModelSHA256"), field("lcl:SourceSHA256"), field("lcl:Settings"))


def saving_options(format: str, mark: Mark) -> dict[str, Any]:
    """What Pillow's `save` is to be told to put the mark into a PNG, JPEG or WEBP."""
    if format != "PNG":
        return {"xmp": to_xmp(mark)}
    chunks = PngInfo()
    chunks.add_itxt(PNG_KEYWORD, to_xmp(mark).decode())
    return {"pnginfo": chunks}


def save_marked(image: Image.Image, path: Path, mark: Mark) -> None:
    """Writes a PNG that a model made, which says so of itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        image.save(file, "PNG", **saving_options("PNG", mark))


def xmp_of(info: Mapping[str, Any]) -> bytes:
    """The XMP packet among what Pillow says of a picture (`Image.info`), of any writer; empty if there is none."""
    found = info.get("xmp") or info.get(PNG_KEYWORD) or b""
    return found.encode() if isinstance(found, str) else found


def read_mark(data: bytes) -> Mark | None:
    """The mark in the bytes of a picture; None if it has none of ours."""
    with Image.open(io.BytesIO(data)) as image:
        return from_xmp(xmp_of(image.info))


def is_marked(data: bytes) -> bool:
    """Whether these are a picture with a mark of ours: one that a command made, and may make again."""
    try:
        return read_mark(data) is not None
    except (OSError, ValueError):  # no picture, or a broken one
        return False


def kind_after(kind: Kind, packet: bytes) -> Kind:
    """`kind`, or what the source's own XMP says where that is that it was made and not taken: correcting such a picture makes no photograph of it."""
    said = re.findall(r"://cv\.iptc\.org/newscodes/digitalsourcetype/(\w+)", packet.decode(errors="replace"))
    for earlier in MADE:
        if earlier in said:
            return earlier
    return kind
