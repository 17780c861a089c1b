"""A program as users write it, without a line about where the server is."""

import json
import sys

import fal_client

APP = "fal-ai/stable-video"
photo, *wishes = sys.argv[1:]
told = {}

url = fal_client.upload_file(photo) if "upload" in wishes else fal_client.encode_file(photo)
states: list[str] = []
result = fal_client.subscribe(
    APP,
    arguments={"image_url": url, "seed": 11},
    with_logs=True,
    on_queue_update=lambda status: states.append(type(status).__name__),
)
told["subscribe"], told["states"] = result["seed"], list(dict.fromkeys(states))
handle = fal_client.submit(APP, arguments={"image_url": url, "seed": 12})
rebuilt = fal_client.SyncClient().get_handle(APP, handle.request_id)
told["same address"] = rebuilt.response_url == handle.response_url
told["get"] = handle.get()["seed"]
told["run"] = fal_client.run(APP, arguments={"image_url": url, "seed": 13})["seed"]
told["stream"] = [*fal_client.stream(APP, arguments={"image_url": url, "seed": 14})][-1]["seed"]
try:
    fal_client.cancel(APP, handle.request_id)
except fal_client.FalClientHTTPError as error:
    told["cancel"] = error.status_code
print(json.dumps(told))
