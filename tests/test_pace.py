"""How long it still takes: a clock that is turned by hand."""

from dataclasses import dataclass

import pytest

from svd_core.events import Stage
from svd_core.pace import Pace


@dataclass
class Hand:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def paced(hand: Hand, on_cpu: bool = True, decode_s: float | None = None) -> Pace:
    return Pace(num_steps=4, num_frames=10, on_cpu=on_cpu, decode_s=decode_s, clock=hand)


def test_stages_steps_and_elapsed_seconds() -> None:
    hand = Hand()
    pace = paced(hand)
    seen = [pace.encoding()]
    hand.now += 1
    seen.append(pace.encoded())
    hand.now += 2
    seen += [pace.stepped(1), pace.decoded(0), pace.decoded(10)]
    assert [(p.stage, p.step, p.total) for p in seen] == [
        (Stage.ENCODING, 0, 0),
        (Stage.DENOISING, 0, 4),
        (Stage.DENOISING, 1, 4),
        (Stage.DECODING, 0, 10),
        (Stage.DECODING, 10, 10),
    ]
    assert [p.elapsed_s for p in seen] == [0, 1, 3, 3, 3]


def test_remaining_counts_the_steps_and_the_decoding() -> None:
    hand = Hand()
    pace = paced(hand, decode_s=0.5)
    hand.now += 1
    assert pace.encoded().remaining_s is None
    hand.now += 2
    assert pace.stepped(1).remaining_s == pytest.approx(3 * 2 + 10 * 0.5)
    hand.now += 6
    assert pace.stepped(4).remaining_s == pytest.approx(10 * 0.5)


def test_decoding_is_guessed_from_the_encoding_on_a_cpu() -> None:
    hand = Hand()
    pace = paced(hand)
    hand.now += 0.5
    pace.encoded()
    hand.now += 2
    assert pace.stepped(1).remaining_s == pytest.approx(3 * 2 + 10 * 3.0 * 0.5)


def test_decoding_is_guessed_from_a_step_on_a_gpu() -> None:
    hand = Hand()
    pace = paced(hand, on_cpu=False)
    hand.now += 0.5
    pace.encoded()
    hand.now += 2
    assert pace.stepped(1).remaining_s == pytest.approx(3 * 2 + 1.1 * 2)


def test_decoding_is_timed_as_it_goes() -> None:
    hand = Hand()
    pace = paced(hand)
    pace.encoded()
    pace.stepped(4)
    pace.decoded(0)
    hand.now += 6
    assert pace.decoded(2).remaining_s == pytest.approx(8 * 3)
    hand.now += 8
    assert pace.decoded(4).remaining_s == pytest.approx(6 * 14 / 4)
    assert pace.decode_s == pytest.approx(14 / 4)
    assert pace.decoded(10).remaining_s == 0
