"""Images and texts through ONNX files that a user brings, run by onnxruntime; preprocessing is said by the user and recorded, never guessed.

    image file --> RGB --> centre square or all --> side x side --> (x - mean) / std --> image.onnx --> a vector, or columns of which one is the score
    text --> tokenizer.json, cut and filled to a length --> text.onnx --> a vector
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tokenizers
from jaxtyping import Float
from PIL import Image
from pydantic import Field

from lcl.core.config import config
from lcl.core.files import sha256_of
from lcl.core.images import decode_image, to_pixels
from lcl.core.scores import Kind
from lcl.crops import centre_box
from lcl.scorers import Device
from lcl.vision import PIXEL_MEAN, PIXEL_STD

Three = tuple[float, float, float]

BATCH = 64  # where the file leaves it open
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ELEMENTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
MASK = "attention_mask"


@config
class OnnxConfig:
    image: str = ""
    """ONNX file with one input, images."""
    text: str = ""
    """ONNX file whose inputs are token ids and, where it has one, attention_mask; none: the image file gives scores, not vectors."""
    tokenizer: str = ""
    """tokenizer.json for the texts; it puts its own start and end around them."""
    text_length: Annotated[int, Field(ge=1)] = 77
    """Tokens of each text: longer ones lose their end, shorter ones are filled with --onnx.pad-id (CLIP: 77)."""
    pad_id: Annotated[int, Field(ge=0)] = 0
    """Id that fills texts (CLIP of open_clip: 0; of transformers: 49407)."""
    side_px: Annotated[int, Field(ge=1)] = 224
    """Side of the square that the image file takes."""
    fit: Literal["centre", "squash"] = "centre"
    """centre: the largest centred square; squash: all of the image, its sides brought to the same length."""
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Order of images, channels, rows (height) and columns (width) in the input; TensorFlow's exports have nhwc."""
    mean: Three = PIXEL_MEAN
    """Subtracted from each channel (red, green, blue) of pixels in [0, 1]; CLIP's."""
    std: Three = PIXEL_STD
    """Then divided by it."""
    image_output: str = ""
    """Name of the output to take, where the image file has several."""
    text_output: str = ""
    """The same of the text file."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What makes a score of the output's columns, where there is no text file."""
    column: Annotated[int, Field(ge=0)] = 0
    """Which column is the score, from 0."""


