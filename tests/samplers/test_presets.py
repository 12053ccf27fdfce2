"""Presets against the programs they are named after: noise levels, timesteps, calls, starts, noise, whole trajectories.

CompVis and A1111 are not on PyPI; of them the numbers are those that their code comes to.
"""

import math
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import diffusers
import pytest
import torch
from PIL import Image
from relative_error import relative_error
from test_sampler_parity import COMPVIS, SD, network, reference, same_draws, unit_noise

from ldm.samplers import SAMPLERS, Denoiser, Schedule, seeded_noise
from ldm.samplers.noise import cuda_randn, philox
from ldm.samplers.presets import DEFAULT_SPACING, PRESETS, Course, find_course

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning",   # diffusers' own
                                        "ignore:__array_wrap__ must accept:DeprecationWarning")

SCHEDULE = Schedule()
GRID = SCHEDULE.grid

K_NAMES = {"euler": "euler", "euler_a": "euler_ancestral", "heun": "heun", "lms": "lms", "dpm2": "dpm_2",
           "dpm2_a": "dpm_2_ancestral", "dpmpp_2m": "dpmpp_2m", "dpmpp_2s_a": "dpmpp_2s_ancestral",
           "dpmpp_sde": "dpmpp_sde", "dpmpp_2m_sde": "dpmpp_2m_sde"}
D_NAMES = {"ddim": "DDIM", "plms": "PNDM", "ddpm": "DDPM", "euler": "EulerDiscrete", "heun": "HeunDiscrete",
           "euler_a": "EulerAncestralDiscrete", "lms": "LMSDiscrete", "dpm2": "KDPM2Discrete",
           "dpm2_a": "KDPM2AncestralDiscrete", "dpmpp_2m": "DPMSolverMultistep", "dpmpp_2m_sde": "DPMSolverMultistep",
           "unipc": "UniPCMultistep", "lcm": "LCM"}
D_OPTIONS = {"ddim": COMPVIS, "plms": {"skip_prk_steps": True, "set_alpha_to_one": False},
             "ddpm": {"clip_sample": False}, "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"}}
DIFFUSERS = pytest.mark.parametrize("name", D_NAMES)
IN_SIGMAS = {"euler", "euler_a", "heun", "lms", "dpm2", "dpm2_a"}       # diffusers' others have step.z's coordinates


def called(name: str, course: Course) -> list[float]:
    """The timestep of each call of the network."""
    timesteps = []

    def record(x, t, context):
        timesteps.append(t.item())
        return x

    for _ in SAMPLERS[name](Denoiser(record, SCHEDULE), torch.zeros(1, 1, 1, 1), course.sigmas, torch.zeros_like):
        pass
    return timesteps


def last_step(name, course, noise=None):
    *_, last = SAMPLERS[name](Denoiser(network, SCHEDULE), course.begin(unit_noise()), course.sigmas, noise)
    return last


def scheduler(name, n):
    """diffusers', configured as Stable Diffusion 1.5's own files do, with its class's own spacing."""
    ref = getattr(diffusers, f"{D_NAMES[name]}Scheduler")(**{**SD, "steps_offset": 1, **D_OPTIONS.get(name, {})})
    ref.set_timesteps(n)
    return ref


@pytest.fixture(scope="module")
def k_diffusion():
    """The sampling and external modules of k-diffusion, without its package, which imports all that it trains with."""
    package = ModuleType("k_diffusion")
    package.__path__ = find_spec("k_diffusion").submodule_search_locations
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")                                 # of what these import in turn
        patch.setitem(sys.modules, "k_diffusion", package)
        sampling, external = (import_module(f"k_diffusion.{name}") for name in ("sampling", "external"))
    model = external.DiscreteEpsDDPMDenoiser(network, SCHEDULE.alphas_cumprod.float(), quantize=False)
    return SimpleNamespace(sampling=sampling, model=model)


# --- ours

@pytest.mark.parametrize("name", SAMPLERS)
def test_ldm_is_what_the_library_does_without_a_preset(name):
    course = find_course(SCHEDULE, name, 30)
    assert course.sigmas == SCHEDULE.sigmas(30, DEFAULT_SPACING[name])
    assert course.noised == math.hypot(1, course.sigmas[0]) and PRESETS["ldm"].noise == "cpu"


