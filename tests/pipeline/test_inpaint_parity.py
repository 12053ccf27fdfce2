"""Inpainting against diffusers' own pipeline, of 4 channels and of 9, with the same random weights."""

import warnings

import pytest
import torch
from random_pictures import noise, rectangle
from relative_error import relative_error

from ldm import Pipeline

IMAGE = noise(48, 32)
ALIGNED, ODD = rectangle(48, 32, (12, 4, 32, 20)), rectangle(48, 32, (11, 5, 30, 21))


@pytest.fixture(scope="module")
def diffusers_and_ours(tmp_path_factory: pytest.TempPathFactory):
    """By input channels of the UNet: a pipeline of diffusers, and ours from the folder that it saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                 # of third-party modules at import
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
        from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as module
        from transformers import CLIPTextConfig, CLIPTextModel
    made = {}
    for channels in (4, 9):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=channels, block_out_channels=(32, 64), layers_per_block=1,
            cross_attention_dim=64, attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
        vae = AutoencoderKL(block_out_channels=(32, 64), layers_per_block=1, latent_channels=4,
                            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
        text = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_size=64, intermediate_size=256,
                                            num_hidden_layers=1, num_attention_heads=1))
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                                  clip_sample=False, set_alpha_to_one=False)
        theirs = StableDiffusionInpaintPipeline(vae, text, None, unet, scheduler, safety_checker=None,
                                                feature_extractor=None, requires_safety_checker=False)
        theirs.set_progress_bar_config(disable=True)
        folder = tmp_path_factory.mktemp(f"diffusers-{channels}")
        theirs.save_pretrained(folder)
        made[channels] = theirs, Pipeline.load(folder, "cpu", "float32")
    with pytest.MonkeyPatch.context() as patch:         # latents are the posterior's mean here, drawn from it there
        patch.setattr(module, "retrieve_latents", lambda encoded, generator: encoded.latent_dist.mode())
        yield made


@pytest.mark.parametrize("channels, mask, strength", [(4, ALIGNED, 0.6), (9, ODD, 0.6), (9, ODD, 1.0)])
def test_inpainting_equals_diffusers(channels, mask, strength, diffusers_and_ours, parity):
    """Ten DDIM steps, or six, under guidance.

    With 4 channels the mask there is sampled, here pooled, which is the same where it lies on whole latents; and at
    strength 1 the first evaluation there sees noise in the known region, too.
    """
    theirs, ours = diffusers_and_ours[channels]
    assert ours.unet.cfg.in_channels == channels
    settings = {"strength": strength, "height": 32, "width": 48}
    expected = theirs(prompt_embeds=ours.encode_prompt(["a cat"]), negative_prompt_embeds=ours.encode_prompt(["blur"]),
                      image=IMAGE, mask_image=mask, num_inference_steps=10, guidance_scale=3.0, output_type="latent",
                      generator=torch.Generator().manual_seed(7), **settings).images
    *_, last = ours.steps("a cat", negative_prompt="blur", image=IMAGE, mask=mask, steps=10, guidance=3.0, seed=7,
                          **settings)
    parity(f"inpainting, UNet of {channels} channels", "diffusers", relative_error(last.z, expected), 1e-5)
