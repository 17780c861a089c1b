"""Numbers as visitors type them: decimal comma, grouped digits, digits of other scripts.

The core reads numbers with a point and without groups. In a field for whole numbers, three digits
after a single separator are a group. Elsewhere a single separator is the decimal sign.
"""

import re
import unicodedata

from svd_core.params import PARAMETERS

MAX_LENGTH = 40
"""Characters of the longest text that is looked at."""

SIGNS = str.maketrans(
    {
        "\u066b": ".", "\u066c": "'", "\u2019": "'", "\u02bc": "'", "\u2212": "-",
        "\u3002": ".", "\u3001": ",",
    }
)  # fmt: skip
"""Decimal and group separators of Arabic, apostrophes that group, the minus sign, and the marks
that Chinese and Japanese keyboards write for point and comma."""

STYLES = (("[,]", "[.]"), ("[.]", "[,]"), ("[' ]", "[.,]"))
"""Patterns of the group separator and of the decimal sign that goes with it."""


def plain_number(text: str, name: str) -> str:
    """`text` with a point and without groups; unchanged if it is not a number in a known style.

    `name`: the parameter, which decides whether the field is for whole numbers.
    """
    # In compatibility form all spaces and wide characters are the plain ones.
    # Invisible marks of direction or width come along from web pages.
    normal = unicodedata.normalize("NFKC", text[: MAX_LENGTH + 1]).translate(SIGNS)
    normal = "".join(mark for mark in normal if unicodedata.category(mark) != "Cf").strip()
    normal = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), normal)
    sign = normal[:1] if normal[:1] in ("+", "-") else ""
    digits = normal.removeprefix(sign)
    whole = name in PARAMETERS and PARAMETERS[name].integer
    for group, point in STYLES:
        is_single = re.fullmatch(rf"\d+{group}\d+", digits) and "'" not in group
        if (whole or not is_single) and _is_grouped(digits, group, point):
            return sign + re.sub(group, "", digits).replace(",", ".")
    if len(normal) <= MAX_LENGTH and re.fullmatch(r"\d+([.,]\d*)?|[.,]\d+", digits):
        return sign + digits.replace(",", ".")
    return text


def _is_grouped(digits: str, group: str, point: str) -> bool:
    """Whether the digits are in groups of three. In Indian style all but the last have two."""
    integer = rf"[1-9]\d{{0,2}}({group}\d{{2,3}})*{group}\d{{3}}"
    return re.fullmatch(rf"{integer}({point}\d+)?", digits) is not None