@pytest.mark.parametrize(("steps", "strength", "made"), [(10, 0.75, 8), (10, 0.01, 1), (7, 0.5, 4), (7, 1.0, 7)])
def test_ldm_rounds_the_share_of_an_input_pictures_steps(steps, strength, made):
    course = find_course(SCHEDULE, "euler", steps, strength=strength)
    assert course.sigmas == SCHEDULE.sigmas(steps, "linspace")[-1 - made:] and course.noised == course.sigmas[0]
    assert torch.equal(course.begin(unit_noise(), torch.ones(1, 4, 1, 1)), 1 + course.sigmas[0] * unit_noise())


def test_spacing_wins_over_the_presets_own():
    for preset in ("k-diffusion", "a1111", "diffusers"):
        assert find_course(SCHEDULE, "euler", 9, "karras", preset=preset).sigmas == SCHEDULE.sigmas(9, "karras")


def test_presets_name_samplers_of_ours():
    assert PRESETS["ldm"].samplers.keys() == SAMPLERS.keys()
    assert all(preset.samplers.keys() <= SAMPLERS.keys() for preset in PRESETS.values())
    assert PRESETS["k-diffusion"].samplers.keys() == K_NAMES.keys()
    assert PRESETS["diffusers"].samplers.keys() == D_NAMES.keys()


@pytest.mark.parametrize(("arguments", "message"), [
    (("euler", 9, None, None, "comfy"), "preset 'comfy' is unknown; try one of ldm, compvis, k-diffusion"),
    (("euler", 9, None, None, "compvis"), "preset 'compvis' has no sampler 'euler'; try one of ddim, plms"),
    (("ddim", 1, None, None, "a1111"), "steps 1 makes no step at all with sampler 'ddim' of preset 'a1111'; try 2"),
    (("lcm", 51, None, None, "diffusers"), "steps 51 is more than the 50 of diffusers' lcm; try 50"),
    (("ddim", 0), "0 steps is outside 1..999; try 1"),
])
@pytest.mark.filterwarnings("ignore:1 steps of:UserWarning")
def test_course_refuses_what_there_is_not(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_course(SCHEDULE, *arguments)


# --- CompVis: util.py, make_ddim_timesteps and make_ddim_sampling_parameters; ddim.py; plms.py; scripts/img2img.py

@pytest.mark.parametrize(("n", "timesteps"), [(50, range(981, 0, -20)), (30, range(991, 0, -33)),
                                              (20, range(951, 0, -50)), (7, range(995, 0, -142))])
def test_compvis_calls_at_its_timesteps(n, timesteps):
    course = find_course(SCHEDULE, "ddim", n, preset="compvis")
    assert called("ddim", course) == list(timesteps)
    assert course.sigmas[-1] == GRID[0] and course.noised == math.hypot(1, course.sigmas[0])
    first, second, *others = timesteps
    assert called("plms", find_course(SCHEDULE, "plms", n, preset="compvis")) == [first, second, second, *others]


@pytest.mark.parametrize(("n", "strength", "noised", "timesteps"), [
    (20, 0.5, 501, range(451, 0, -50)), (50, 0.75, 741, range(721, 0, -20)), (30, 1.0, 991, range(958, 0, -33)),
    (10, 0.05, 101, [1]), (50, 1.0, 981, range(981, 0, -20))])         # the last: CompVis asks for a timestep too many
def test_compvis_noises_an_input_picture_to_one_level_above(n, strength, noised, timesteps):
    course = find_course(SCHEDULE, "ddim", n, strength=strength, preset="compvis")
    assert called("ddim", course) == list(timesteps) and course.noised == GRID[noised]
    known = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(5))
    a = SCHEDULE.alphas_cumprod[noised]
    expected = (a.sqrt() * known + (1 - a).sqrt() * unit_noise()).float()
    x = course.begin(unit_noise(), known) / math.hypot(1, course.sigmas[0])
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


# --- A1111: sd_samplers_timesteps.py and _impl.py; sd_samplers_kdiffusion.py; sd_samplers_common.py

@pytest.mark.parametrize(("n", "timesteps"), [(20, range(951, 1, -50)), (50, range(981, 1, -20)),
                                              (30, range(991, 1, -33))])
