"""What checks find: a word, a sentence, and the next step."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from proxyctl.output import Printer, clean, column

Status = Literal["ok", "warning", "failed", "skipped"]
COLUMNS = [column("name"), column("status"), column("detail"), column("fix")]
_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `fix` is a next step; None when there is nothing to do."""

    name: str
    status: Status
    detail: str
    fix: str | None = None


def print_findings(printer: Printer, findings: Sequence[Finding]) -> None:
    """Signs and next steps for a person; rows in a pipe; `{"checks": […]}` as a document."""
    rows = [asdict(finding) for finding in findings]
    if printer.wants_document:
        printer.item({"checks": rows}, COLUMNS)
    elif printer.form or not sys.stdout.isatty():
        printer.rows({"items": rows}, COLUMNS, name="name")
    else:
        for row in rows:
            sys.stdout.write(f"{_SIGNS[row['status']]} {row['name']:<14} {row['status']:<8} {clean(row['detail'])}\n")
            if row["fix"] and row["status"] != "ok":
                sys.stdout.write(f"{'':<26}→ {clean(row['fix'])}\n")
