"""JSON whose values can be found again in the text, so that a problem has a line and a column."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Path = tuple[str | int, ...]
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where, if there is a place for it. Lines and columns count from one."""

    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}, column {self.column}: {self.message}"


class NotJson(ValueError):
    """The text is not JSON."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class JsonObject(dict[str, Any]):
    """An object that remembers which names were written twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = sorted({name for name in names if names.count(name) > 1}) if len(self) < len(pairs) else []


class JsonDocument:
    """A JSON text and its value; numbers with a fraction are decimals."""

    def __init__(self, document: bytes) -> None:
        """Read it.

        Raises:
            NotJson: with line and column where there are any.
        """
        try:
            self.text = document.decode("utf-8-sig")
            self.root: Any = json.loads(self.text, parse_float=Decimal, object_pairs_hook=JsonObject)
        except UnicodeDecodeError:
            raise NotJson(Problem("is not UTF-8")) from None
        except json.JSONDecodeError as error:
            raise NotJson(Problem(error.msg, error.lineno, error.colno)) from None
        except (ValueError, RecursionError):  # a number of thousands of digits, or thousands of brackets
            raise NotJson(Problem("holds a number or a nesting that is too large")) from None

    def problem(self, path: Path, message: str) -> Problem:
        """A problem with the value at `path`, or with what holds it when there is no such value."""
        offset = self._offset(path)
        line = self.text.count("\n", 0, offset) + 1
        return Problem(message, line, offset - (self.text.rfind("\n", 0, offset) + 1) + 1)

    def written_twice(self) -> list[Path]:
        """Paths of all names that an object has more than once."""
        return list(_twice(self.root, ()))

    def _offset(self, path: Path) -> int:
        offset = self._skip(0)
        for step in path:
            places = [place for name, place in self._parts(offset) if name == step]
            if not places:
                break
            offset = places[-1]  # of a name that is written twice the last one counts
        return offset

    def _parts(self, offset: int) -> Iterator[tuple[str | int, int]]:
        """Name or number, and offset of the value, of each part of the object or the list at `offset`."""
        is_object, number = self.text[offset] == "{", 0
        if not is_object and self.text[offset] != "[":
            return
        offset = self._skip(offset + 1)
        while self.text[offset] not in "]}":
            name: str | int = number
            if is_object:
                name, offset = _DECODER.raw_decode(self.text, offset)
                offset = self._skip(self._skip(offset) + 1)  # over the colon
            yield name, offset
            number += 1
            offset = self._skip(_DECODER.raw_decode(self.text, offset)[1])
            if self.text[offset] == ",":
                offset = self._skip(offset + 1)

    def _skip(self, offset: int) -> int:
        found = _SPACE.match(self.text, offset)
        return found.end() if found else offset


def _twice(node: object, path: Path) -> Iterator[Path]:
    if isinstance(node, JsonObject):
        for name in node.twice:
            yield (*path, name)
        for name, value in node.items():
            yield from _twice(value, (*path, name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _twice(value, (*path, number))
