"""The order of samples: every one once an epoch, whatever the number of ranks and workers, and it resumes."""

import io
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm.images import to_tensor
from ldm.training.data import ImageFolder, nth
from ldm.training.distributed import World
from ldm.training.shards import Shards, open_data
from ldm.training.streams import Latents, Reader

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)


def png(color: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return str(path)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seven shards with 1 to 7 samples, captioned by their keys."""
    folder = tmp_path_factory.mktemp("shards")
    for n in range(7):
        keys = [f"{n}-{i}" for i in range(n + 1)]
        write_shard(folder / f"{n}.tar", {name: data for i, key in enumerate(keys)
                                          for name, data in ((f"{key}.png", png(i)), (f"{key}.txt", key.encode()))})
    return folder


def keys_of(shards: Path) -> Counter[str]:
    return Counter(f"{n}-{i}" for n in range(7) for i in range(n + 1))


def latents(count: int) -> Latents:
    return Latents(torch.arange(float(count)).view(-1, 1, 1, 1), [[str(i)] for i in range(count)])


def said(reader: Reader, n: int) -> list[str]:
    return [text for text, in reader.take(n)[1]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_folder_is_read_in_one_order_by_any_number_of_ranks(ranks):
    expected = [str(nth(n, 7, seed=5)) for n in range(24)]
    readers = [Reader(latents(7), 5, World(rank, ranks, CPU)) for rank in range(ranks)]
    taken = [said(reader, 24 // ranks) for reader in readers]
    assert [taken[n % ranks][n // ranks] for n in range(24)] == expected
    assert all(sorted(expected[i : i + 7]) == list("0123456") for i in (0, 7, 14))


def test_a_folder_is_read_in_one_order_by_any_number_of_workers(shapes):
    data = ImageFolder(shapes, 16)
    images, texts = Reader(data, 0, ALONE).take(7)
    expected = [nth(n, 24, seed=0) for n in range(7)]
    assert texts == [data.texts[i] for i in expected] and torch.equal(images, data.batch(expected))
    with_workers, again = Reader(data, 0, ALONE, workers=2).take(7)
    assert again == texts and torch.equal(with_workers, images)


def test_latents_are_sent_alone():
    """A worker sends the whole storage of a view."""
    z, _ = Latents(torch.zeros(9, 4, 2, 2), [[""]] * 9)[3]
    assert z.untyped_storage().nbytes() == z.nbytes


def test_a_folder_goes_on_with_another_number_of_ranks():
    whole = said(Reader(latents(7), 0, ALONE), 30)
    before = [Reader(latents(7), 0, World(rank, 2, CPU)) for rank in range(2)]
    for reader in before:
        reader.take(5)
    position = before[0].position()
    assert position == {"samples": 10, "marks": []}
    after = [said(Reader(latents(7), 0, World(rank, 3, CPU), position=position), 4) for rank in range(3)]
    assert [after[n % 3][n // 3] for n in range(12)] == whole[10:22]


def read_epochs(reader: Reader, until: int) -> Counter[tuple[int, str]]:
    """(epoch, key) of all samples of a rank, until every lane has begun the epoch `until`."""
    seen, lanes = Counter(), {}
    for lane, (epoch, _, _), _, (key,) in reader.samples:
        seen[epoch, key] += 1
        lanes[lane] = epoch
        if len(lanes) == len(reader.marks) and min(lanes.values()) >= until:
            return seen
    raise AssertionError("a stream ended")


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_read_exactly_once_an_epoch_by_two_ranks(shards, workers):
    data = open_data(str(shards), 8)
    readers = [Reader(data, 3, World(rank, 2, CPU), workers) for rank in range(2)]
    seen = sum((read_epochs(reader, until=2) for reader in readers), Counter())
    for epoch in range(2):
        assert Counter({key: n for (e, key), n in seen.items() if e == epoch}) == keys_of(shards)


def test_the_order_of_shards_and_samples_changes_with_epoch_and_seed(shards):
    data = open_data(str(shards), 8)
    orders = []
    for seed in (0, 1):
        taken = said(Reader(data, seed, ALONE), 56)
        assert Counter(taken[:28]) == Counter(taken[28:]) == keys_of(shards)
        orders += [taken[:28], taken[28:]]
    assert len(set(map(tuple, orders))) == 4
    last = [key for key in orders[0] if key.startswith("6-")]
    assert last != sorted(last)                         # samples within a shard are shuffled too


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 7, 40])
def test_shards_resume_where_they_were_left(shards, workers, taken):
    data = open_data(str(shards), 8)
    reader = Reader(data, 3, ALONE, workers)
    reader.take(taken)
    position = reader.position()
    assert position["samples"] == taken
    images, texts = reader.take(33)
    again = Reader(data, 3, ALONE, workers, position).take(33)
    assert texts == again[1] and torch.equal(images, again[0])


def test_shards_give_pictures_as_a_folder_does(tmp_path):
    picture = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    picture.save(tmp_path / "one.png")
    (tmp_path / "one.txt").write_text(" a gradient\n")
    files = {name: (tmp_path / name).read_bytes() for name in ("one.png", "one.txt")}
    image, texts = Shards([write_shard(tmp_path / "x.tar", files)], 16).first(5)
    folder = ImageFolder(tmp_path, 16)[0]
    assert torch.equal(image[0], folder[0]) and texts == [folder[1]] == [["a gradient"]]


@pytest.mark.parametrize(("files", "texts"), [
    ({"a.png": png(0)}, [""]),
    ({"a.png": png(0), "a.txt": "a füchschen".encode()}, ["a füchschen"]),
    ({"a.png": png(0), "a.json": b'{"text": ["one", "two"]}'}, ["one", "two"]),
    ({"a.png": png(0), "a.json": b'{"caption": "one"}'}, ["one"]),
    ({"a.png": png(0), "a.txt": b"text", "a.json": b'{"text": "json"}'}, ["text"]),
    ({"a.PNG": png(0), "a.json": b"{}"}, [""]),
])
def test_captions_of_shards(tmp_path, files, texts):
    image, several = Shards([write_shard(tmp_path / "x.tar", files)], 8).first(1)
    assert several == [texts] and torch.equal(image, to_tensor(Image.new("RGB", (8, 8))))


def test_patterns_folders_and_files_of_shards(shards):
    every = [str(shards / f"{n}.tar") for n in range(7)]
    assert open_data(str(shards), 8).urls == every
    assert open_data(str(shards / "{0..6}.tar"), 8).urls == every
    (shards / ".7.12.partial.tar").touch()              # of a program that was killed
    assert open_data(str(shards), 8).urls == every
    assert open_data(every[3], 8).urls == every[3:4]
    assert open_data("::".join(every[2:4]), 8).urls == every[2:4]
    assert [texts for texts in open_data(f"pipe:cat {every[1]}", 8).first(9)[1]] == [["1-0"], ["1-1"]]


@pytest.mark.parametrize(("spec", "message"), [
    ("{0..9}.tar", r"7.tar is not there \(of 3 missing shards\)"),
    ("nowhere", "nowhere is no folder"),
])
def test_missing_data_are_named(shards, spec, message):
    with pytest.raises(ValueError, match=message):
        open_data(str(shards / spec), 8)


def test_shards_without_webdataset_say_what_to_install(shards, monkeypatch):
    monkeypatch.setattr("ldm.training.shards.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tar shards need webdataset; try pip install 'ldm\[train\]'"):
        open_data(str(shards), 8)


def test_broken_pictures_are_left_out_with_a_warning(tmp_path):
    files = {"a.png": png(1), "b.png": png(2)[:45], "c.png": png(3), "d.png": png(0), "d.json": b"[1]"}
    url = write_shard(tmp_path / "x.tar", files)
    with pytest.warns(UserWarning) as told:
        images, _ = Shards([url], 8).first(9)
    assert ((images[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [1, 3]
    assert [str(one.message).split(" is left out")[0] for one in told] == [f"{url}, b", f"{url}, d"]


@pytest.mark.parametrize(("files", "message"), [
    ({"a.txt": b"no picture"}, r"x.tar, a has no picture \(.bmp, .jpeg, .jpg, .png, .webp\); mend the shard"),
    ({}, r"x.tar \(of 1\) holds no picture; give other shards"),
])
def test_shards_without_pictures_are_refused(tmp_path, files, message):
    data = Shards([write_shard(tmp_path / "x.tar", files)], 8)
    for read in (lambda: Reader(data, 0, ALONE).take(1), lambda: data.first(1)):
        with pytest.raises(ValueError, match=message):
            read()


def test_a_torn_shard_is_named(tmp_path):
    url = write_shard(tmp_path / "x.tar", {"a.png": png(1), "b.bmp": bytes(5000)})
    Path(url).write_bytes(Path(url).read_bytes()[:3000])
    with pytest.raises(ValueError, match="x.tar is no whole tar file .*; fetch it again"):
        list(islice(Shards([url], 8).samples(url), 9))


def test_shards_are_refused_where_they_cannot_be_shared_out(shards):
    data = open_data(str(shards), 8)
    with pytest.raises(ValueError, match="7 shards are too few for 2 ranks x 4 workers; take fewer workers"):
        Reader(data, 0, World(0, 2, CPU), workers=4)
    reader = Reader(data, 0, ALONE)
    reader.take(3)
    with pytest.raises(ValueError, match="begun with 1 ranks x 1 workers on shards, and these are 1 x 2; go on with"):
        Reader(data, 0, ALONE, 2, reader.position())
