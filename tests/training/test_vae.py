"""svd-nano's codec: the linear encoder in stock weights, and latents of photos that slide."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training import architecture, warp_attention
from svd_core.training.vae import decode, decoder_loss, encode, install_encoder, prepare_decoder
from tests.fakes.training_photos import enlarged, smooth_kernel, smooth_photo


@pytest.fixture(scope="module")
def kernel() -> torch.Tensor:
    return smooth_kernel()


@pytest.mark.parametrize("brightness", [None, 1.0, -1.0])
def test_stock_encoder_is_the_linear_codec(kernel: torch.Tensor, brightness: float | None) -> None:
    vae = architecture.vae().eval()
    install_encoder(vae.encoder, vae.quant_conv, kernel)
    pixels = smooth_photo(96, 64)[None]
    if brightness is not None:
        pixels = torch.full_like(pixels, brightness)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
    expected = encode(pixels, kernel)
    assert latents.shape == (1, architecture.LATENT_CHANNELS, 16, 24)
    assert (latents - expected).abs().max() < 0.02 * expected.abs().max()


def test_principal_components_reconstruct_smooth_pictures(kernel: torch.Tensor) -> None:
    picture = smooth_photo(64, 64, 11)
    flat = kernel.reshape(len(kernel), -1)
    decoding = torch.linalg.pinv(flat)
    blocks = torch.nn.functional.unfold(
        picture[None], architecture.PATCH, stride=architecture.PATCH
    )[0]
    error = (decoding @ (flat @ blocks) - blocks).square().mean()
    assert error < 0.01 * blocks.square().mean()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (0, 3), (2, 3), (4, 4)])
def test_latents_slide_as_the_photo_does(kernel: torch.Tensor, x: int, y: int) -> None:
    bends = warp_attention.fit_latent_shift(
        [enlarged(smooth_photo(128, 96, seed)) for seed in range(6)], kernel
    )
    photo = smooth_photo(128, 96, 31)[None]
    slid = warp_attention.shift_latents(encode(photo, kernel), bends, x, y)
    wanted = encode(photo[:, :, y : y + 92, x : x + 124], kernel)
    still = encode(photo[:, :, :92, :124], kernel)
    error = (slid - wanted).square().mean()
    assert error < 1e-6 + 0.05 * (still - wanted).square().mean()


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.5, 2.0])
def test_texture_stays_as_strong_while_it_slides(kernel: torch.Tensor, shift: float) -> None:
    """Half a pixel further on, leaves and grain may look like anything; a mean over all that is
    possible is almost zero."""
    generator = torch.Generator().manual_seed(5)
    grain = [0.5 * torch.randn(3, 256, 384, generator=generator) for _ in range(4)]
    photos = [F.avg_pool2d(one, 3, stride=1, padding=1) for one in grain]
    bends = warp_attention.fit_latent_shift(photos[:3], kernel)
    latents = encode(F.avg_pool2d(photos[3][None], warp_attention.KNOTS_PER_PIXEL), kernel)
    slid = warp_attention.shift_latents(latents, bends, shift, 0.0)
    assert float(slid.std() / latents.std()) > 0.9


def test_decoder_starts_as_a_straight_path_and_what_training_skips_is_silent() -> None:
    torch.manual_seed(0)
    vae = architecture.vae().eval()
    prepare_decoder(vae)
    latents = 0.2 * torch.randn(2, architecture.LATENT_CHANNELS, 6, 8)
    with torch.no_grad():
        straight = decode(vae.decoder, latents, linear=True)
        stock = vae.decode(latents, num_frames=2).sample
        double = decode(vae.decoder, 2 * latents, linear=True)
        nothing = decode(vae.decoder, 0 * latents, linear=True)
    assert torch.allclose(stock, straight, atol=1e-4)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    change = straight - nothing
    assert torch.allclose((double - nothing)[inner], 2 * change[inner], atol=0.05 * change.std())


def test_loss_minds_blur_more_than_its_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(leaves, 3, stride=1, padding=1)
    other = blurred + (leaves - blurred).flip(3)  # as rough as the leaves, but not these
    sharp_error = torch.nn.functional.mse_loss(other, leaves)
    blur_error = torch.nn.functional.mse_loss(blurred, leaves)
    sharp, blur = decoder_loss(other, leaves), decoder_loss(blurred, leaves)
    assert sharp / blur < sharp_error / blur_error
