"""svd-nano's written-down motion: the stock UNet does what `motion_model.places` says in plain
words."""

import pytest
import torch
from torch import Tensor

from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.zero_branches import skip_zero_branches
from svd_core.training import (
    architecture,
    depth_net,
    diffusion_loss,
    handwritten_layers,
    initial_weights,
    motion_model,
    warp_attention,
)
from svd_core.training.vae import encode
from tests.fakes.training_photos import enlarged, smooth_kernel, smooth_photo

ROWS, COLUMNS, FRAMES = 20, 28, 5


@pytest.fixture(scope="module")
def kernel() -> Tensor:
    return smooth_kernel()


@pytest.fixture(scope="module")
def unet(kernel: Tensor) -> architecture.Net:
    return written(kernel)


def written(kernel: Tensor) -> architecture.Net:
    """The UNet before it has learnt anything, given the coordinates and a scene by hand."""
    torch.manual_seed(0)
    net = architecture.unet().eval()
    bends = warp_attention.fit_latent_shift(
        [enlarged(smooth_photo(128, 96, seed)) for seed in range(6)], kernel
    )
    initial_weights.initialize(net, bends)
    patch(net, [("silent", skip_zero_branches)])

    def tell(_module: object, _input: object, made: Tensor) -> Tensor:
        told = torch.zeros_like(made)
        grids = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
        told[:, depth_net.OUTPUTS["x"]] = grids[1] / handwritten_layers.CELL_UNIT
        told[:, depth_net.OUTPUTS["y"]] = grids[0] / handwritten_layers.CELL_UNIT
        near, drift = sight()
        told[:, depth_net.OUTPUTS["near"]], told[:, depth_net.OUTPUTS["drift"]] = near, drift
        return told

    list(net.up_blocks)[-2].upsamplers[0].register_forward_hook(tell)
    return net


def sight() -> tuple[Tensor, Tensor]:
    """Far above, near below, and a cloud that drifts, without hard edges, as the net sees them."""
    near = torch.linspace(0, 1, ROWS)[:, None].expand(ROWS, COLUMNS).clone()
    drift = torch.zeros(ROWS, COLUMNS)
    drift[:8, 8:20] = 1.0
    return near, torch.nn.functional.avg_pool2d(drift[None], 7, stride=1, padding=3)[0]


