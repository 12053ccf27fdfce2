import pytest
import torch
from torch.testing import assert_close

from ldm.samplers import SAMPLERS, Schedule, seeded_noise

EXACT = {"rtol": 0, "atol": 0}


def test_noise_of_a_picture_is_the_same_alone_and_in_a_batch():
    together = seeded_noise(range(7, 10))
    batches = [together(torch.empty(3, 4, 8, 6)) for _ in range(2)]
    for i in range(3):
        alone = seeded_noise([7 + i])
        for batch in batches:
            assert_close(alone(torch.empty(1, 4, 8, 6))[0], batch[i], **EXACT)


def test_noise_is_new_at_each_call_and_for_each_seed():
    noise = seeded_noise([0, 1])
    first, second = noise(torch.empty(2, 4, 8, 8)), noise(torch.empty(2, 4, 8, 8))
    assert (first[0] - first[1]).abs().max() > 1
    assert (first - second).abs().max() > 1


def test_noise_is_a_standard_normal():
    x = seeded_noise([3])(torch.empty(1, 4, 128, 128))
    assert x.mean().item() == pytest.approx(0, abs=0.02)            # 5 standard errors
    assert x.std().item() == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_noise_is_drawn_in_float32_and_then_converted(dtype):
    expected = seeded_noise([5])(torch.empty(1, 4, 8, 8))
    assert expected.dtype == torch.float32
    assert_close(seeded_noise([5])(torch.empty(1, 4, 8, 8, dtype=dtype)), expected.to(dtype), **EXACT)


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    seeded_noise([0])(torch.empty(1, 4, 8, 8))
    assert_close(torch.get_rng_state(), before, **EXACT)


def test_noise_refuses_a_batch_of_another_size():
    with pytest.raises(ValueError, match="a batch of 3 needs as many seeds, not 2; give one per picture"):
        seeded_noise([0, 1])(torch.empty(3, 4, 8, 8))


@pytest.mark.parametrize("name", ["ddpm", "euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "lcm"])
def test_stochastic_sampler_draws_the_same_picture_alone_and_in_a_batch(name):
    def final(seeds):
        noise = seeded_noise(seeds)
        x = noise(torch.empty(len(seeds), 4, 8, 8)) * 14.6
        *_, last = SAMPLERS[name](lambda x, sigma: torch.tanh(x / sigma), x, Schedule().sigmas(10, "trailing"), noise)
        return last.x

    assert_close(final([4, 5, 6])[1:2], final([5]), **EXACT)