def test_a1111_ddim_and_plms_do_not_call_at_timestep_1(n, timesteps):
    course = find_course(SCHEDULE, "ddim", n, preset="a1111")
    assert called("ddim", course) == list(timesteps) and course.sigmas[-1] == GRID[1]
    assert course.noised == math.hypot(1, course.sigmas[0])
    first, second, *others = timesteps
    assert called("plms", find_course(SCHEDULE, "plms", n, preset="a1111")) == [first, second, second, *others]


@pytest.mark.parametrize(("strength", "noised", "timesteps"), [
    (0.5, 501, range(451, 1, -50)), (0.75, 751, range(701, 1, -50)), (1.0, 951, range(901, 1, -50)), (0.01, 101, [51])])
def test_a1111_ddim_noises_an_input_picture_to_one_level_above(strength, noised, timesteps):
    course = find_course(SCHEDULE, "ddim", 20, strength=strength, preset="a1111")
    assert called("ddim", course) == list(timesteps) and course.noised == GRID[noised]


@pytest.mark.parametrize("n", [5, 20, 30])
def test_a1111_spaces_as_its_samplers_ask(n, k_diffusion, parity):
    sampling, ends = k_diffusion.sampling, {"sigma_min": GRID[0], "sigma_max": GRID[-1]}
    karras, longer = (sampling.get_sigmas_karras(m, **ends) for m in (n, n + 1))
    uniform, exponential = k_diffusion.model.get_sigmas(n), sampling.get_sigmas_exponential(n, **ends)
    without_penultimate = torch.cat([longer[:-2], longer[-1:]])
    expected = {**dict.fromkeys(("euler", "euler_a", "heun", "lms"), uniform), "dpmpp_2m_sde": exponential,
                **dict.fromkeys(("dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde"), karras),
                **dict.fromkeys(("dpm2", "dpm2_a"), without_penultimate)}
    assert expected.keys() | {"ddim", "plms"} == PRESETS["a1111"].samplers.keys()
    for name, theirs in expected.items():
        course = find_course(SCHEDULE, name, n, preset="a1111")
        assert course.sigmas[-1] == theirs[-1] == 0 and course.noised == course.sigmas[0]
        error = (torch.tensor(course.sigmas[:-1]) / theirs[:-1] - 1).abs().max()
        parity("preset a1111, sigmas, elementwise", "k-diffusion", error, 1e-4)


@pytest.mark.parametrize(("n", "strength", "made"), [(20, 0.5, 11), (20, 0.75, 16), (20, 1.0, 20), (20, 0.01, 1),
                                                     (30, 0.7, 22)])
def test_a1111_makes_one_step_more_on_an_input_picture(n, strength, made):
    course = find_course(SCHEDULE, "euler", n, strength=strength, preset="a1111")
    assert len(called("euler", course)) == made and course.noised == course.sigmas[0]
    assert course.sigmas == find_course(SCHEDULE, "euler", n, preset="a1111").sigmas[-1 - made:]


# --- k-diffusion

@pytest.mark.parametrize("n", [1, 4, 30])
def test_k_diffusion_spaces_and_calls_as_itself(n, k_diffusion, parity):
    theirs = k_diffusion.model.get_sigmas(n)
    course = find_course(SCHEDULE, "euler", n, preset="k-diffusion")
    error = (torch.tensor(course.sigmas[:-1]) / theirs[:-1] - 1).abs().max()
    parity("preset k-diffusion, sigmas, elementwise", "k-diffusion", error, 1e-4)
    assert course.sigmas[-1] == theirs[-1] == 0 and course.noised == course.sigmas[0]
    differences = torch.tensor(called("euler", course)) - k_diffusion.model.sigma_to_t(theirs[:-1])
    parity("preset k-diffusion, timesteps, of 999", "k-diffusion", differences.abs().max(), 1e-3)


