"""LoRA, LoHa and LoKr as products of factors: against what they are defined as, and against PEFT."""

import pytest
import torch
import torch.nn.functional as F
from relative_error import relative_error
from torch import Tensor, nn

from ldm.plugins.changes import Change, beside


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) / shape[-1] ** 0.5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_lora_of_a_convolution_is_two_convolutions_in_a_row():
    x, down, up = random(2, 6, 9, 7), random(3, 6, 3, 3), random(8, 3, 1, 1)
    delta = Change({"down": down, "up": up}, 0.5).delta(torch.Size((8, 6, 3, 3)))
    expected = 0.5 * F.conv2d(F.conv2d(x, down, padding=1, stride=2), up)
    torch.testing.assert_close(F.conv2d(x, delta, padding=1, stride=2), expected, rtol=0, atol=1e-12)


def test_lora_with_a_core_is_three_convolutions_in_a_row():
    x, down, mid, up = random(2, 6, 9, 7), random(3, 6, 1, 1), random(4, 3, 3, 3), random(8, 4, 1, 1)
    delta = Change({"down": down, "mid": mid, "up": up}).delta(torch.Size((8, 6, 3, 3)))
    expected = F.conv2d(F.conv2d(F.conv2d(x, down), mid, padding=1), up)
    torch.testing.assert_close(F.conv2d(x, delta, padding=1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1, 1)])
@pytest.mark.parametrize("sides", [0, 2])
def test_linear_layers_and_1x1_convolutions_are_one(shape, sides):
    """Either takes factors of either form: SD 2 made linear layers of SD 1's convolutions."""
    ones, x = [1] * sides, random(2, 6, 5, 5)
    down, up = random(3, 6, *ones), random(8, 3, *ones)
    change, weight = Change({"down": down, "up": up}), random(*shape)
    assert torch.equal(change.delta(weight.shape), (up.flatten(1) @ down.flatten(1)).reshape(shape))
    layer = (nn.Linear(6, 8) if len(shape) == 2 else nn.Conv2d(6, 8, 1)).double()
    x = x.movedim(1, -1) if len(shape) == 2 else x
    expected = layer(x) + 0.3 * (F.linear if len(shape) == 2 else F.conv2d)(x, change.delta(weight.shape))
    layer.register_forward_hook(beside(change, layer.weight, 0.3))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_loha_is_the_elementwise_product_of_two_products():
    f = {f"hada_w{i}_{j}": random(*shape) for i in (1, 2) for j, shape in (("a", (8, 3)), ("b", (3, 6)))}
    delta = Change(f, 2.0).delta(torch.Size((8, 6)))
    for i in range(8):
        for j in range(6):
            first, second = (sum(f[f"hada_w{n}_a"][i, r] * f[f"hada_w{n}_b"][r, j] for r in range(3)) for n in (1, 2))
            torch.testing.assert_close(delta[i, j], 2 * first * second)


def test_lokr_is_two_maps_of_the_two_sides_of_a_matrix():
    """(a kron b) vec(X) = vec(a X b^T), row by row."""
    a, b, x = random(2, 3), random(4, 5), random(3, 5)
    delta = Change({"lokr_w1": a, "lokr_w2": b}).delta(torch.Size((8, 15)))
    torch.testing.assert_close(delta @ x.flatten(), (a @ x @ b.T).flatten())