def pointing_noise(**deviations: float) -> Tensor:
    """Noise that stands for exactly these deviations of the named codes, and none of the others."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(FRAMES, architecture.LATENT_CHANNELS, ROWS, COLUMNS, generator=generator)
    for index, code in enumerate(handwritten_layers.CODES):
        wanted = deviations.get(code, 0.0) / (motion_model.CELLS * architecture.NUM_FRAMES) ** 0.5
        noise[:, index] += wanted - noise[:, index].mean()
    return noise


def denoise(
    unet: architecture.Net, photo: Tensor, noise: Tensor, bucket: float, fps: float
) -> Tensor:
    """Clean latents of one step from pure noise, (frames, channels, height, width)."""
    with torch.no_grad():
        answer = unet(
            torch.cat([noise, photo.expand(len(noise), -1, -1, -1)], dim=1)[None],
            torch.tensor(architecture.SIGMA_MAX, dtype=noise.dtype).log() / 4,
            encoder_hidden_states=torch.zeros(1, 1, architecture.CLIP_WIDTH, dtype=noise.dtype),
            added_time_ids=torch.tensor([[fps - 1, bucket, 0.02]], dtype=noise.dtype),
            return_dict=False,
        )[0][0]
    return -answer


MOVES = [
    {"pan_x": 2.0},
    {"pan_x": -2.0, "pan_y": 2.0},
    {"zoom": 5.0},
    {"roll": 24.0},
    {"drift_x": 2.0},
    {"sway": 3.0},
    {"pan_x": 1.0, "zoom": -2.0, "roll": -2.0, "drift_x": -1.0, "sway": -1.0},
]


@pytest.mark.parametrize("codes", MOVES, ids=" ".join)
def test_the_unet_fetches_each_cell_from_where_the_camera_says(
    unet: architecture.Net, kernel: Tensor, codes: dict[str, float]
) -> None:
    noise = pointing_noise(**codes)
    photo = smooth_photo(4 * COLUMNS, 4 * ROWS + 16, 31)[:, : 4 * ROWS]
    latents = encode(photo[None], kernel)
    made = denoise(unet, latents, noise, 255, 5)
    near, drift = sight()
    wanted = encode(diffusion_loss.render_clip(photo, near, drift, noise, 255, 5), kernel)
    error = (made - wanted).square().mean(dim=(1, 2, 3))
    standing = (latents - wanted).square().mean(dim=(1, 2, 3))
    assert error[0] < 0.001
    assert (error[1:] < 0.15 * standing[1:] + 0.001).all()


@pytest.mark.parametrize("axis", ["x", "y"])
def test_no_cell_is_taken_from_beside_its_place(
    unet: architecture.Net, kernel: Tensor, axis: str
) -> None:
    """On a slope of brightness, a cell from one too far on stands out by a whole step. Places are
    everywhere between cells, also on the very border where the nearest cell changes."""
    noise = pointing_noise(zoom=3.0, roll=1.0, pan_x=1.0, pan_y=1.0)
    across, down = (torch.arange(4.0 * side) / (4 * side) for side in (COLUMNS, ROWS))
    slope = across.expand(4 * ROWS, -1) if axis == "x" else down[:, None].expand(-1, 4 * COLUMNS)
    photo = (slope * 1.6 - 0.8).expand(3, -1, -1)
    latents = encode(photo[None], kernel)
    step = latents.diff(dim=3 if axis == "x" else 2).abs().amax()
    for fps in (5, 6, 7, 9, 11):
        made = denoise(unet, latents, noise, 255, fps)
        wanted = encode(diffusion_loss.render_clip(photo, *sight(), noise, 255, fps), kernel)
        off = (made - wanted).abs().amax(dim=1)[:, 2:-2, 2:-2]
        assert (off < 0.5 * step).all(), f"{int((off >= 0.5 * step).sum())} cells at {fps} fps"


def test_the_answer_follows_places_without_a_jump(unet: architecture.Net, kernel: Tensor) -> None:
    """Rounding differs from one processor and one way of computing to the next; where a last digit
    decided which cell is fetched, or places were only roughly right, it would be seen."""
    latents = encode(smooth_photo(4 * COLUMNS, 4 * ROWS, 32)[None], kernel)
    noise = pointing_noise(zoom=3.0, roll=1.0, pan_x=1.0, pan_y=1.0, sway=1.0)
    wide = written(kernel).double()
    for bucket in (127, 200, 255):
        exact = denoise(wide, latents.double(), noise.double(), bucket, 7)
        made = denoise(unet, latents, noise, bucket, 7)
        assert (made - exact).abs().max() < 3e-3 * exact.abs().max()


def test_motion_grows_with_the_bucket_and_is_a_speed_not_a_step(
    unet: architecture.Net, kernel: Tensor
) -> None:
    latents = encode(smooth_photo(4 * COLUMNS, 4 * ROWS + 16, 32)[None, :, : 4 * ROWS], kernel)
    noise = pointing_noise(pan_x=2.0)

    def change(bucket: float, fps: float) -> float:
        made = denoise(unet, latents, noise, bucket, fps)
        return float((made[-1] - made[0]).square().mean())

    assert change(32, 7) < 0.5 * change(127, 7) < 0.5 * change(223, 7)
    assert change(127, 25) < 0.5 * change(127, 7)


def test_near_things_move_more_than_far_ones_and_only_what_drifts_drifts() -> None:
    near, drift = sight()
    x = torch.arange(COLUMNS)
    panned, _ = motion_model.places(
        motion_model.motion(pointing_noise(pan_x=1.0), 127, 7), near, drift * 0
    )
    moved = (x - panned)[3]
    assert moved[-1].mean() > 2 * moved[0].mean()
    drifting, _ = motion_model.places(
        motion_model.motion(pointing_noise(drift_x=1.0), 127, 7), near, drift
    )
    still, _ = motion_model.places(motion_model.motion(pointing_noise(), 127, 7), near, drift)
    changed = (drifting - still)[3] != 0
    assert torch.equal(changed, drift > motion_model.FIRM)


def test_what_sways_swings_back_and_not_all_at_once() -> None:
    near, drift = sight()
    noise = torch.randn(21, architecture.LATENT_CHANNELS, ROWS, COLUMNS)
    noise[:, : len(handwritten_layers.CODES)] -= noise[:, : len(handwritten_layers.CODES)].mean(
        (0, 2, 3)
    )[:, None, None]
    still, _ = motion_model.places(motion_model.motion(noise, 127, 7), near, drift)
    noise[:, handwritten_layers.CODES.index("sway")] += (
        1 / (motion_model.CELLS * architecture.NUM_FRAMES) ** 0.5
    )
    windy, _ = motion_model.places(motion_model.motion(noise, 127, 7), near, drift)
    swung = (still - windy)[:, 4]
    assert swung[0].abs().max() == swung[:, drift[4] <= motion_model.FIRM].abs().max() == 0
    middle = swung[:, 14] - swung[:, 14].mean()
    assert middle.sign().diff().count_nonzero() >= 3  # to and fro, twice in 20 frames
    assert swung[:, 10].argmax() != swung[:, 18].argmax()


def test_the_camera_moves_in_so_that_hardly_anything_must_be_invented() -> None:
    near, drift = sight()
    from_x, from_y = motion_model.places(motion_model.motion(pointing_noise(), 127, 7), near, drift)
    assert from_x[-1].min() > 0
    assert from_x[-1].max() < COLUMNS - 1
    assert from_y[-1].max() < ROWS - 1


def test_pace_is_bucket_times_frame_interval() -> None:
    assert motion_model.speed(254, 7) == pytest.approx(2 * motion_model.speed(127, 7))
    assert motion_model.speed(127, 14) == pytest.approx(motion_model.speed(127, 7) / 2)
    noise = torch.randn(4, architecture.LATENT_CHANNELS, 6, 8)
    one, other = (motion_model.motion(sign * noise, 127, 7) for sign in (1, -1))
    assert torch.allclose(one["pan_x"], -other["pan_x"])
    assert torch.equal(one["pace"], other["pace"])


def test_nothing_comes_from_beyond_the_edges_and_nothing_is_turned_round() -> None:
    near, drift = torch.ones(ROWS, COLUMNS), torch.zeros(ROWS, COLUMNS)
    for deviations in (8.0, -8.0):
        noise = pointing_noise(pan_x=deviations)
        from_x, _ = motion_model.places(motion_model.motion(noise, 255, 7), near, drift)
        assert from_x.min() >= 0
        assert from_x.max() <= COLUMNS - 1
        assert (from_x.diff(dim=2) > 0).all()
