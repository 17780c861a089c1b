"""Create or update a Hugging Face Space from this folder: `make space SPACE=owner/name`.

Only what the program needs there is sent: the files that git knows, without tests, training and
measurements. The hub's own library sends large and binary files as the hub requires, which a plain
`git push` does not. Files of the Space that are no longer here are removed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from svd_core.errors import SvdError, ToolFailed  # noqa: E402 - from the folder above
from svd_core.proxies import prepare_proxies  # noqa: E402

NEEDED = ("app.py", "requirements.txt", "README.md", "LICENSE", "assets/*/*", "svd_core/*")
UNNEEDED = (
    "svd_core/benchmarks/*", "svd_core/cli/*", "svd_core/training/*", "svd_core/__main__.py",
    "svd_core/*.md", "assets/svd-nano/sheet.jpg", "*/__pycache__/*", "*.pyc", "*.pyi", "*/.*",
)  # fmt: skip
"""Patterns in which a star stands for slashes too."""

ANSWERS = {
    401: "the token is missing, wrong or expired: run '.venv/bin/hf auth login', or set HF_TOKEN, "
    "with a token that may write",
    402: "this kind of Space is not free for that account: see https://huggingface.co/pricing",
    403: "the token may not write there: take one with the right to write, and check the name",
    404: "there is no such account: check the name",
    429: "too many requests: wait some minutes and run it again",
}


def needed_files(root: Path = ROOT) -> list[PurePosixPath]:
    """Files that the Space needs, relative to `root`. Without git every file counts as known."""
    git = ["git", "-C", str(root), "ls-files", "-z"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True, text=True)  # noqa: S603
        names = listed.stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        places = (root / pattern.partition("/")[0] for pattern in NEEDED)
        files = (file for place in places for file in [place, *place.rglob("*")])
        names = [file.relative_to(root).as_posix() for file in files]
    return sorted(
        PurePosixPath(name)
        for name in set(names)
        if any(fnmatch(name, pattern) for pattern in NEEDED)
        and not any(fnmatch(name, pattern) for pattern in UNNEEDED)
        and (root / name).is_file()
    )


def stage(folder: Path, root: Path = ROOT) -> None:
    """Copy the needed files into `folder`."""
    for file in needed_files(root):
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, place)


def publish(space: str) -> str:
    """Create or update `space` (owner/name). Returns its URL. Raises `ToolFailed`."""
    if space.count("/") != 1 or not all(space.split("/")):
        raise ToolFailed("Name the Space as in: make space SPACE=owner/name")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # it warns of folders with many files; ours are small
    api = HfApi()
    try:
        url = api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            stage(Path(folder))
            api.upload_folder(
                repo_id=space,
                repo_type="space",
                folder_path=folder,
                delete_patterns="*",
                commit_message="Update the program",
            )
    except Exception as error:  # noqa: BLE001 - the library has a dozen kinds, all of them final here
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        reason = ANSWERS.get(status or 0) or " ".join(str(error).split())[:300].rstrip(".")
        raise ToolFailed(f"The Space {space} is not updated: {reason}.") from error
    return str(url)


def main(space: str) -> None:
    try:
        prepare_proxies(os.environ)
        url = publish(space)
    except SvdError as error:
        sys.exit(error.message)
    print(f"{url} is being built now. Its hardware and secrets are in its settings there.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
