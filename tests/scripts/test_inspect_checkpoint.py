"""scripts/inspect_checkpoint.py and make_random_checkpoint.py as programs."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm.loading import load_parts

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """What the script does when run as a program, in this process: importing torch anew takes seconds."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, args)])
        patch.syspath_prepend(str(SCRIPTS))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as e:
            code = e.code or 0
    return subprocess.CompletedProcess(args, int(code), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    made = run("make_random_checkpoint.py", path, "--tiny")
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    return path


def test_scripts_run_as_programs(tmp_path):
    path = tmp_path / "tiny.safetensors"
    subprocess.run([sys.executable, SCRIPTS / "make_random_checkpoint.py", path, "--tiny"], check=True)
    inspect = [sys.executable, SCRIPTS / "inspect_checkpoint.py"]
    good = subprocess.run([*inspect, path], capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "") and "Stable Diffusion 1 (sd1)" in good.stdout
    bad = subprocess.run([*inspect, tmp_path / "none.ckpt"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "") and bad.stderr.count("\n") == 1


def report(path: Path) -> dict[str, str]:
    """Lines of the report, by their first words."""
    result = run("inspect_checkpoint.py", path)
    assert (result.returncode, result.stderr) == (0, "")
    first, *lines = result.stdout.splitlines()
    assert first == str(path)
    return {line[2:15].strip(): line[15:] for line in lines}


def test_inspect_tells_what_a_model_is(tiny):
    tensors = load_file(tiny)
    told = report(tiny)
    assert told["is"] == "Stable Diffusion 1 (sd1)"
    assert told["because"] == "model.diffusion_model.input_blocks.1.1.proj_in.weight is a 1x1 convolution"
    assert told["layout"] == "official (CompVis)"
    assert told["prediction"] == "eps: the noise (the rule for Stable Diffusion 1; the file does not say)"
    assert told["precision"] == f"float16 ({len(tensors)} tensors)"
    assert told["in all"] == f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} parameters"
    assert (told["EMA"], told["ignored"], told["unknown"]) == ("no twins", "none", "none")
    for part, prefix in {"UNet": "model.", "VAE": "first_stage_model.", "text encoder": "cond_stage_model."}.items():
        assert told[part].startswith(f"{sum(name.startswith(prefix) for name in tensors)} tensors, ")


def test_inspect_tells_of_a_glossary_how_long_it_is(tiny, tmp_path):
    path, told = tmp_path / "chinese.safetensors", {"glossary": {"狐狸": "fox", "披萨": "pizza"}, "size": 64}
    save_file(load_file(tiny), path, metadata={"ldm": json.dumps(told)})
    assert report(path)["metadata"] == "glossary of 2 phrases, size 64"


def test_inspect_names_twins_extras_and_unknown_keys(tiny, tmp_path):
    tensors = load_file(tiny)
    unet = [name for name in tensors if name.startswith("model.")]
    twins = {"model_ema." + name.removeprefix("model.").replace(".", ""): tensors[name].clone() for name in unet}
    rest = {"betas": torch.zeros(1000), "surprise": torch.zeros(1)}
    save_file(tensors | twins | rest, tmp_path / "m.safetensors", metadata={"ldm": '{"prediction": "v", "heads": 8}'})
    told = report(tmp_path / "m.safetensors")
    assert told["EMA"] == f"{len(unet)} twins, loaded unless ema=False"
    assert told["prediction"] == "v: the velocity (the file says so)"
    assert (told["ignored"], told["unknown"]) == ("1: betas", "1: surprise")
    assert told["runs here"] == "no: it has tensors of no part"


@pytest.mark.parametrize(("family", "what", "prediction", "runs"), [
    ("sd1_inpaint", "Stable Diffusion 1 for inpainting", "eps: the noise (the rule for ", "yes"),
    ("sd2", "Stable Diffusion 2", "eps or v (Stable Diffusion 2 has both; the file does not say)",
     "yes, once you say whether it predicts eps or v"),
    ("sd2_inpaint", "Stable Diffusion 2 for inpainting", "eps: the noise (the rule for ", "yes"),
    ("x4", "the Stable Diffusion x4 upscaler", "v: the velocity (the rule for ", "yes"),
])
def test_inspect_tells_every_family_that_can_be_made(family, what, prediction, runs, tmp_path):
    path = tmp_path / "m.safetensors"
    assert run("make_random_checkpoint.py", path, "--tiny", "--family", family).returncode == 0
    told = report(path)
    assert told["is"] == f"{what} ({family})" and told["prediction"].startswith(prediction)
    assert (told["unknown"], told["runs here"]) == ("none", runs)
    assert told["ignored"].startswith("none" if family == "sd1_inpaint" else "14: cond_stage_model.model.")
    parts = load_parts(path, "cpu", torch.float32, ema=True, prediction="v")
    assert parts["unet"].cfg.family == family


@pytest.mark.parametrize(("names", "what"), [
    (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "a LoRA (lora)"),
    (["control_model.input_hint_block.0.weight"], "a ControlNet (controlnet)"),
    (["emb_params"], "a textual inversion (embedding)"),
    (["encoder.conv_in.weight", "decoder.conv_in.weight"], "a VAE alone (vae)"),
    (["1.weight", "3.conv.0.weight"], "a tiny autoencoder (tiny)"),
    (["conditioner.embedders.0.x", "model.diffusion_model.x"], "Stable Diffusion XL (sdxl)"),
    (["x", "y"], "of a kind that we do not know (unknown)"),
])
def test_inspect_tells_what_other_files_are(names, what, tmp_path):
    save_file({name: torch.zeros(1, 768) for name in names}, tmp_path / "m.safetensors")
    told = report(tmp_path / "m.safetensors")
    assert told["is"] == what
    assert told["in all"] == f"{len(names)} tensors, {768 * len(names)} parameters".replace("1536", "1,536")
    is_vae = "vae" in what or "tiny" in what
    assert told["runs here"] == ("as the VAE of a model" if is_vae else "not as a model")


@pytest.mark.parametrize("content", [None, b"", b"<html></html>", b"PK\x03\x04", b"\x80\x02."])
def test_inspect_ends_with_one_line_and_2_on_bad_files(content, tmp_path):
    path = tmp_path / "m.ckpt"
    if content is not None:
        path.write_bytes(content)
    result = run("inspect_checkpoint.py", path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("inspect_checkpoint: ") and result.stderr.count("\n") == 1
    assert str(path) in result.stderr


@pytest.mark.parametrize("arguments", [[], ["a.ckpt", "b.ckpt"], ["--fast", "a.ckpt"]])
def test_inspect_says_wrong_arguments_in_one_line(arguments):
    result = run("inspect_checkpoint.py", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("inspect_checkpoint: ") and result.stderr.count("\n") == 1


def test_random_checkpoint_is_the_same_in_both_formats(tiny, tmp_path):
    assert run("make_random_checkpoint.py", tmp_path / "m.ckpt", "--tiny").returncode == 0
    ckpt = torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"]
    tensors = load_file(tiny)
    assert ckpt.keys() == tensors.keys()
    assert all(torch.equal(ckpt[name], tensors[name]) and tensors[name].isfinite().all() for name in tensors)
    assert report(tmp_path / "m.ckpt") == report(tiny)


def test_random_checkpoint_refuses_other_suffixes(tmp_path):
    result = run("make_random_checkpoint.py", tmp_path / "m.onnx", "--tiny")
    assert result.returncode == 2 and "m.safetensors" in result.stderr
