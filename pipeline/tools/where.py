"""Conditions on documents, over the columns of a catalogue: `score.words >= 50 and num_images >= 2 and domain != 'x.org'`.

    text --> Python's parser --> a few kinds of node, each checked --> functions of a table, vectorised with numpy

Nothing in it is ever executed as Python: numbers, texts, names of columns, `score.NAME`, arithmetic, comparisons, `in`, `and`, `or`, `not`.
"""

import ast
import difflib
import operator
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

MAX_CHARACTERS = 4096
MAX_DEPTH = 100
NUMBERS = ("num_images", "num_characters", "crawl_offset")
TEXTS = ("key", "domain", "language", "license", "page_url", "crawl_file", "text_xxh128")
NAMES = (*NUMBERS, *TEXTS, "score.NAME")

ARITHMETIC = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide}
ORDERS = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne}

Kind = Literal["number", "text", "truth"]


@dataclass(frozen=True)
class _Value:
    """A part of the condition: what it gives, and how, one value per row of a table."""

    kind: Kind
    of: Callable[[pa.Table], Any]
    constant: bool = False


class Condition:
    """A condition that was understood. `columns` are those of the catalogue that it needs, `scores` the scores that it names."""

    def __init__(self, text: str) -> None:
        """Raises ValueError that names what is wrong: the column and the nearest ones, or the part that has no meaning here."""
        self.text = text
        self.scores: set[str] = set()
        self._columns: set[str] = set()
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"--where has {len(text)} characters, at most {MAX_CHARACTERS} are read; for lists of keys or domains, select in steps")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an escape like \\d, which stands for itself
                tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"--where {text[:200]!r} cannot be read: {str(getattr(error, 'msg', None) or error)[:200]}") from error
        try:
            self._root = self._compile(tree.body, 0)
        except RecursionError as error:
            raise ValueError(f"--where {text[:200]!r} is nested too deep") from error
        if self._root.kind != "truth":
            raise ValueError(f"--where {text!r} is a {self._root.kind}, not a condition; compare it with something")

    @property
    def columns(self) -> list[str]:
        return sorted(self._columns | ({"scores"} if self.scores else set()))

    def __call__(self, table: pa.Table) -> Bool[np.ndarray, " rows"]:
        """Whether each row of a catalogue meets the condition. A comparison with a score that the document lacks is false."""
        with np.errstate(all="ignore"):  # a division by zero gives inf or NaN, which compare as such
            return np.broadcast_to(np.asarray(self._root.of(table), dtype=bool), (len(table),))

    def check_scores(self, known: Iterable[str]) -> None:
        """Raises ValueError if a score is named that is not among the `known` ones."""
        known = sorted(known)
        for name in sorted(self.scores - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"no document has a score called {name!r}" + (f", did you mean score.{near[0]}?" if near else f"; there are: {', '.join(known) or 'none'}"))

    def _compile(self, node: ast.expr, depth: int) -> _Value:
        if depth > MAX_DEPTH:
            raise ValueError(f"--where is nested more than {MAX_DEPTH} deep")
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self._part(value, "truth", depth) for value in values]
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return _Value("truth", lambda table: _fold(combine, [part.of(table) for part in parts]))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._part(operand, "truth", depth)
                return _Value("truth", lambda table: np.logical_not(inner.of(table)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                number = self._part(operand, "number", depth)
                return _Value("number", lambda table: -number.of(table), number.constant)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                first, second, apply = self._part(left, "number", depth), self._part(right, "number", depth), ARITHMETIC[type(op)]
                return _Value("number", lambda table: apply(first.of(table), second.of(table)), first.constant and second.constant)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                links = [self._link(one, op, two, depth) for one, op, two in zip(sides, ops, sides[1:], strict=False)]
                return _Value("truth", lambda table: _fold(np.logical_and, [link(table) for link in links]))
            case ast.Constant(value=bool()):
                return _Value("truth", lambda table: node.value, constant=True)
            case ast.Constant(value=int() | float()):
                return _number(node.value)
            case ast.Constant(value=str()):
                return _Value("text", lambda table: node.value, constant=True)
            case ast.Name(id=name):
                return self._column(name)
            case ast.Attribute(value=ast.Name(id="score"), attr=name):
                self.scores.add(name)
                return _Value("number", lambda table: score_of(table, name))
        raise ValueError(f"--where: {_source(node)} has no meaning here; use columns ({', '.join(NAMES)}), numbers, 'texts', + - * /, comparisons, in, and, or, not")

    def _part(self, node: ast.expr, kind: Kind, depth: int) -> _Value:
        value = self._compile(node, depth + 1)
        if value.kind != kind:
            raise ValueError(f"--where: {_source(node)} is a {value.kind} where a {kind} is needed")
        return value

    def _column(self, name: str) -> _Value:
        if name not in NUMBERS + TEXTS:
            near = difflib.get_close_matches(name, NUMBERS + TEXTS, n=1)
            raise ValueError(f"--where: no column is called {name!r}, " + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(NAMES)}"))
        self._columns.add(name)
        if name in NUMBERS:
            return _Value("number", lambda table: table[name].to_numpy().astype(np.float64))
        return _Value("text", lambda table: np.array([value or "" for value in table[name].to_pylist()], dtype=object))

    def _link(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> Callable[[pa.Table], Any]:
        """One comparison of a chain."""
        if isinstance(op, ast.In | ast.NotIn):
            found = self._membership(left, right, depth)
            return found if isinstance(op, ast.In) else lambda table: np.logical_not(found(table))
        first, second = self._compile(left, depth + 1), self._compile(right, depth + 1)
        if type(op) not in ORDERS or first.kind != second.kind or first.kind == "truth":
            raise ValueError(f"--where: cannot compare the {first.kind} {_source(left)} with the {second.kind} {_source(right)} in that way")
        if first.constant and second.constant:
            raise ValueError(f"--where: {_source(left)} and {_source(right)} are both constants; name a column")
        compare = ORDERS[type(op)]
        if first.kind == "text":
            return lambda table: compare(first.of(table), second.of(table))
        return lambda table: _compare_numbers(compare, first.of(table), second.of(table))

    def _membership(self, left: ast.expr, right: ast.expr, depth: int) -> Callable[[pa.Table], Any]:
        """`x in ('a', 'b')` for one of a list, `'part' in page_url` for a part of a text."""
        value = self._compile(left, depth + 1)
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            items = [self._compile(item, depth + 1) for item in right.elts]
            if value.kind == "truth" or not all(item.constant and item.kind == value.kind for item in items):
                raise ValueError(f"--where: {_source(right)} must be a list of constants, each a {value.kind} like {_source(left)}")
            empty = pa.table({})
            choices = {item.of(empty) for item in items}
            return lambda table: np.array([entry in choices for entry in np.broadcast_to(value.of(table), (len(table),))], dtype=bool)
        text = self._part(right, "text", depth)
        if value.kind != "text" or not value.constant or text.constant:
            raise ValueError(f"--where: write 'part' in COLUMN, or COLUMN in ('a', 'b'), not {_source(left)} in {_source(right)}")
        part = value.of(pa.table({}))
        return lambda table: np.array([part in entry for entry in text.of(table)], dtype=bool)


def _number(value: float) -> _Value:
    try:
        number = np.float64(value)
    except OverflowError as error:
        raise ValueError("--where: a number is too large") from error
    return _Value("number", lambda table: number, constant=True)


def _fold(combine: np.ufunc, values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = combine(result, value)
    return result


def _compare_numbers(compare: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    return compare(first, second) & ~np.isnan(first) & ~np.isnan(second)  # NaN stands for a missing score, and NaN != x holds in IEEE 754


def _source(node: ast.AST) -> str:
    return f"`{ast.unparse(node)[:200]}`"


def score_of(table: pa.Table, name: str) -> Float[np.ndarray, " rows"]:
    """The score `name` of each row of a catalogue, NaN where it has none."""
    column = table["scores"].combine_chunks()
    values = np.full(len(table), np.nan)
    if len(table):
        chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        lengths = np.diff(chunk.offsets.to_numpy())
        first, last = chunk.offsets[0].as_py(), chunk.offsets[-1].as_py()
        rows = np.repeat(np.arange(len(table)), lengths)
        wanted = np.array(chunk.keys.slice(first, last - first).to_pylist(), dtype=object) == name
        values[rows[wanted]] = chunk.items.slice(first, last - first).to_numpy(zero_copy_only=False)[wanted]
    return values


def score_names(table: pa.Table) -> set[str]:
    """The names of all scores in a catalogue."""
    return {name for chunk in table["scores"].chunks for name in chunk.keys.unique().to_pylist()}
