"""Code snippets for the HTTP API, shown on the page, in the docs and in the README."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from svd_core.params import VideoParams

Values = Mapping[str, object]
"""Settings of a video by fal's names."""

MOUNT = "/fal"
"""Path of the API on this server."""

ENDPOINTS = ("fal-ai/stable-video",)
"""Ids that lead to the model of this server."""

DEFAULT_FPS = 25
"""Default fps of fal. Its range begins at 10; here all of the core's fps are taken, so that every
video of the page can be made over HTTP too."""

BASE = f"http://127.0.0.1:7860{MOUNT}"
"""Address of the API where nothing else is known."""

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
    curl: str
    javascript: str
    python: str


def snippets(values: Values, base: str = BASE) -> Snippets:
    """`values`: settings that are to be shown. Callers keep their key in `FAL_KEY`."""
    told = {"base": base, "endpoint": ENDPOINTS[0]}
    inside = "".join(f', "{name}": {json.dumps(value)}' for name, value in values.items())
    script = "".join(f", {name}: {json.dumps(value)}" for name, value in values.items())
    python = "".join(f', "{name}": {_literal(value)}' for name, value in values.items())
    return Snippets(
        curl=CURL.format(values=inside.replace("%", "%%"), **told),
        javascript=JAVASCRIPT.format(values=script, **told),
        python=PYTHON.format(values=python, **told),
    )


def _literal(value: object) -> str:
    """`value` in Python, text in the double quotes of the code around it."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def values_of(params: VideoParams) -> Values:
    """The API's input for the video of `params`; what equals a default of the API is left out."""
    values = {name: value for name, value in params.to_mapping().items() if value is not None}
    values["cond_aug"] = values.pop("noise_aug_strength")
    usual = {"cond_aug": VideoParams.default("noise_aug_strength"), "fps": DEFAULT_FPS}
    return {
        name: value
        for name, value in values.items()
        if value != usual.get(name, VideoParams.default(name) if name not in usual else None)
    }