def cores(kind: str) -> dict[str, Tensor]:
    """Factors of a 3x3 convolution from 6 to 8 channels, with cores."""
    if kind == "loha":
        return {f"hada_{name}": random(*shape) for i in (1, 2) for name, shape in
                ((f"w{i}_a", (3, 8)), (f"w{i}_b", (3, 6)), (f"t{i}", (3, 3, 3, 3)))}
    return {"lokr_w1": random(2, 3), "lokr_t2": random(3, 3, 3, 3),
            "lokr_w2_a": random(3, 4), "lokr_w2_b": random(3, 2)}


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_cores_of_convolutions_stand_between_their_factors(kind):
    """A tap of the kernel at a time, each is a^T t b: LyCORIS functional/general.py, rebuild_tucker."""
    f = cores(kind)
    delta = Change(f).delta(torch.Size((8, 6, 3, 3)))
    for y in range(3):
        for x in range(3):
            def tap(name: str, core: str, at: tuple = (..., y, x)) -> Tensor:
                return f[f"{name}_a"].T @ f[core][at] @ f[f"{name}_b"]
            expected = tap("hada_w1", "hada_t1") * tap("hada_w2", "hada_t2") if kind == "loha" \
                else torch.kron(f["lokr_w1"], tap("lokr_w2", "lokr_t2"))
            torch.testing.assert_close(delta[..., y, x], expected)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_loha_and_lokr_are_kept_beside_too(kind):
    change, layer, x = Change(cores(kind)), nn.Conv2d(6, 8, 3, padding=1, stride=2).double(), random(2, 6, 9, 7)
    expected = layer(x) + 0.4 * F.conv2d(x, change.delta(layer.weight.shape), None, 2, 1)
    layer.register_forward_hook(beside(change, layer.weight, 0.4))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_rank_is_the_inner_dimension():
    ranks = {3: [{"down": random(3, 6), "up": random(8, 3)}, cores("loha"), cores("lokr"),
                 {"lokr_w1_a": random(2, 3), "lokr_w1_b": random(3, 2), "lokr_w2": random(4, 3)}],
             None: [{"lokr_w1": random(2, 3), "lokr_w2": random(4, 2)}]}
    assert all(Change(f).rank == rank for rank, factors in ranks.items() for f in factors)


@pytest.mark.parametrize(("f", "message"), [
    ({"down": random(3, 6), "up": random(8, 2)}, r"has down \[3, 6\], up \[8, 2\], which do not make the layer's"),
    ({"down": random(3, 8), "up": random(6, 3)}, r"which do not make the layer's \[8, 6\]"),    # as many numbers
    ({"hada_w1_a": random(8, 3), "hada_w1_b": random(3, 6)}, "but lacks 'hada_w2_a'"),
    ({"lokr_w1": random(2, 3)}, "but lacks 'lokr_w2_a'"),
    ({"lokr_w1": random(3, 2), "lokr_w2": random(4, 3)}, "which do not make"),
])
def test_factors_that_do_not_fit_are_refused(f, message):
    with pytest.raises(ValueError, match=message):
        Change(f).delta(torch.Size((8, 6)))


CORE = {"alpha": 6, "use_effective_conv2d": True}
PEFTS = {
    "LoRA": ("LoraConfig", {"lora_alpha": 6}, {"lora_A.weight": "down", "lora_B.weight": "up"}),
    "LoHa": ("LoHaConfig", {"alpha": 6}, {}), "LoHa, with cores": ("LoHaConfig", CORE, {}),
    "LoKr": ("LoKrConfig", {"alpha": 6}, {}), "LoKr, with cores": ("LoKrConfig", CORE | {"decompose_both": True}, {})}


@pytest.mark.parametrize("kind", PEFTS)
def test_changes_equal_peft(kind, parity):
    """Of a linear layer and two convolutions, from the factors by the names in PEFT's state."""
    import peft

    name, settings, roles = PEFTS[kind]
    model = nn.ModuleDict({"linear": nn.Linear(48, 32), "conv": nn.Conv2d(32, 48, 3), "pixel": nn.Conv2d(32, 48, 1)})
    start = {"init_lora_weights": False} if name == "LoraConfig" else {"init_weights": False}
    adapted = peft.get_peft_model(model, getattr(peft, name)(r=3, target_modules=list(model), **settings, **start))
    state = peft.get_peft_model_state_dict(adapted)
    for layer_name, layer in adapted.base_model.model.items():
        f = {}
        for key, factor in state.items():
            owner, _, rest = key.removeprefix("base_model.model.").partition(".")
            if owner == layer_name:
                f[roles.get(rest, rest)] = factor
        expected = layer.get_delta_weight("default").detach()
        assert Change(f).rank == 3
        ours = Change(f, 6 / 3).delta(expected.shape)
        scale = 1 / expected.std()
        parity(f"{kind}, change of a weight", "peft", relative_error(scale * ours, scale * expected), 1e-5)
