"""Expected errors: by their code and values, for `pytest.raises(..., check=has_code(...))`."""

import re
from collections.abc import Callable

from svd_core.errors import SvdError
from svd_core.messages import Message, Value

ENGLISH = re.compile(
    r"\b(the|is|are|be|must|should|of|or|and|not|no|with|input|value|valid)\b", re.I
)


def english(sentence: str) -> list[str]:
    """The English words in a German sentence."""
    return ENGLISH.findall(sentence)


def has_code(code: str, **values: Value) -> Callable[[SvdError], bool]:
    """Whether an error has `code` and, of the values of its message, these."""

    def check(error: SvdError) -> bool:
        assert isinstance(error.message, Message)
        found = {name: error.message.values[name] for name in values}
        assert (error.code, found) == (code, values), error.message
        return True

    return check
