"""Expected errors: by their code and values, for `pytest.raises(..., check=has_code(...))`."""

from collections.abc import Callable

from svd_core.errors import SvdError
from svd_core.messages import Message, Value


def has_code(code: str, **values: Value) -> Callable[[SvdError], bool]:
    """Whether an error has `code` and, of the values of its message, these."""

    def check(error: SvdError) -> bool:
        assert isinstance(error.message, Message)
        found = {name: error.message.values[name] for name in values}
        assert (error.code, found) == (code, values), error.message
        return True

    return check