@pytest.mark.parametrize("name", K_NAMES)
def test_k_diffusion_preset_draws_what_k_diffusion_draws(name, k_diffusion, parity):
    calls, halves, (_, noise), (_, draw) = [], [], same_draws(), same_draws()

    def model(x, sigma):
        calls.append(sigma)
        return k_diffusion.model(x, sigma)

    def noise_sampler(s, s_next):
        if name != "dpmpp_sde":
            return draw(unit_noise())
        if not halves:                                                  # of a step; asked for the first, then for both
            first, second, share = draw(unit_noise()), draw(unit_noise()), s / (s + s_next)
            halves.extend([first, share.sqrt() * first + (1 - share).sqrt() * second])
        return halves.pop(0)

    stochastic = {"noise_sampler": noise_sampler} if name.endswith(("_a", "_sde")) else {}
    sigmas = k_diffusion.model.get_sigmas(20)
    sample = getattr(k_diffusion.sampling, f"sample_{K_NAMES[name]}")
    theirs = sample(model, sigmas[0] * unit_noise(), sigmas, disable=True, **stochastic)
    course = find_course(SCHEDULE, name, 20, preset="k-diffusion")
    assert len(calls) == len(called(name, course))
    error = relative_error(last_step(name, course, noise).x, theirs)
    parity(f"sampler {name}, preset k-diffusion", "k-diffusion", error, 1e-4)


# --- diffusers

@DIFFUSERS
@pytest.mark.parametrize("n", [4, 20, 30, 50])
def test_diffusers_spaces_and_calls_as_itself(name, n, parity):
    ref, course = scheduler(name, n), find_course(SCHEDULE, name, n, preset="diffusers")
    differences = torch.tensor(called(name, course)) - ref.timesteps
    # in sigma, diffusers interpolates sigma itself, but keeps the timestep that it was asked for
    family, tolerance = ("samplers in sigma", 0.01) if name in IN_SIGMAS else ("the other samplers", 0)
    parity(f"preset diffusers, timesteps of {family}, of 999", "diffusers", differences.abs().max(), tolerance)
    unit = 1 if name in IN_SIGMAS else math.hypot(1, course.sigmas[0])
    assert course.noised == pytest.approx(unit * float(ref.init_noise_sigma), rel=1e-5)
    if hasattr(ref, "sigmas"):
        theirs = torch.unique_consecutive(ref.sigmas)                   # Heun's and DPM2's stand there twice
        error = (torch.tensor(course.sigmas[:-1]) / theirs[:-1] - 1).abs().max()
        parity("preset diffusers, sigmas, elementwise", "diffusers", error, 1e-4)
        assert course.sigmas[-1] == theirs[-1] == 0


@pytest.mark.parametrize(("name", "most"), [("unipc", 999), ("lcm", 50)])
def test_diffusers_rounds_timesteps_as_itself_at_every_step_count(name, most, parity):
    wrong = []
    for n in range(1, most + 1):
        sigmas = find_course(SCHEDULE, name, n, preset="diffusers").sigmas[:-1]
        if [SCHEDULE.timestep(sigma) for sigma in sigmas] != scheduler(name, n).timesteps.tolist():
            wrong.append(n)
    print(*wrong[:9])                                                   # shown where the test fails
    parity(f"preset diffusers, step counts of {name} with another timestep", "diffusers", len(wrong), 0)


@DIFFUSERS
@pytest.mark.parametrize("n", [5, 20])
def test_diffusers_preset_draws_what_diffusers_draws(name, n, parity):
    ref, course = scheduler(name, n), find_course(SCHEDULE, name, n, preset="diffusers")
    generator, noise = same_draws()
    stochastic = {"generator": generator} if name in ("ddpm", "euler_a", "dpm2_a", "dpmpp_2m_sde", "lcm") else {}
    *_, theirs = reference(ref, ref.init_noise_sigma * unit_noise(), **stochastic)
    last = last_step(name, course, noise)
    error = relative_error(last.x if name in IN_SIGMAS else last.z, theirs)
    parity(f"sampler {name}, preset diffusers", "diffusers", error, 1e-4)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("name", [name for name in D_NAMES if name != "plms"])
def test_diffusers_redoes_the_steps_that_its_pipeline_redoes(name, strength):
    """Not of PLMS: diffusers cuts its list, where the second timestep is there twice, as if it were not."""
    ref = scheduler(name, 20)
    pipeline = SimpleNamespace(scheduler=ref)
    theirs, _ = diffusers.StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, 20, strength, "cpu")
    course = find_course(SCHEDULE, name, 20, strength=strength, preset="diffusers")
    assert called(name, course) == pytest.approx(theirs.tolist(), abs=0.01) and course.noised == course.sigmas[0]


