"""What goes to standard output: one document for programs, a table for people, tab-separated rows for a pipe."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from proxyctl.errors import UsageError
from proxyctl.timespan import ago

FORMATS = ("table", "json", "yaml", "csv", "name")
Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], object]]
_KEYS = re.compile(r"\b(ak_|pt_|sk-ant-|ABSK)[A-Za-z0-9_+/=-]{4,}")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(\.\d+)?( ?(%|ms|s))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def column(title: str, field: str | None = None) -> Column:
    """A column that shows one field."""
    name = field or title.lower().replace(" ", "_")
    return title, lambda row: row.get(name)


def dollars(nano: object) -> str:
    """Nano-dollars for people: cents at least, more where the amount is small."""
    amount = int(str(nano or 0))
    digits = 2 if amount >= 10**9 or amount == 0 else 6
    unit = 10 ** (9 - digits)
    rounded = (amount + unit // 2) // unit
    return f"${rounded // 10**digits:,}.{rounded % 10**digits:0{digits}d}"


def checked_dollars(name: str, amount: str) -> str:
    """An amount as the API takes it: from 0 to 999999.99, digits of ASCII and a point."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", amount, re.ASCII):
        raise UsageError(f"{name} {amount!r}: expected dollars from 0 to 999999.99, such as 10 or 10.50")
    return amount


_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(amount: int, most: int, width: int = 20) -> str:
    """A bar of blocks, as long as an amount is against the largest; something is never nothing."""
    if amount <= 0 or most <= 0:
        return ""
    whole, part = divmod(max(1, amount * width * 8 // most), 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


class Printer:
    """Prints results in the chosen format."""

    def __init__(self, form: str | None, query: str | None) -> None:
        if form is not None and form not in FORMATS:
            raise UsageError(f"--output {form!r}: expected {', '.join(FORMATS)}")
        self.form = form
        self._query = query

    @property
    def wants_document(self) -> bool:
        """Whether the answer is wanted as it is, for a program."""
        return self.form in ("json", "yaml") or bool(self._query)

    def rows(self, document: Mapping[str, Any], columns: Sequence[Column], *, name: str = "id") -> None:
        """Print a list answer `{"items": […]}`."""
        items = document["items"]
        if self.wants_document:
            self._document(document)
        elif self.form == "name":
            self._lines(str(item[name]) for item in items)
        elif self.form == "csv":
            self._csv(items, columns)
        else:
            self._table(items, columns)

    def item(self, document: Mapping[str, Any], columns: Sequence[Column], *, name: str = "id") -> None:
        """Print one object."""
        if self.wants_document:
            self._document(document)
        elif self.form == "name":
            self._lines([str(document[name])])
        elif self.form == "csv":
            self._csv([document], columns)
        else:
            width = max(len(title) for title, _ in columns)
            self._lines(f"{title:<{width}}  {clean(value(document))}" for title, value in columns)

    def _document(self, document: object) -> None:
        if self._query:
            import jmespath
            from jmespath.exceptions import JMESPathError

            try:
                document = jmespath.search(self._query, document)
            except JMESPathError as error:
                raise UsageError(f"--query: {str(error).splitlines()[0]}") from error
        if self.form == "yaml":
            import yaml

            sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        else:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def _table(self, items: Sequence[Row], columns: Sequence[Column]) -> None:
        cells = [[clean(value(item)) for _, value in columns] for item in items]
        if not sys.stdout.isatty() and self.form is None:
            self._lines("\t".join(row) for row in cells)
            return
        if sys.stdout.isatty():
            now = datetime.now(UTC)
            cells = [[ago(cell, now) for cell in row] for row in cells]
        titles = [title.upper() for title, _ in columns]
        self._lines(_aligned([titles, *cells], numeric=[_is_numeric(column) for column in zip(*cells, strict=True)]))

    def _csv(self, items: Sequence[Row], columns: Sequence[Column]) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([title.lower().replace(" ", "_") for title, _ in columns])
        writer.writerows([[_inert(_cell(value(item))) for _, value in columns] for item in items])
        sys.stdout.write(buffer.getvalue())

    def _lines(self, lines: Any) -> None:
        for line in lines:
            sys.stdout.write(line + "\n")


def _aligned(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """Rows with columns of equal width; numbers end where the column ends."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [*numeric, *[False] * (len(widths) - len(numeric))]
    return [
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_numeric(cells: Sequence[str]) -> bool:
    return any(_NUMBER.fullmatch(cell) for cell in cells) and all(_NUMBER.fullmatch(c) or c == "-" for c in cells)


def abandon() -> None:
    """Write no more to standard output, where nobody reads or nothing fits: not at the interpreter's end either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def clean(value: object) -> str:
    """A value as one line, without control characters: names come from other people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _CONTROL.sub("", str(value))


def _cell(value: object) -> str:
    """A cell for a spreadsheet: what is not there is empty."""
    return "" if value is None else clean(value)


def without_keys(text: str) -> str:
    """A text in which nothing that looks like a key is left."""
    return _KEYS.sub(lambda found: f"{found[1]}(secret)", text)


def _inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and text != "-") else text
