"""Numbers as people of many countries type them."""

import pytest

from svd_core.errors import InvalidRequest
from svd_core.params import VideoParams
from svd_core.web.page.components import NumberField, plain_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2.5", 2.5), ("2,5", 2.5), (" 2,5 ", 2.5), ("2,", 2.0), (",5", 0.5), ("2,125", 2.125),
        ("0,500", 0.5), ("２，５", 2.5), ("٢٫٥", 2.5), ("+2,5", 2.5), ("12,0", 12.0),
        ("２。５", 2.5), ("2、5", 2.5), ("\u200e2.5\u200f", 2.5), ("\ufeff2,5\u200b", 2.5),
    ],
)  # fmt: skip
def test_a_decimal_sign_of_any_country(text: str, value: float) -> None:
    typed = plain_number(text, "max_guidance_scale")
    assert VideoParams.from_mapping({"max_guidance_scale": typed}).max_guidance_scale == value


@pytest.mark.parametrize(
    "text",
    [
        "4294967295", "4,294,967,295", "4.294.967.295", "4 294 967 295",
        "4\u00a0294\u00a0967\u00a0295", "4\u202f294\u202f967\u202f295", "4'294'967'295",
        "4’294’967’295", "4,29,49,67,295",
        "٤٬٢٩٤٬٩٦٧٬٢٩٥", "４，２９４，９６７，２９５", "4.294.967.295,0", "4,294,967,295.0",
    ],
)  # fmt: skip
def test_groups_of_any_country(text: str) -> None:
    assert VideoParams.from_mapping({"seed": plain_number(text, "seed")}).seed == 4_294_967_295


def test_a_lone_group_counts_in_fields_for_whole_numbers() -> None:
    for text in ("1,500", "1.500", "1 500", "1'500"):
        assert plain_number(text, "seed") == "1500"
    assert plain_number("7,0", "seed") == "7.0"
    assert plain_number("1 500", "max_guidance_scale") == "1500"


@pytest.mark.parametrize(
    "text",
    ["", "many", "1 2", "1,2,3", "1..2", "1,,2", "1.2.3", "12,345,67", "7 fps", "0x10", "9" * 100,
     "1'00", "--1", "1-2", "½"],
)  # fmt: skip
def test_what_is_no_number_stays_for_the_error(text: str) -> None:
    field = NumberField(elem_id="num_frames")
    assert field.preprocess(text) == (text or None)
    if text:
        with pytest.raises(InvalidRequest, match="num_frames"):
            VideoParams.from_mapping({"num_frames": field.preprocess(text)})


def test_other_notations_reach_the_core() -> None:
    assert plain_number("1e1", "num_frames") == "1e1"
    assert NumberField(elem_id="num_frames").preprocess("  ") is None
    assert NumberField(elem_id="num_frames").preprocess(12) == 12