# --- noise

@pytest.mark.parametrize(("counter", "key", "words"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox_gives_the_words_that_its_authors_published(counter, key, words):
    """Random123, kat_vectors."""
    assert tuple(word.item() for word in philox(tuple(torch.tensor([word]) for word in counter), key)) == words


def test_nv_noise_is_torch_randn_of_cuda():
    """torch.manual_seed(0); torch.randn(3, 4, device="cuda"), as printed in PyTorch's and A1111's documents."""
    expected = torch.tensor([[-0.92466259, -0.42534415, -2.6438457, 0.14518388],
                             [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
                             [-1.07454231, -0.36314407, -1.67105067, 2.26550497]])
    torch.testing.assert_close(cuda_randn(0)((3, 4)), expected, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
def test_nv_noise_is_what_a_gpu_draws(seed):
    generator, draw = torch.Generator("cuda").manual_seed(seed), cuda_randn(seed)
    for shape in ((4, 64, 64), (4, 64, 64), (3, 5)):
        expected = torch.randn(shape, generator=generator, device="cuda").cpu()
        torch.testing.assert_close(draw(shape), expected, rtol=0, atol=2e-6)


def test_nv_noise_is_normal_new_at_each_call_and_of_each_seed():
    noise = seeded_noise([3, 3 + 2**32, 4], "nv")
    draws = torch.cat([noise(torch.empty(3, 4, 32, 32)) for _ in range(2)]).flatten(1)
    assert draws.mean().abs() < 0.03 and (draws.std() - 1).abs() < 0.03        # 5 standard errors
    assert (torch.corrcoef(draws) - torch.eye(6)).abs().max() < 0.08


def test_nv_noise_of_a_picture_is_the_same_alone_and_in_a_batch():
    together, alone = seeded_noise([5, 6], "nv"), seeded_noise([6], "nv")
    for _ in range(2):
        assert torch.equal(together(torch.empty(2, 4, 8, 6))[1:], alone(torch.empty(1, 4, 8, 6)))


def test_cpu_noise_is_what_diffusers_draws():
    """With a generator per picture, as its documents ask for; of one picture also with the one."""
    from diffusers.utils.torch_utils import randn_tensor

    noise, generators = seeded_noise([5, 6]), [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    for _ in range(2):
        assert torch.equal(noise(torch.empty(2, 4, 8, 8)), randn_tensor((2, 4, 8, 8), generator=generators))
    alone = randn_tensor((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    assert torch.equal(seeded_noise([5])(torch.empty(1, 4, 8, 8)), alone)


def test_noise_refuses_an_unknown_source():
    with pytest.raises(ValueError, match="source 'gpu' is unknown; try one of cpu, nv"):
        seeded_noise([0], "gpu")


# --- the pipeline

def test_pipeline_begins_with_the_presets_noise_at_the_presets_level(pipe):
    seen = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    next(pipe.steps("a cat", preset="a1111", sampler="euler", seed=5))
    expected = cuda_randn(5)((4, 8, 8)) * GRID[-1] / math.hypot(1, GRID[-1])
    torch.testing.assert_close(seen[0][0][0], expected, rtol=0, atol=1e-6)
    next(pipe.steps("a cat", preset="a1111", sampler="euler", noise="cpu", seed=5))
    assert (seen[1][0][0] - expected).abs().max() > 0.1


def test_pipeline_plans_the_presets_calls(pipe):
    plan = pipe.plan("a cat", preset="a1111", steps=20)
    assert (plan.calls, plan.settings.noise, plan.settings.spacing) == (19, "nv", None)
    redrawn = pipe.plan("a cat", Image.new("RGB", (64, 64)), preset="a1111", sampler="euler", steps=20, strength=0.5)
    assert redrawn.calls == 11 and "spacing of a1111" in redrawn.describe()
    with pytest.raises(ValueError, match="preset 'compvis' has no sampler 'euler'; try one of ddim, plms"):
        pipe.plan("a cat", preset="compvis", sampler="euler")
    with pytest.raises(ValueError, match="noise 'gpu' is unknown; try one of cpu, nv"):
        pipe.plan("a cat", noise="gpu")