class OnnxScorer:
    """Vectors from an image and a text file; or a score of each image, where there is no text file."""

    def __init__(self, settings: OnnxConfig, *, device: Device) -> None:
        """Raises ValueError for files that are missing or are no such models, for outputs that are not named, and where the device cannot be used."""
        if bool(settings.text) != bool(settings.tokenizer):
            raise ValueError("--onnx.text and --onnx.tokenizer go together: a model of texts, and the tokenizer.json that it was trained with")
        if not all(settings.std):
            raise ValueError(f"--onnx.std {settings.std} has a zero")
        self._settings = settings
        self.kind: Kind = "pairs" if settings.text else "images"
        self._image = _Model(Path(settings.image), output=settings.image_output, flag="image", device=device)
        files = [settings.image]
        if settings.text:
            self._text = _Model(Path(settings.text), output=settings.text_output, flag="text", device=device)
            self._tokenizer = _read_tokenizer(Path(settings.tokenizer), settings)
            files += [settings.text, settings.tokenizer]
        self.fingerprint = hashlib.sha256("".join(sha256_of(Path(file)) for file in files).encode()).hexdigest()

    def of_images(self, images: Sequence[bytes]) -> Float[np.ndarray, "images width"]:
        name = self._image.only_input()
        rows = self._image.rows(len(images), lambda at, end: {name: np.stack([self._pixels(data) for data in images[at:end]])})
        return rows if self.kind == "pairs" else self._scores(rows)

    def _pixels(self, data: bytes) -> Float[np.ndarray, "..."]:
        settings = self._settings
        image = decode_image(data, draft_px=settings.side_px)
        left, top, right, bottom = centre_box(*image.size) if settings.fit == "centre" else (0.0, 0.0, 1.0, 1.0)
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        square = image.resize((settings.side_px, settings.side_px), RESAMPLING[settings.interpolation], box=box)
        values = (to_pixels(square).astype(np.float32) / 255 - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
        return values.transpose(2, 0, 1) if settings.layout == "nchw" else values

    def _scores(self, rows: Float[np.ndarray, "images columns"]) -> Float[np.ndarray, "images 1"]:
        column, values = self._settings.column, rows.astype(np.float64)
        if column >= rows.shape[1]:
            raise ValueError(f"--onnx.column {column}: the output of {self._settings.image} has {rows.shape[1]} columns, counted from 0")
        if self._settings.activation == "sigmoid":
            values = 1 / (1 + np.exp(-values.clip(-700, 700)))  # exp of more is no float64
        elif self._settings.activation == "softmax":
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            values = powers / powers.sum(axis=1, keepdims=True)
        return values[:, column : column + 1]

    def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
        name = self._text.only_input(beside=MASK)
        encoded = self._tokenizer.encode_batch(list(texts))
        ids, mask = np.array([text.ids for text in encoded]), np.array([text.attention_mask for text in encoded])
        inputs = {name: ids} | ({MASK: mask} if MASK in self._text.inputs else {})
        return self._text.rows(len(texts), lambda at, end: {name: values[at:end] for name, values in inputs.items()})


def _read_tokenizer(path: Path, settings: OnnxConfig) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ValueError(f"{path}: no such tokenizer.json (--onnx.tokenizer)")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no tokenizer.json of the Hugging Face library, or a damaged one ({error})") from error
    tokenizer.enable_truncation(settings.text_length)
    tokenizer.enable_padding(length=settings.text_length, pad_id=settings.pad_id)
    return tokenizer


class _Model:
    """One ONNX file: its inputs (name: element type) and the output that is asked for."""

    def __init__(self, path: Path, *, output: str, flag: str, device: Device) -> None:
        self.path, self.flag = path, flag
        self._session = _open(path, flag, device)
        self.inputs = {item.name: item for item in self._session.get_inputs()}
        outputs = [item.name for item in self._session.get_outputs()]
        if output not in outputs and (output or len(outputs) > 1):
            raise ValueError(f"{path} has the outputs {', '.join(outputs)}: say which with --onnx.{flag}-output")
        self._output = output or outputs[0]

    def only_input(self, *, beside: str = "") -> str:
        """The name of the one input, besides one that may be there. Raises ValueError if there are others."""
        names = [name for name in self.inputs if name != beside]
        if len(names) != 1:
            raise ValueError(f"{self.path} has the inputs {', '.join(self.inputs)}: --onnx.{self.flag} takes one{f' beside {beside}' * bool(beside)}; export it so")
        return names[0]

    def rows(self, number: int, feed: Callable[[int, int], dict[str, np.ndarray]]) -> Float[np.ndarray, "rows width"]:
        """The output for `number` items, in batches; `feed(at, end)` gives the inputs of some. A file with a batch of its own is filled with the last item."""
        first = next(iter(next(iter(self.inputs.values())).shape), None)
        fixed = first if isinstance(first, int) else None
        size = fixed or BATCH
        return np.concatenate([self._run(feed(at, min(at + size, number)), fixed) for at in range(0, number, size)])

    def _run(self, feed: dict[str, np.ndarray], fixed: int | None) -> Float[np.ndarray, "rows width"]:
        number = len(next(iter(feed.values())))
        filled = {name: np.concatenate([values, np.repeat(values[-1:], (fixed or number) - number, axis=0)]) for name, values in feed.items()}
        try:
            (found,) = self._session.run([self._output], {name: values.astype(ELEMENTS[self.inputs[name].type]) for name, values in filled.items()})
        except Exception as error:  # the library's errors have no common class of their own
            shapes = ", ".join(f"{name} {values.shape}" for name, values in filled.items())
            raise ValueError(f"{self.path} does not take {shapes} ({_first_line(error)}); --onnx.side-px, layout and text-length must be the model's") from error
        rows = np.asarray(found, np.float32)[:number].reshape(number, -1) if np.ndim(found) in (1, 2) else None
        if rows is None or not np.isfinite(rows).all():
            raise ValueError(f"{self.path} gives no finite row for each item in {self._output} (shape {np.shape(found)}): name another with --onnx.{self.flag}-output")
        return rows


def _open(path: Path, flag: str, device: Device) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: no such file (--onnx.{flag})")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ValueError("ONNX files are run by onnxruntime: pip install 'lcl[onnx]'") from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ValueError(f"--device {device}: this onnxruntime has only {', '.join(onnxruntime.get_available_providers())}; install onnxruntime-gpu in its place")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[PROVIDERS[device]])
    except Exception as error:  # reading foreign bytes may raise anything
        raise ValueError(f"{path} cannot be read as an ONNX model ({_first_line(error)}); export it again (--onnx.{flag})") from error
    if PROVIDERS[device] not in session.get_providers():
        raise ValueError(f"--device {device}: onnxruntime could not start {PROVIDERS[device]} here; its log says why")
    if unknown := [f"{item.name} ({item.type})" for item in session.get_inputs() if item.type not in ELEMENTS]:
        raise ValueError(f"{path} has inputs that no image or text becomes: {', '.join(unknown)}")
    return session


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
