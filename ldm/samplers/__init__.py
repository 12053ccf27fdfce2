"""Noise schedules, denoisers and samplers, on tensors alone: they know no network.

x = x0 + sigma * noise everywhere; a denoiser is D(x, sigma) -> x0; sigmas are n + 1 Python floats, falling:

    denoise = CFG(Denoiser(unet, schedule, "eps"), cond, uncond, 7.5)
    sigmas = schedule.sigmas(30, DEFAULT_SPACING["ddim"])
    noise = seeded_noise([seed])
    x = math.hypot(1, sigmas[0]) * noise(torch.zeros(1, 4, 64, 64))
    for step in SAMPLERS["ddim"](denoise, x, sigmas, noise): ...     # step.x0 is a preview; at the end decode step.z
"""

from ldm.samplers.ddim import ddim
from ldm.samplers.ddpm import ddpm
from ldm.samplers.denoiser import CFG, Denoiser
from ldm.samplers.dpm2 import dpm2, dpm2_a
from ldm.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s_a, dpmpp_sde
from ldm.samplers.euler import euler, euler_a
from ldm.samplers.heun import heun
from ldm.samplers.inpaint import Concat, Inpaint
from ldm.samplers.lcm import lcm
from ldm.samplers.multistep import lms, plms
from ldm.samplers.noise import Noise, Source, seeded_noise
from ldm.samplers.presets import DEFAULT_SPACING, PRESETS, Course, check_preset, find_course
from ldm.samplers.schedule import Prediction, Schedule, Spacing
from ldm.samplers.step import Denoise, Sampler, Step
from ldm.samplers.unipc import unipc

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_a": euler_a,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "plms": plms,
    "lms": lms,
    "dpm2": dpm2,
    "dpm2_a": dpm2_a,
    "dpmpp_2s_a": dpmpp_2s_a,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
    "lcm": lcm,
}

__all__ = ["CFG", "DEFAULT_SPACING", "PRESETS", "SAMPLERS", "Concat", "Course", "Denoise", "Denoiser", "Inpaint",
           "Noise", "Prediction", "Sampler", "Schedule", "Source", "Spacing", "Step", "check_preset", "find_course",
           "seeded_noise"]
