"""Release of the running code: a hash that server and workers compare.

A worker imports the code of its own machine, so other code there must be found out.
"""

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


@cache
def code_release(package: Path = PACKAGE) -> str:
    """SHA-256 over the names and bytes of all modules in `package`, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).parts):
        code = path.read_bytes().replace(b"\r\n", b"\n")  # as Git on Windows may write it
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0{len(code)}\0".encode() + code)
    return digest.hexdigest()
