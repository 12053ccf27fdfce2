"""Files of prompts, and the record of what was drawn from them."""

import json
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm import Settings
from ldm.images import digest
from ldm.many import Job, Manifest, identity, read_jobs

MODEL = {"name": "tiny.safetensors", "weights": "1234"}


def written(path: Path, *lines: object) -> Path:
    """A file of prompts: texts as they are, others as JSON."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def job(file: str = "fox.png", prompt: str = "a fox", **settings) -> Job:
    return Job(file, prompt, asdict(Settings(**settings)))


def draw(manifest: Manifest, wanted: Job, colour: str = "red") -> Path:
    """Note and write a picture as the program does."""
    picture, path = Image.new("RGB", (8, 8), colour), manifest.folder / wanted.file
    picture.save(manifest.folder.parent / "drawn.png")
    manifest.add(wanted, digest(picture), (manifest.folder.parent / "drawn.png").read_bytes())
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    made = Manifest(tmp_path / "many", MODEL)
    made.write()
    return made


def test_lines_of_text_are_prompts_with_running_numbers_and_seeds(tmp_path):
    path = written(tmp_path / "prompts.txt", "\ufeffa fox ", "", "  雪地里的狐狸", "a (fox:1.3)\r")
    jobs = read_jobs(path, {"seed": 40, "steps": 7})
    assert [(j.file, j.prompt, j.settings["seed"], j.error) for j in jobs] == [
        ("00000.png", "a fox", 40, ""), ("00001.png", "雪地里的狐狸", 41, ""), ("00002.png", "a (fox:1.3)", 42, "")]
    assert jobs[0].settings == asdict(Settings(seed=40, steps=7))


def test_lines_of_json_say_settings_and_names(tmp_path):
    path = written(tmp_path / "prompts.jsonl", {"prompt": "a fox", "steps": 20, "guidance": 3},
                   {"prompt": "a cat\u2028two lines", "count": 2, "width": 72}, {"prompt": "", "seed": 7},
                   {"prompt": "a dog", "file_name": "dog.png", "count": 2},
                   {"prompt": "an owl", "file_name": "owl.png"})
    jobs = read_jobs(path, {"steps": 4})
    assert [(j.file, j.settings["seed"]) for j in jobs] == [
        ("00000.png", 0), ("00001.png", 1), ("00002.png", 2), ("00003.png", 7), ("dog-0.png", 4), ("dog-1.png", 5),
        ("owl.png", 6)]
    assert [j.settings["steps"] for j in jobs] == [20, 4, 4, 4, 4, 4, 4]
    assert {j.settings["count"] for j in jobs} == {1} and jobs[1].prompt == jobs[2].prompt == "a cat\u2028two lines"
    assert not any(j.error for j in jobs)


@pytest.mark.parametrize(("line", "message"), [
    ("a fox", 'line 2: it is not JSON; write {"prompt": "a fox"}'),
    ({"text": "a fox"}, 'line 2: it has no prompt; write {"prompt": "a fox"}'),
    (["a fox"], 'line 2: it has no prompt; write {"prompt": "a fox"}'),
    ({"prompt": "a fox", "step": 4}, "line 2: step is no setting; try steps"),
    ({"prompt": "a fox", "width": 500}, "line 2: width 500 is not a multiple of 8; try 504"),
    ({"prompt": "a fox", "steps": "4"}, "line 2: steps '4' is not a whole number; give one"),
    ({"prompt": "a fox", "steps": None}, "line 2: steps None is not a whole number; give one"),
    ({"prompt": "a fox", "count": True}, "line 2: count True is not a whole number; give one"),
    ({"prompt": "a fox", "guidance": "7"}, "line 2: guidance '7' is not a number; give one"),
    ({"prompt": "a fox", "guidance": float("nan")}, "line 2: guidance nan is outside 0..1000"),
    ({"prompt": "a fox", "file_name": "../fox.png"}, "line 2: file_name '../fox.png' is not a plain name"),
    ({"prompt": "a fox", "file_name": "fox.jpg"}, "line 2: file_name 'fox.jpg' is not a plain name"),
    ({"prompt": "a fox", "file_name": ".png"}, "line 2: file_name '.png' is not a plain name"),
    ({"prompt": "a fox", "file_name": "First.png"}, "line 2: first.png is the file of an earlier line"),
    ({"prompt": "a fox", "file_name": "狐" * 70 + ".png"}, "is not a plain name of up to 200 bytes"),
])
def test_a_bad_line_costs_itself_alone(tmp_path, line, message):
    path = written(tmp_path / "prompts.jsonl", {"prompt": "a cat", "file_name": "first.png"}, line, {"prompt": "a dog"})
    first, bad, last = read_jobs(path, {"seed": 0})
    assert message in bad.error and "a fox" in bad.prompt
    assert (first.error, last.error, last.file, last.settings["seed"]) == ("", "", "00002.png", 2)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("prompts.csv", b"a fox", "is neither .txt, a prompt a line, nor .jsonl"),
    ("prompts.txt", b"\n \n", "holds no prompt; write one on each line"),
    ("prompts.txt", "ein Füchslein".encode("latin-1"), "is not UTF-8; save it as such"),
])
def test_read_jobs_refuses_other_files(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_jobs(tmp_path / name, {})


def test_manifest_holds_what_it_wrote(manifest):
    fox, cat = job(), job("cat.png", "一只猫", seed=1)
    assert not manifest.holds(fox)
    draw(manifest, fox)
    again = Manifest(manifest.folder, MODEL)
    assert again.holds(fox) and not again.holds(cat)
    told = json.loads(manifest.path.read_text(encoding="utf-8"))
    assert told == {"file": "fox.png", "prompt": "a fox", "settings": asdict(Settings()), "model": MODEL,
                    "sha256": digest(Image.new("RGB", (8, 8), "red"))}


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n", None])
def test_manifest_does_not_hold_a_damaged_picture(manifest, damage):
    path = draw(manifest, job())
    path.write_bytes(path.read_bytes()[:45] if damage is None else damage)
    assert not manifest.holds(job())
    draw(manifest, job())
    assert manifest.holds(job())


def test_an_error_does_not_forget_a_picture_that_is_there(manifest):
    """As where a setting was wrong the second time."""
    draw(manifest, job())
    manifest.write([replace(job(), error="clip_skip 24 is outside 1..12")])
    assert Manifest(manifest.folder, MODEL).holds(job())


def test_manifest_does_not_hold_a_picture_that_is_gone_or_changed(manifest):
    path = draw(manifest, job())
    Image.new("RGB", (8, 8), "blue").save(path)
    assert not manifest.holds(job())
    path.unlink()
    assert not manifest.holds(job("fox.png", "another prompt"))                 # nothing would be overwritten


@pytest.mark.parametrize("wanted", [job(prompt="a cat"), job(steps=31)])
def test_manifest_refuses_to_overwrite_another_picture(manifest, wanted):
    draw(manifest, job())
    with pytest.raises(ValueError, match="fox.png was drawn from another prompt, model or settings; give another"):
        manifest.holds(wanted)
    with pytest.raises(ValueError, match="fox.png was drawn from another"):
        Manifest(manifest.folder, {**MODEL, "weights": "5678"}).holds(job())


def test_manifest_refuses_to_overwrite_what_it_does_not_know(manifest):
    Image.new("RGB", (8, 8)).save(manifest.folder / "fox.png")
    with pytest.raises(ValueError, match="fox.png is there, but not in manifest.jsonl; give another folder"):
        manifest.holds(job())


@pytest.mark.parametrize("torn", [1, 30, -1])
def test_manifest_forgets_a_line_cut_off(manifest, torn):
    """The program may die while it writes one; the next run writes the whole anew before it adds to it."""
    draw(manifest, job())
    draw(manifest, job("cat.png", "一只猫"))
    first, second, _ = manifest.path.read_bytes().split(b"\n")
    manifest.path.write_bytes(first + b"\n" + second[:torn])
    (manifest.folder / "cat.png").unlink()
    again = Manifest(manifest.folder, MODEL)
    again.write()
    draw(again, job("owl.png", "an owl"))
    assert [*Manifest(manifest.folder, MODEL).records] == ["fox.png", "owl.png"]


@pytest.mark.parametrize(("room", "whole"), [(300, 0), (900, 1)])       # bytes for so many lines, and a piece of one
def test_a_full_disk_leaves_no_picture_unknown(manifest, room, whole):
    drawn = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            for i in range(3):
                draw(manifest, job(f"{i}.png"))
                drawn.append(f"{i}.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = Manifest(manifest.folder, MODEL)
    assert [*again.records] == drawn == sorted(path.name for path in manifest.folder.glob("*.png"))
    assert len(drawn) == whole
    assert all(again.holds(job(name)) for name in drawn) and not again.holds(job(f"{len(drawn)}.png"))


def test_manifest_is_in_the_order_of_the_prompts_in_the_end(manifest):
    one, two, bad = job("1.png"), job("2.png"), Job("3.png", "a dog", {}, "line 3: it has no tail")
    for drawn in (job("0.png"), two, one):
        draw(manifest, drawn)
    manifest.write([one, bad, two])
    lines = [json.loads(line) for line in manifest.path.read_text(encoding="utf-8").splitlines()]
    assert [(line["file"], "error" in line, "sha256" in line) for line in lines] == [
        ("1.png", False, True), ("3.png", True, False), ("2.png", False, True), ("0.png", False, True)]
    assert lines[1]["error"] == "line 3: it has no tail"
    again = Manifest(manifest.folder, MODEL)
    assert again.holds(one) and again.holds(two) and not again.holds(bad) and "3.png" not in again.records


@pytest.mark.parametrize("text", ["no JSON\n", "[1]\n", '{"sha256": "12"}\n'])
def test_manifest_refuses_a_file_of_another_kind(tmp_path, text):
    (tmp_path / "manifest.jsonl").write_text(text)
    with pytest.raises(ValueError, match="manifest.jsonl is no record of pictures; give another folder"):
        Manifest(tmp_path, MODEL)


def test_identity_is_of_the_weights(pipe, tiny_model):
    told = identity(pipe)
    assert told == identity(type(pipe).load(tiny_model, "cpu", "float32"))
    assert told == json.loads(json.dumps(told))
    assert identity(type(pipe).load(tiny_model, "cpu", "bfloat16")) != told
    with torch.no_grad():
        pipe.text.token_embedding.weight[0, 0] += 1
    assert identity(pipe)["weights"] != told["weights"]
