"""Documentation page of the API, rendered from its OpenAPI document without external assets."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from pydantic import TypeAdapter

from svd_core.web.fal.models import VideoInput
from svd_core.web.snippets import Snippets, snippets

DOCS_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;
  color: #1a1a1a; background: #fff; }
pre { padding: 1rem; overflow-x: auto; background: #f3f3f3; }
code { font-size: .9rem; overflow-wrap: anywhere; }
pre code { overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem;
  border-bottom: 1px solid #ccc; }
details { margin: .3rem 0; }
summary { cursor: pointer; }
@media (prefers-color-scheme: dark) {
  body { color: #eee; background: #161616; }
  pre { background: #262626; }
  th, td { border-color: #555; }
  a { color: #9cf; }
}
"""

INTRO = """
<p>This server speaks the protocol of fal's <code>fal-ai/stable-video</code>. The published clients
(<code>@fal-ai/client</code> and <code>@fal-ai/server-proxy</code> from npm, <code>fal-client</code>
from PyPI) work with it once they have its address. For tools, the same description is in
<a href="openapi.json">openapi.json</a>.</p>
"""

KEYED = "<p>Send your key with every call: <code>Authorization: Key id:secret</code>.</p>"
OPEN = "<p>This server has no keys; programs on its own machine may call it without one.</p>"

CODE = (("curl", "curl"), ("JavaScript", "javascript"), ("Python", "python"))


def docs_page(document: Mapping[str, Any], open_here: bool) -> str:
    """Render the page. `document`: OpenAPI. `open_here`: whether calls need no key."""
    base = document["servers"][0]["url"]
    blocks = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(document['info']['title'])}: API</title><style>{STYLE}</style></head>",
        f"<body><main><h1>{escape(document['info']['title'])}: API</h1>{INTRO}",
        OPEN if open_here else KEYED,
        *_code(snippets({"motion_bucket_id": 80}, base)),
        f"<h2>Input</h2>{_table(_inputs(TypeAdapter(VideoInput).json_schema()))}",
        *_operations(document),
        "</main></body></html>",
    ]
    return "".join(blocks)


def _code(code: Snippets) -> Iterator[str]:
    yield "<h2>From code</h2>"
    for title, name in CODE:
        yield f"<h3>{title}</h3><pre><code>{escape(getattr(code, name))}</code></pre>"


def _inputs(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    yield "field", "type", "default", "what it does"
    for name, field in schema["properties"].items():
        kind = next((k for k in field.get("anyOf", [field]) if k.get("type") != "null"), field)
        span = " or ".join(kind.get("enum", [kind["type"]]))
        if "minimum" in kind:
            span += f", {kind['minimum']:.10g} to {kind['maximum']:.10g}"
        default = "required" if name in schema["required"] else field.get("default")
        yield name, span, "" if default is None else str(default), field.get("description", "")


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in next(rows))
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    tag = ""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            title = (
                f"<code>{method.upper()} {escape(path)}</code> {escape(operation['description'])}"
            )
            yield f"<details><summary>{title}</summary>{_parameters(operation)}"
            yield f"{_table(_responses(operation))}</details>"


def _parameters(operation: Mapping[str, Any]) -> str:
    items = "".join(
        f"<li><code>{escape(one['name'])}</code> ({one['in']}): {escape(one['description'])}</li>"
        for one in operation.get("parameters", ())
        if "description" in one
    )
    return f"<ul>{items}</ul>" if items else ""


def _responses(operation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "status", "meaning"
    for status, response in operation["responses"].items():
        yield status, response["description"]
