"""How long it still takes: a clock that is turned by hand."""

from dataclasses import dataclass

import pytest

from svd_core.checkpoints.eta import ProgressEstimator, Timing, first_guess
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.events import Stage


@dataclass
class Hand:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def paced(hand: Hand, on_cpu: bool = True, expected: Timing | None = None) -> ProgressEstimator:
    return ProgressEstimator(
        num_steps=4, num_frames=10, on_cpu=on_cpu, expected=expected, clock=hand
    )


def test_stages_steps_and_elapsed_seconds() -> None:
    hand = Hand()
    pace = paced(hand)
    seen = [pace.encoding()]
    hand.now += 1
    seen.append(pace.encoded())
    hand.now += 2
    seen += [pace.step_done(1), pace.frames_decoded(0), pace.frames_decoded(10)]
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
    pace = paced(hand, expected=Timing(encode_s=1, step_s=3, decode_s=0.5))
    assert pace.encoding().remaining_s == pytest.approx(1 + 4 * 3 + 10 * 0.5)
    hand.now += 1
    assert pace.encoded().remaining_s == pytest.approx(4 * 3 + 10 * 0.5)
    hand.now += 2
    assert pace.step_done(1).remaining_s == pytest.approx(3 * 2 + 10 * 0.5)
    hand.now += 6
    assert pace.step_done(4).remaining_s == pytest.approx(10 * 0.5)
    assert pace.timing is None
    hand.now += 10
    pace.frames_decoded(10)
    assert pace.timing == Timing(encode_s=1, step_s=2, decode_s=1)


def test_within_a_step_the_time_left_follows_the_share_that_is_done() -> None:
    hand = Hand()
    pace = paced(hand, expected=Timing(encode_s=1, step_s=4, decode_s=0.5))
    pace.encoded()
    assert pace.within_step(0.1) is None, "the step began just now"
    hand.now += 4
    half = pace.within_step(0.5)
    assert half is not None
    assert (half.stage, half.step, half.total) == (Stage.DENOISING, 0, 4)
    assert half.elapsed_s == 4
    # 8 s by this step, 4 s expected: between them, as half of it is done.
    assert half.remaining_s == pytest.approx(6 * 3.5 + 10 * 0.5)
    assert pace.within_step(0.6) is None, "the last report is recent"
    hand.now += 3.6
    most = pace.within_step(0.95)
    assert most is not None
    assert most.remaining_s == pytest.approx((0.95 * 8 + 0.05 * 4) * 3.05 + 10 * 0.5)
    assert pace.step_done(1).remaining_s == pytest.approx(7.6 * 3 + 10 * 0.5)
    hand.now += 1
    second = pace.within_step(0.1)
    assert second is not None
    assert second.step == 1
    assert second.remaining_s == pytest.approx((0.1 * 10 + 0.9 * 7.6) * 2.9 + 10 * 0.5)


def test_within_the_first_step_of_an_unknown_model_there_is_a_time_left() -> None:
    hand = Hand()
    pace = paced(hand)
    hand.now += 1
    pace.encoded()
    hand.now += 3
    progress = pace.within_step(0.25)
    assert progress is not None
    decoding = 3 * 10 * 1  # as long as three encodings each
    assert progress.remaining_s == pytest.approx(12 * 3.75 + decoding)


def test_nothing_is_expected_where_nothing_is_known() -> None:
    pace = paced(Hand())
    assert pace.encoding().remaining_s is None
    assert pace.encoded().remaining_s is None


def test_a_first_guess_is_in_proportion_to_pixels_and_frames() -> None:
    nano, usual = CHECKPOINTS["svd-nano"], 512 * 288
    whole, half = first_guess(nano, usual, 14), first_guess(nano, usual // 2, 7)
    assert whole is not None
    assert half is not None
    assert half.step_s == pytest.approx(whole.step_s / 4)
    assert half.decode_s == pytest.approx(whole.decode_s / 2)
    assert first_guess(CHECKPOINTS["svd-xt"], usual, 14) is None


def test_decoding_is_guessed_from_the_encoding_on_a_cpu() -> None:
    hand = Hand()
    pace = paced(hand)
    hand.now += 0.5
    pace.encoded()
    hand.now += 2
    assert pace.step_done(1).remaining_s == pytest.approx(3 * 2 + 10 * 3.0 * 0.5)


def test_decoding_is_guessed_from_a_step_on_a_gpu() -> None:
    hand = Hand()
    pace = paced(hand, on_cpu=False)
    hand.now += 0.5
    pace.encoded()
    hand.now += 2
    assert pace.step_done(1).remaining_s == pytest.approx(3 * 2 + 1.1 * 2)


def test_decoding_is_timed_as_it_goes() -> None:
    hand = Hand()
    pace = paced(hand)
    pace.encoded()
    pace.step_done(4)
    pace.frames_decoded(0)
    hand.now += 6
    assert pace.frames_decoded(2).remaining_s == pytest.approx(8 * 3)
    hand.now += 8
    assert pace.frames_decoded(4).remaining_s == pytest.approx(6 * 14 / 4)
    assert pace.timing is not None
    assert pace.timing.decode_s == pytest.approx(14 / 4)
    assert pace.frames_decoded(10).remaining_s == 0
