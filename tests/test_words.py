"""Word list: words and phrases that docstrings, comments and documents avoid, and what to write.

Code, strings, names in backticks, code blocks and generated parts of documents are not read.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.readme import ROOT, documents, generated

PREDICATE = r"(?:it|they|that|this|what|which|who)"
PLACE = r"(?:in|at|on|under|below|above|beside|between|before|behind|outside|within|with|there)"

AVOIDED = {
    r"whoever": "the caller, a client, a visitor: name the role",
    r"whatever": "any, every, regardless of",
    r"whom": "who, which; or name the role",
    r"somebody": "someone; better a role: a user, another process",
    r"anybody": "anyone; better a role: any visitor",
    r"nobody": "no one; better a role: no worker, no visitor",
    r"everybody": "everyone; better a role: all visitors",
    r"told": "given, passed, reported, notified",
    r"be had": "be available",
    r"signs? of life": "heartbeat, progress report",
    r"by (?:itself|themselves) is": "alone is",
    r"at hand": "available, in memory, cached",
    r"(?:the|as) usual": "the default, normal; unchanged",
    r"for ever": "forever",
    r"anew": "again",
    r"again and again": "repeatedly",
    r"miracle": "chance",
    r"(?:has|have|had) (?:had )?(?:its|their) (?:time|say)": "expire (time), apply (say)",
    r"what (?:became|becomes|came) of": "the outcome of",
    r"how (?:it|they) goes?": "the progress of",
    r"(?:un)?foreseen": "(un)expected",
    r"so many": "that many, `count`",
    r"(?:is|are) (?:not |never )?to be \w+": "must be, should be, is",
    rf"(?:lie|lies|lay) {PLACE}": "is in, is stored in",
    rf"(?:stand|stands|stood) (?!in for){PLACE}(?= \w)": "is in",
    r"as (?:it stands|they stand)": "unchanged",
    r"another (?:\w+ )?than": "different from",
    rf"{PREDICATE} (?:is|are) no (?!longer|more|other|better|worse|\w+er\b)\w+": "is not a",
}
"""Pattern of what is avoided, and plain alternatives."""

PATTERNS = [(re.compile(rf"\b{each}\b", re.IGNORECASE), plain) for each, plain in AVOIDED.items()]
CODE = re.compile(r"```.*?```|``.*?``|`[^`]*`|https?://\S+", re.DOTALL)
CHECKED = sorted(
    [
        *(ROOT / "svd_core").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        ROOT / "app.py",
        *documents(),
    ]
)


def docstrings_and_comments(source: str) -> Iterator[tuple[int, str]]:
    """(first line, text) of each string that stands alone, and of each block of comments."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(ast.Constant(str(text))):
                yield node.lineno, text
    block: list[str] = []
    last = first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if block and line != last + 1:
                yield first, "\n".join(block)
                block = []
            first = first if block else line
            block.append(token.string.lstrip("# "))
            last = line
    if block:
        yield first, "\n".join(block)


def without_generated_parts(path: Path, text: str) -> str:
    """A document with its generated parts as empty lines."""
    for name in generated().get(path, {}):
        part = re.compile(rf"<!-- {name} -->.*?<!-- end {name} -->", re.DOTALL)
        text = part.sub(blank, text)
    return text


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def complaints(text: str) -> Iterator[tuple[int, str]]:
    """(lines from the first, what is wrong) for each avoided phrase, also across a line break."""
    prose = CODE.sub(blank, text)
    squeezed, offsets = squeeze(re.sub(r"\s", " ", prose))
    for pattern, plain in PATTERNS:
        for match in pattern.finditer(squeezed):
            line = prose[: offsets[match.start()]].count("\n")
            yield line, f"{match[0]!r}; write: {plain}"


def squeeze(text: str) -> tuple[str, list[int]]:
    """`text` with single spaces, and the offset in `text` of each character."""
    offsets = [
        index
        for index, character in enumerate(text)
        if character != " " or index == 0 or text[index - 1] != " "
    ]
    return "".join(text[index] for index in offsets), offsets


def hits(path: Path) -> list[str]:
    """One line for each avoided phrase in a file."""
    text = path.read_text(encoding="utf-8")
    parts = (
        docstrings_and_comments(text)
        if path.suffix == ".py"
        else [(1, without_generated_parts(path, text))]
    )
    name = path.relative_to(ROOT)
    found = [(first + line, why) for first, part in parts for line, why in complaints(part)]
    return [f"{name}:{line}: {why}" for line, why in sorted(found)]


def test_prose_avoids_the_listed_words() -> None:
    lines = [line for path in CHECKED for line in hits(path)]
    assert not lines, "\n".join([f"{len(lines)} phrases to replace:", *lines])


def test_comments_and_docstrings_are_read_and_code_is_not() -> None:
    source = '''"""First line.

    Whoever calls is
    told.
    """
told = "told"  # nobody
# A comment that goes again and
# again over two lines, with `told` in it.
told: str
"""Somebody's."""
'''
    parts = sorted(docstrings_and_comments(source))
    found = [(first + line, why.split("'")[1]) for first, p in parts for line, why in complaints(p)]
    assert found == [
        (3, "Whoever"),
        (4, "told"),
        (6, "nobody"),
        (7, "again and again"),
        (10, "Somebody"),
    ]


def test_documents_are_read_without_code_and_generated_parts() -> None:
    path, name = next((path, name) for path, parts in generated().items() for name in parts)
    generated_part = f"<!-- {name} -->\ntold\n<!-- end {name} -->\n"
    text = f"{generated_part}```sh\ntold\n```\n`told`, and\nnobody at hand\n"
    assert [
        (line, why.split("'")[1]) for line, why in complaints(without_generated_parts(path, text))
    ] == [(7, "nobody"), (7, "at hand")]


def test_alternatives_are_plain() -> None:
    assert [plain for plain in AVOIDED.values() if list(complaints(plain))] == []
