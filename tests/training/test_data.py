"""Folders of pictures, their order, their captions."""

import json

import pytest
import torch
from PIL import Image

from ldm.images import to_tensor
from ldm.text import Tokenizer
from ldm.training.data import (
    ImageFolder,
    Words,
    batch_indices,
    check_outside,
    random_crop,
    split,
    vocabulary_of,
)

TEXTS = [["a red disc", "disc in red"], ["a blue bar"], [""]]


def test_folder_reads_metadata(shapes):
    data = ImageFolder(shapes, 64)
    assert len(data) == 24 and data.texts[0] == ["a red disc", "disc in red"]
    image, texts = data[0]
    assert texts == data.texts[0]
    with Image.open(shapes / "red-disc.png") as file:
        assert torch.equal(image, to_tensor(file)[0])
    assert data.batch([0, 5]).shape == (2, 3, 64, 64)


def test_folder_reads_text_files_beside_pictures(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.jpg", "below/c.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "b.txt").write_text("a füchschen\n", encoding="utf-8")
    (tmp_path / "below" / "notes.txt").write_text("nothing")
    data = ImageFolder(tmp_path, 8)
    assert [path.name for path in data.files] == ["a.jpg", "b.png", "c.PNG"]
    assert data.texts == [[""], ["a füchschen"], [""]]


@pytest.mark.parametrize(("text", "captions"), [("one", ["one"]), (["one", "two"], ["one", "two"]), ([], [""])])
def test_folder_takes_one_caption_or_several(tmp_path, text, captions):
    (tmp_path / "x.png").touch()
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "x.png", "text": text}) + "\n\n")
    assert ImageFolder(tmp_path, 8).texts == [captions]


@pytest.mark.parametrize("line", ['{"file_name": "x.png"}', "[1]", "no json",
                                  '{"file_name": "x.png", "text": 5}', '{"file_name": "x.png", "text": ["a", 5]}'])
def test_folder_says_which_line_is_wrong(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "x.png", "text": "x"}\n' + line)
    with pytest.raises(ValueError, match="metadata.jsonl, line 2 is not"):
        ImageFolder(tmp_path, 8)


def test_folder_says_which_picture_is_missing(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "x.png", "text": "x"}')
    with pytest.raises(ValueError, match="names x.png, which is not there"):
        ImageFolder(tmp_path, 8)


