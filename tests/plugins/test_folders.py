"""Names resolve from folders, and a prompt says which LoRAs it wants."""

from pathlib import Path

import pytest

from ldm.plugins import extract_loras, find, name_and_weight, named_in


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with files of every kind; another folder is the current one."""
    for name in ("loras/fox.safetensors", "loras/Animals/Red Panda.v2.safetensors", "loras/readme.txt",
                 "loras/animals/cat.pt", "loras/things/cat.safetensors", "loras/things/fox.preview.png",
                 "loras/peft style/adapter_config.json", "loras/peft style/adapter_model.safetensors",
                 "models/sd15/model_index.json", "models/sd15/unet/diffusion_pytorch_model.safetensors",
                 "models/Tuned.CKPT", "embeddings/bad-hands-5.pt", "embeddings/style/<toy>.bin",
                 "controlnets/canny/config.json", "controlnets/canny/diffusion_pytorch_model.safetensors"):
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("LDM_MODELS", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize(("kind", "name", "found"), [
    ("loras", "fox", "loras/fox.safetensors"), ("loras", "FOX", "loras/fox.safetensors"),
    ("loras", "fox.safetensors", "loras/fox.safetensors"), ("loras", "red panda.v2", "loras/Animals/Red Panda.v2"),
    ("loras", "animals/red panda.v2", "loras/Animals/Red Panda.v2"), ("loras", "Peft Style", "loras/peft style"),
    ("loras", "things/cat", "loras/things/cat.safetensors"), ("loras", "cat.pt", "loras/animals/cat.pt"),
    ("models", "sd15", "models/sd15"), ("models", "tuned", "models/Tuned.CKPT"),
    ("embeddings", "bad-hands-5", "embeddings/bad-hands-5.pt"), ("embeddings", "<toy>", "embeddings/style/<toy>.bin"),
    ("controlnets", "canny", "controlnets/canny"),
])
def test_names_mean_files_below_their_folder(kind, name, found, home):
    assert find(kind, name, home).relative_to(home).as_posix().startswith(found)


def test_folders_are_here_or_where_the_environment_says(home, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no fox here or in loras, which does not exist; --models-dir says"):
        find("loras", "fox")
    monkeypatch.setenv("LDM_MODELS", str(home))
    assert find("loras", "fox") == home / "loras" / "fox.safetensors"
    monkeypatch.setenv("LDM_MODELS", "nowhere")
    assert find("loras", "fox", home) == home / "loras" / "fox.safetensors"
    monkeypatch.delenv("LDM_MODELS")
    monkeypatch.chdir(home)
    assert find("loras", "fox") == Path("loras/fox.safetensors")


def test_paths_are_taken_as_they_are(home):
    Path("fox").touch()
    assert find("loras", "fox", home) == Path("fox")
    assert find("loras", home / "loras" / "fox.safetensors") == home / "loras" / "fox.safetensors"
    assert find("loras", home / "none.safetensors", home) == home / "none.safetensors"      # the reader says so


def test_a_missing_name_lists_near_ones(home):
    with pytest.raises(ValueError, match="there is no foxx here or in .*loras; near it: fox$"):
        find("loras", "foxx", home)
    with pytest.raises(ValueError, match=r"there is no red pnda here or in .*; near it: Red Panda.v2$"):
        find("loras", "red pnda", home)
    with pytest.raises(ValueError, match="no zzz here or in .*; it holds: Red Panda.v2, cat, fox, peft style$"):
        find("loras", "zzz", home)
    (home / "embeddings" / "bad-hands-5.pt").unlink()
    (home / "embeddings" / "style" / "<toy>.bin").unlink()
    with pytest.raises(ValueError, match="there is no toy here or in .*embeddings, which is empty"):
        find("embeddings", "toy", home)


def test_a_name_of_two_files_lists_both(home):
    with pytest.raises(ValueError, match="cat may be .*animals/cat.pt or .*things/cat.safetensors; say which"):
        find("loras", "cat", home)


def test_an_unknown_kind_is_refused(home):
    with pytest.raises(ValueError, match="kind 'vaes' is unknown; try one of models, loras, embeddings, controlnets"):
        find("vaes", "x", home)


@pytest.mark.parametrize(("prompt", "rest", "loras"), [
    ("a fox", "a fox", []), ("a fox <lora:fox:0.8>", "a fox ", [("fox", 0.8)]),
    ("<lora:a/b c.v2>, snow <lyco:x:-1>", ", snow ", [("a/b c.v2", 1.0), ("x", -1.0)]),
    ("a <toy> (x:1.2) <hypernet:y:1>", "a <toy> (x:1.2) <hypernet:y:1>", []), ("<lora: fox : .5 >", "", [("fox", 0.5)]),
])
def test_loras_are_taken_from_prompts(prompt, rest, loras):
    assert extract_loras(prompt) == (rest, loras)


@pytest.mark.parametrize("tag", ["<lora:>", "<lora::1>", "<lora:fox:0.5:0.7>", "<lora:fox:strong>", "<lora:fox:>"])
def test_tags_of_another_form_are_refused(tag):
    with pytest.raises(ValueError, match=f"{tag} is neither <lora:name> nor <lora:name:weight>; try <lora:fox:0.8>"):
        extract_loras(f"a fox {tag}")


def test_flags_say_name_and_weight():
    assert name_and_weight("fox:0.8") == ("fox", 0.8) and name_and_weight("fox") == ("fox", 1.0)
    assert name_and_weight(r"C:\loras\fox.safetensors:-.5") == (r"C:\loras\fox.safetensors", -0.5)
    assert name_and_weight(r"C:\loras\fox.safetensors") == (r"C:\loras\fox.safetensors", 1.0)


def test_embeddings_are_named_by_the_words_of_prompts(home):
    assert named_in(["a fox"], home) == {} == named_in(["bad-hands-5"], home / "none")
    found = named_in(["a fox, <toy>", "(Bad-Hands-5:1.2)"], home)
    assert found == {"bad-hands-5": home / "embeddings/bad-hands-5.pt", "<toy>": home / "embeddings/style/<toy>.bin"}
    assert named_in(["bad-hands-55", "bad-hands"], home) == {}
    (home / "embeddings" / "bad-hands-5.safetensors").touch()
    with pytest.raises(ValueError, match="bad-hands-5 may be .*.pt or .*.safetensors; rename one"):
        named_in(["bad-hands-5"], home)
    (home / "embeddings" / "style" / "cat.pt").touch()
    (home / "embeddings" / "cat.pt").touch()
    with pytest.raises(ValueError, match="cat may be"):
        named_in(["a style/cat"], home)


def test_the_whole_name_of_a_file_means_it_alone(home):
    for name in ("loras/cat.safetensors", "loras/fox.pt", "loras/peft style.pt"):
        (home / name).touch()
    assert find("loras", "peft style", home) == home / "loras/peft style"
    assert find("loras", "peft style.pt", home) == home / "loras/peft style.pt"
    assert find("loras", "cat", home) == home / "loras/cat.safetensors"
    assert find("loras", "animals/cat", home) == home / "loras/animals/cat.pt"
    with pytest.raises(ValueError, match="fox may be"):
        find("loras", "fox", home)
    assert find("loras", "fox.pt", home) == home / "loras/fox.pt"


def test_a_folder_of_pictures_does_not_hide_a_lora(home):
    for name in ("fox/1.png", "cats/1.png", "style/adapter_model.safetensors"):
        Path(name).parent.mkdir()
        Path(name).touch()
    (home / "loras" / "style.safetensors").touch()
    assert find("loras", "fox", home) == home / "loras/fox.safetensors"
    assert find("loras", "style", home) == Path("style")                # which is a LoRA itself
    assert find("loras", "cats", home) == Path("cats")                  # the reader says what it lacks


def test_what_training_resumes_from_is_no_plugin(home):
    for name in ("state.pt", "state-00000100.pt", "statement.pt"):
        (home / "loras" / name).touch()
    assert find("loras", "statement", home)
    with pytest.raises(ValueError, match="there is no state here"):
        find("loras", "state", home)


def test_an_empty_name_is_refused(home):
    with pytest.raises(ValueError, match="the name of the model is empty; give a path or a name"):
        find("models", "", home)


def test_hostile_tags_are_read_at_once():
    with pytest.raises(ValueError, match="neither"):
        extract_loras(f"<lora:a:{'1' * 300_000}x>")
