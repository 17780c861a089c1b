"""The part of the fake hub that takes Spaces: repositories, large files and commits.

Like the real one it refuses binary files, and large ones, that do not come as LFS objects.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

MAX_REGULAR = 10 * 2**20
LFS_TYPE = "application/vnd.git-lfs+json"

Answer = tuple[int, object]
"""HTTP status and JSON."""


@dataclass
class FakeSpaces:
    """`files`: of each Space, by path. `lfs`: those sent as LFS objects. `tokens`: by owner."""

    tokens: dict[str, str]
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, token: str, body: bytes, url: str) -> Answer:
        """`url`: of the hub."""
        if put := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == put[1]
            self.objects[put[1]] = body
            return 200, {}
        if token not in self.tokens.values():
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/repos/create":
            return self._create(json.loads(body), token, url)
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/(?:api/)?spaces/([^/]+/[^/.]+)(?:\.git)?(/.*)?", path)
        if found is None or found[1] not in self.files:
            return 404, {"error": "Repository not found"}
        space, rest = found[1], found[2] or ""
        if self.tokens.get(space.split("/")[0]) != token:
            return 403, {"error": "You don't have the required permissions"}
        if method == "GET":
            return 200, self._listed(space) if "/tree/" in rest else {"id": space, "sha": "0" * 40}
        if rest.startswith("/preupload/"):
            return 200, {"files": [self._mode(space, file) for file in json.loads(body)["files"]]}
        if rest == "/info/lfs/objects/batch":
            wanted = json.loads(body)["objects"]
            return 200, {"objects": [self._upload(each, url) for each in wanted]}
        assert rest == "/commit/main", rest
        return self._commit(space, [json.loads(line) for line in body.splitlines()], url)

    def _create(self, wish: dict[str, Any], token: str, url: str) -> Answer:
        space = f"{wish['organization']}/{wish['name']}"
        assert (wish["type"], wish["sdk"]) == ("space", "gradio")
        if self.tokens.get(wish["organization"]) != token:
            return 403, {"error": "You don't have the rights to create a space there"}
        known = space in self.files
        self.files.setdefault(space, {".gitattributes": b"*", "README.md": b"# new"})
        return (409 if known else 200), {"url": f"{url}/spaces/{space}"}

    def _listed(self, space: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324
            for path, data in self.files[space].items()
        ]

    def _mode(self, space: str, file: dict[str, Any]) -> dict[str, Any]:
        is_binary = b"\0" in base64.b64decode(file["sample"])
        mode = "lfs" if is_binary or file["size"] > MAX_REGULAR else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _upload(self, each: dict[str, Any], url: str) -> dict[str, Any]:
        action = {"href": f"{url}/lfs/{each['oid']}", "header": {}}
        known = each["oid"] in self.objects
        return each if known else {**each, "actions": {"upload": action}}

    def _commit(self, space: str, lines: list[dict[str, Any]], url: str) -> Answer:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.commits.append(value["summary"])
                case "file":
                    data = base64.b64decode(value["content"])
                    if b"\0" in data[:8000] or len(data) > MAX_REGULAR:
                        return 400, {"error": "Your push was rejected because it has binary files"}
                    self.files[space][value["path"]] = data
                case "lfsFile":
                    self.files[space][value["path"]] = self.objects[value["oid"]]
                    self.lfs.add(value["path"])
                case "deletedFile":
                    del self.files[space][value["path"]]
                case other:
                    raise AssertionError(other)
        return 200, {"commitUrl": f"{url}/spaces/{space}/commit/1", "commitOid": "1" * 40}
