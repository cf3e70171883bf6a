"""The description of this API for people: the OpenAPI document as one page, without scripts and without other hosts."""

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from daemon.admin.scopes import NEEDS
from daemon.core.scopes import ADMIN

router = APIRouter(include_in_schema=False)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2rem 0 .5rem; } code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
details { border-top: 1px solid #8885; padding: .4rem 0; } details > :not(summary) { margin: .5rem 0 .5rem 1rem; }
summary b { display: inline-block; min-width: 4rem; } .note { opacity: .7; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """All operations and schemas."""
    return HTMLResponse(render(request.app.openapi()), headers={"content-security-policy": _POLICY})


def render(document: dict[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(method.upper(), path, operation))
    schemas = document.get("components", {}).get("schemas", {})
    sections = [f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in by_tag.items()]
    sections.append("<h2>Schemas</h2>" + "".join(_schema(name, schema) for name, schema in sorted(schemas.items())))
    title = escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><p>The same for programs: <a href="/openapi.json">openapi.json</a>.</p>{"".join(sections)}'
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    need = NEEDS.get(f"{method} {path}", ADMIN)
    parts = [f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"]
    parameters = [
        (p["name"], f"{p['in']}, {'required' if p.get('required') else 'optional'}", p.get("schema", {}))
        for p in operation.get("parameters", [])
    ]
    parts.append(_table(parameters))
    bodies = operation.get("requestBody", {}).get("content", {})
    parts.extend(f"<p>Body: {_type(media.get('schema', {}))}</p>" for media in bodies.values())
    for status, answer in operation.get("responses", {}).items():
        types = [_type(media.get("schema", {})) for media in answer.get("content", {}).values()]
        parts.append(f"<p>{escape(status)}: {escape(answer.get('description', ''))} {' '.join(types)}</p>")
    head = f'<b>{method}</b> <code>{escape(path)}</code> <span class="note">needs {escape(need)}</span>'
    return f"<details><summary>{head}</summary>{''.join(parts)}</details>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (field, "required" if field in required else "optional", inner)
        for field, inner in schema.get("properties", {}).items()
    ]
    about = f"<p>{escape(schema.get('description', ''))}</p>"
    return f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{about}{_table(rows)}</details>'


def _table(rows: list[tuple[str, str, dict[str, Any]]]) -> str:
    cells = [
        f'<tr><th scope="row"><code>{escape(name)}</code><td class="note">{escape(note)}<td>{_type(schema)}'
        for name, note, schema in rows
    ]
    return f"<table>{''.join(cells)}</table>" if cells else ""


def _type(schema: dict[str, Any]) -> str:
    """What a schema is, in a few words; a named one is a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}"><code>{name}</code></a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "from"), ("maximum", "to"), ("minLength", "at least"), ("maxLength", "at most"))
        if key in schema
    ]
    return escape(" ".join([str(schema.get("type", "anything")), schema.get("format", ""), *limits]))
