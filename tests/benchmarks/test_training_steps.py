"""Steps of training that are timed."""

import pytest
import torch

TINY = {"model": "small", "width": 32, "batch": 2, "size": 32}


@pytest.fixture
def steps():
    import training
    return training


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_learns(steps, monkeypatch, checkpointing):
    made = []
    network = steps.TextToNoise
    monkeypatch.setattr(steps, "TextToNoise", lambda *of: made.append(network(*of)) or made[0])
    call = steps.step(**TINY, checkpointing=checkpointing)
    before = {name: weight.detach().clone() for name, weight in made[0].named_parameters()}
    call()
    changed = {name for name, weight in made[0].named_parameters() if not torch.equal(weight, before[name])}
    assert changed == before.keys() and len({name.partition(".")[0] for name in changed}) == 2


def test_operations_are_three_times_those_of_the_way_forward(steps):
    """The way back has two products for each of the way forward; the first layer alone needs but one."""
    from networks import flops
    counted = steps.flops("sd15", 320, 2, 512, True)()
    assert counted["parameters"] == 859_520_964
    assert counted["flops"] == pytest.approx(3 * flops("unet", 512, 1)()["flops"], rel=0.01)


def test_every_step_of_the_tables_is_described(monkeypatch):
    import bench_training
    of = [step for steps in bench_training.TABLES.values() for step in steps]
    names = {bench_training.contender(step).name for step in of}
    assert len(names) == len({str(step) for step in of}) and "width 64, batch 32, 128 px" in names
