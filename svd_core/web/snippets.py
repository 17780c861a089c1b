"""Code snippets for the HTTP API: on the page, in the docs and in the README."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from svd_core.params import VideoParams

Values = Mapping[str, object]
"""Settings of a video by fal's names."""

MOUNT = "/fal"
"""Path of the API on this server."""

ENDPOINTS = ("fal-ai/stable-video",)
"""Ids of fal's endpoints that this server has."""

DEFAULT_FPS = 25
"""Default fps of fal. Its range begins at 10. Here the API accepts the core's whole range, so that
it can make every video of the page."""

BASE = f"http://127.0.0.1:7860{MOUNT}"
"""URL of the API if no other is known."""

CURL = """\
photo=$(base64 < photo.jpg | tr -d '\\n')
printf '{{"image_url": "data:image/jpeg;base64,%s"{values}}}' "$photo" |
    curl -s {base}/run/{endpoint} -d @- \\
        -H "Content-Type: application/json" -H "Authorization: Key $FAL_KEY"
"""

JAVASCRIPT = """\
import {{ fal }} from "@fal-ai/client";
import {{ readFile }} from "node:fs/promises";

const base = "{base}";
const places = {{ "queue.fal.run": "queue", "fal.run": "run", "rest.fal.ai": "rest" }};
fal.config({{
  credentials: process.env.FAL_KEY,
  requestMiddleware: async (request) => {{
    const url = new URL(request.url);
    const place = places[url.host];
    if (!place) return request;
    return {{ ...request, url: `${{base}}/${{place}}${{url.pathname}}${{url.search}}` }};
  }},
}});

const photo = new Blob([await readFile("photo.jpg")], {{ type: "image/jpeg" }});
const result = await fal.subscribe("{endpoint}", {{
  input: {{ image_url: photo{values} }},
  logs: true,
  onQueueUpdate: (update) => console.error(update.status, update.logs?.at(-1)?.message ?? ""),
}});
console.log(result.data.video.url, result.data.seed);
"""

PYTHON = """\
import fal_client
import fal_client.client as client

base = "{base}"
client.QUEUE_URL_FORMAT, client.RUN_URL_FORMAT = f"{{base}}/queue/", f"{{base}}/run/"
client.REST_URL, client.CDN_URL = f"{{base}}/rest", f"{{base}}/cdn"

photo = fal_client.upload_file("photo.jpg")
result = fal_client.subscribe(
    "{endpoint}",
    arguments={{"image_url": photo{values}}},
)
print(result["video"]["url"], result["seed"])
"""


@dataclass(frozen=True)
class Snippets:
    """The same request in three languages."""

    curl: str
    javascript: str
    python: str


def snippets(values: Values, base: str = BASE) -> Snippets:
    """Make the snippets. `values`: settings to show. The key is read from `FAL_KEY`."""
    names = {"base": base, "endpoint": ENDPOINTS[0]}
    curl = "".join(f', "{name}": {json.dumps(value)}' for name, value in values.items())
    javascript = "".join(f", {name}: {json.dumps(value)}" for name, value in values.items())
    python = "".join(f', "{name}": {_literal(value)}' for name, value in values.items())
    return Snippets(
        curl=CURL.format(values=curl.replace("%", "%%"), **names),
        javascript=JAVASCRIPT.format(values=javascript, **names),
        python=PYTHON.format(values=python, **names),
    )


def _literal(value: object) -> str:
    """`value` as a Python literal, with double quotes like the rest of the code."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def values_of(params: VideoParams) -> Values:
    """The API's input for the video of `params`, without defaults of the API."""
    values = {name: value for name, value in params.to_mapping().items() if value is not None}
    values["cond_aug"] = values.pop("noise_aug_strength")
    defaults = {"cond_aug": VideoParams.default("noise_aug_strength"), "fps": DEFAULT_FPS}
    return {
        name: value
        for name, value in values.items()
        if value != (defaults[name] if name in defaults else VideoParams.default(name))
    }
