"""The admin API in a few hundred lines, `contract.txt`: what was promised once stays.

A line is an operation with its parameters, or a field of a schema with its type. New lines are welcome (`UPDATE_CONTRACT=1`
writes them); one that goes, or is different, breaks somebody's script.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.admin.app import openapi_document

FILE = Path(__file__).parent / "contract.txt"
_METHODS = ("get", "post", "put", "patch", "delete")


def test_what_was_promised_stays_and_what_is_new_is_written_down() -> None:
    now = list(lines(openapi_document()))
    if os.environ.get("UPDATE_CONTRACT"):
        FILE.write_text("".join(f"{line}\n" for line in now))
    promised = FILE.read_text().splitlines()
    assert sorted(set(promised) - set(now)) == []  # broken promises
    assert now == promised


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    for path, item in sorted(document["paths"].items()):
        for method in _METHODS:
            if method in item:
                yield _operation(method, path, item[method])
    for name, schema in sorted(document["components"]["schemas"].items()):
        required = schema.get("required", [])
        for field, kind in schema.get("properties", {}).items():
            yield f"{name}.{field}{'' if field in required else '?'}: {_kind(kind)}"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        f"{parameter['name']}{'' if parameter.get('required') else '?'}"
        for parameter in operation.get("parameters", [])
        if parameter["in"] != "path"
    ]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = f" {_kind(content['schema'])}" if content else ""
    answers = [
        f"{status} {_answer(answer)}".rstrip() for status, answer in operation["responses"].items() if status < "4"
    ]
    return f"{method.upper()} {path} [{' '.join(parameters)}]{body} -> {', '.join(answers)}"


def _answer(answer: Mapping[str, Any]) -> str:
    kinds = [_kind(content.get("schema", {})) or media for media, content in answer.get("content", {}).items()]
    return " | ".join(kinds)


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in short, such as `string(date-time) | null` or `User[]`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(_kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"{_kind(schema['items'])}[]"
    form = f"({schema['format']})" if "format" in schema else ""
    return f"{schema.get('type', '')}{form}"