def test_folder_leaves_out_what_a_killed_program_left(tmp_path):
    for name in ("a.png", ".b.12.partial.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [file.name for file in ImageFolder(tmp_path, 8).files] == ["a.png"]


def test_folder_names_a_broken_picture(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"a.jpg is no whole picture \(.*\); mend or remove it"):
        ImageFolder(tmp_path, 8)[0]


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no picture"):
        ImageFolder(tmp_path, 8)
    with pytest.raises(ValueError, match="is no folder"):
        ImageFolder(tmp_path / "nowhere", 8)


def test_folder_covers_the_square_and_lays_on_white(tmp_path):
    wide = Image.new("RGBA", (48, 16), (0, 0, 0, 0))
    wide.paste((255, 0, 0, 255), (16, 0, 32, 16))       # the middle third is red, the rest transparent
    wide.save(tmp_path / "wide.png")
    image, _ = ImageFolder(tmp_path, 16)[0]
    assert torch.equal(image, torch.tensor([1.0, -1, -1])[:, None, None].expand(3, 16, 16))
    small, _ = ImageFolder(tmp_path, 8)[0]
    assert small.shape == (3, 8, 8)
    wide.crop((0, 0, 16, 16)).save(tmp_path / "wide.png")
    assert ImageFolder(tmp_path, 16)[0][0].min() == 1


@pytest.mark.parametrize(("count", "held_out"), [(24, 6), (10, 3), (988, 128), (2, 1), (7, 6)])
def test_split_is_disjoint_and_whole(count, held_out):
    train, held = split(count, held_out)
    assert len(held) == held_out and sorted(train + held) == list(range(count))


@pytest.mark.parametrize("held_out", [0, 3, -1])
def test_split_leaves_nothing_empty(held_out):
    with pytest.raises(ValueError, match=f"{held_out} of 3 pictures cannot be held out"):
        split(3, held_out)


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 7), (3, 8)])
def test_batches_cover_every_epoch_exactly_once(count, batch):
    seen = [i for step in range(count * 2) for i in batch_indices(count, batch, seed=1, step=step)]
    epochs = [seen[e * count : (e + 1) * count] for e in range(2 * batch)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1                             # in another order each time
    assert batch_indices(count, batch, seed=1, step=3) == seen[3 * batch : 4 * batch]


def test_folder_gives_a_part_of_itself(shapes):
    data = ImageFolder(shapes, 64)
    part = data.only(range(3, 9, 2))
    assert len(part) == 3 and part.texts == [data.texts[i] for i in (3, 5, 7)] and len(data) == 24
    images, texts = part.first(2)
    assert torch.equal(images, data.batch([3, 5])) and texts == [data.texts[3], data.texts[5]]
    assert len(part.first(99)[0]) == len(part.first(99)[1]) == 3


def test_random_crop_takes_squares_from_everywhere():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    images = torch.stack([rows, columns, rows])[None].expand(400, -1, -1, -1)
    chance = torch.rand(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    crops = random_crop(images, 4, chance)
    corners = crops[:, :2, 0, 0].long()
    assert set(map(tuple, corners.tolist())) == {(top, left) for top in range(3) for left in range(5)}
    assert torch.equal(crops - crops[..., :1, :1], crops.new_zeros(400, 3, 4, 4) + images[:, :, :4, :4])
    assert torch.equal(random_crop(images, 6, chance)[:, 0], images[:, 0, :, :6])
    assert torch.equal(random_crop(images, 4, torch.zeros(400, 2)), images[:, :, :4, :4])


def test_words_are_places_in_the_vocabulary_that_occurs():
    tokenizer = Tokenizer()
    vocabulary = vocabulary_of(TEXTS, tokenizer)
    assert torch.equal(vocabulary, tokenizer([text for several in TEXTS for text in several]).unique())
    words, texts = Words(tokenizer, vocabulary), ["a red disc", "", "a blue bar", "a red disc"]
    ids = words(texts)
    assert ids.max() < len(vocabulary) and torch.equal(vocabulary[ids], tokenizer(texts))


def test_words_of_the_whole_vocabulary_are_clips():
    words = Words(Tokenizer(), torch.arange(49408))
    assert torch.equal(words(["an unseen walrus"]), Tokenizer()(["an unseen walrus"])) and not words.some


def test_words_cut_long_captions_without_a_word():
    long = "red " * 100
    with pytest.warns(UserWarning, match="a prompt of 100 tokens is longer than 75"):
        ids = Tokenizer()([long])
    assert torch.equal(Words(Tokenizer(), torch.arange(49408))([long]), ids)    # warnings are errors here


def test_dense_puts_rows_in_their_places():
    words = Words(Tokenizer(), vocabulary_of(TEXTS, Tokenizer()))
    rows, other = torch.randn(len(words.vocabulary), 8), torch.randn(3)
    dense = words.dense({"token_embedding.weight": rows, "other": other})
    assert words.some and dense["token_embedding.weight"].shape == (49408, 8) and dense["other"] is other
    assert torch.equal(dense["token_embedding.weight"][words.vocabulary], rows)
    assert dense["token_embedding.weight"].count_nonzero() == rows.count_nonzero()


def test_folder_reads_captions_as_editors_write_them(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a fox", encoding="utf-8-sig")
    assert ImageFolder(tmp_path, 8).texts == [["a fox"]]
    (tmp_path / "a.txt").write_bytes("a füchschen".encode("latin-1"))
    with pytest.raises(ValueError, match="a.txt is not in UTF-8 .*; save it in that encoding"):
        ImageFolder(tmp_path, 8)
    line = json.dumps({"file_name": "a.png", "text": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(f"{line}\n", encoding="utf-8-sig")
    assert ImageFolder(tmp_path, 8).texts == [["one\u2028two"]]


def test_a_run_does_not_learn_from_its_own_samples(tmp_path):
    check_outside(tmp_path / "run", tmp_path / "pictures")
    with pytest.raises(ValueError, match="run lies in .*, where its samples would be learned; give another folder"):
        check_outside(tmp_path / "run", tmp_path)
