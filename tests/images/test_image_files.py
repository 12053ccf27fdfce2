"""Picture files: formats, and what they carry, as independent programs read it."""

import io
import json

import numpy as np
import piexif
import piexif.helper
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from sd_parsers import ParserManager

from ldm.images import (
    check_target,
    digest,
    encoding,
    exif,
    psnr,
    read_metadata,
    read_parameters,
    save_image,
    with_metadata,
)
from ldm.metadata import to_parameters

TOLD = {"prompt": "ein Füchschen, 狐狸 🦊\n(two:1.2)", "negative_prompt": "blur, noise", "steps": 20, "guidance": 7.5,
        "sampler": "euler_a", "spacing": "karras", "seed": 2**53 + 1, "eta": 0.0, "width": None, "clip_skip": 2,
        "model": "v1-5.safetensors", "version": "0.1.0"}
SUFFIXES = ["png", "jpg", "jpeg", "webp"]


def smooth_picture() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(small).resize((40, 27), Image.Resampling.BICUBIC)


def saved(tmp_path, suffix, told=TOLD, **options):
    return save_image(with_metadata(smooth_picture(), told), tmp_path / f"fox.{suffix}", **options)


@pytest.mark.parametrize(("suffix", "format"), [*zip(SUFFIXES, ["PNG", "JPEG", "JPEG", "WEBP"], strict=True),
                                                ("JPG", "JPEG")])
def test_picture_and_metadata_are_read_back(tmp_path, suffix, format):
    path = saved(tmp_path, suffix)
    assert path.name == f"fox.{suffix}"
    assert read_metadata(path) == {**TOLD, "sha256": digest(smooth_picture())}
    with Image.open(path) as image:
        assert image.format == format and image.size == (40, 27)
        assert psnr(image, smooth_picture()) > 30


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parameters_are_read_by_an_independent_reader(tmp_path, suffix):
    path = saved(tmp_path, suffix)
    assert read_parameters(path) == to_parameters(TOLD, 40, 27)
    info = ParserManager().parse(path)
    assert info is not None and info.generator.name == "AUTOMATIC1111"
    [sampler] = info.samplers
    assert (sampler.name, sampler.model.name) == ("Euler a", "v1-5")
    assert sampler.parameters == {"steps": "20", "scheduler": "Karras", "cfg_scale": "7.5", "seed": str(2**53 + 1)}
    assert [prompt.value for prompt in sampler.prompts] == [TOLD["prompt"]]
    assert [prompt.value for prompt in sampler.negative_prompts] == [TOLD["negative_prompt"]]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_comment_is_read_as_a1111_reads_it(tmp_path, suffix):
    """With piexif, for which a comment must be of type UNDEFINED."""
    comment = piexif.load(str(saved(tmp_path, suffix)))["Exif"][piexif.ExifIFD.UserComment]
    assert piexif.helper.UserComment.load(comment) == to_parameters(TOLD, 40, 27)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_comment_is_read_as_a1111_writes_it(tmp_path, suffix):
    comment = piexif.helper.UserComment.dump("a 狐\nSteps: 20", encoding="unicode")
    smooth_picture().save(tmp_path / f"a.{suffix}", exif=piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}}))
    assert read_parameters(tmp_path / f"a.{suffix}") == "a 狐\nSteps: 20"


@pytest.mark.parametrize("comment", [b"UNICODE\0" + "一只狐狸\nSteps: 20".encode("utf-16-le"),
                                     b"UNICODE\0" + "一只狐狸\nSteps: 20".encode("utf-16-be"),
                                     b"ASCII\0\0\0" + "一只狐狸\nSteps: 20".encode()])
def test_comment_is_read_in_other_encodings(tmp_path, comment):
    smooth_picture().save(tmp_path / "a.jpg", exif=piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}}))
    assert read_parameters(tmp_path / "a.jpg") == "一只狐狸\nSteps: 20"


def test_parameters_of_a_png_of_a1111_are_read(tmp_path):
    info = PngInfo()
    info.add_text("parameters", "a fox\nSteps: 20")
    smooth_picture().save(tmp_path / "a.png", pnginfo=info)
    assert read_parameters(tmp_path / "a.png") == "a fox\nSteps: 20"


@pytest.mark.parametrize("description", ["", "A photo", "EXIF"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_of_others_are_refused(tmp_path, suffix, description):
    path = tmp_path / f"other.{suffix}"
    smooth_picture().save(path, exif=exif(description, "") if description else b"")
    with pytest.raises(ValueError, match=rf"other.{suffix} carries no settings of this library; give a picture that"):
        read_metadata(path)
    with pytest.raises(ValueError, match=rf"other.{suffix} carries no parameters; give a picture that"):
        read_parameters(path)


def test_pictures_without_metadata_stay_so(tmp_path):
    for suffix in SUFFIXES:
        with Image.open(save_image(smooth_picture(), tmp_path / f"plain.{suffix}")) as image:
            assert not dict(image.getexif()) and not {"ldm", "parameters"} & image.info.keys()


@pytest.mark.parametrize("text", ["", "a", "ab"])
def test_exif_is_well_formed_at_even_and_odd_lengths(text):
    data = exif("ldm{}" + text, text)
    assert piexif.load(data)["0th"][piexif.ImageIFD.ImageDescription].rstrip(b"\0") == b"ldm{}" + text.encode()
    image = Image.Exif()
    image.load(data)
    assert image[ExifTags.Base.ImageDescription] == "ldm{}" + text
    assert image.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] == b"UNICODE\0" + text.encode("utf-16-be")


def test_sha256_is_of_the_pixels_that_were_given_not_of_the_file(tmp_path):
    lossy = saved(tmp_path, "jpg", quality=20)
    with Image.open(lossy) as image:
        assert digest(image) != read_metadata(lossy)["sha256"] == digest(smooth_picture())
    changed = with_metadata(smooth_picture(), TOLD)
    changed.putpixel((0, 0), (1, 2, 3))                                 # after the metadata came
    assert read_metadata(save_image(changed, tmp_path / "changed.png"))["sha256"] == digest(changed)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_quality_is_obeyed(tmp_path, suffix):
    small, large = (saved(tmp_path, suffix, quality=quality) for quality in (10, 99))
    with Image.open(small) as low, Image.open(large) as high:
        assert psnr(low, smooth_picture()) < psnr(high, smooth_picture())
    assert small.stat().st_size < large.stat().st_size


def test_webp_of_quality_100_loses_nothing(tmp_path):
    with Image.open(saved(tmp_path, "webp", quality=100)) as image:
        assert psnr(image, smooth_picture()) == float("inf")


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range_is_refused_before_any_file_is_made(tmp_path, quality):
    with pytest.raises(ValueError, match=rf"quality {quality} is outside 1\.\.100; try 95"):
        saved(tmp_path, "jpg", quality=quality)
    assert list(tmp_path.iterdir()) == []


def test_formats_are_numbered_and_leave_nothing_behind(tmp_path):
    assert [saved(tmp_path, "webp").name for _ in range(2)] == ["fox.webp", "fox-1.webp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fox-1.webp", "fox.webp"]


def test_a_jpeg_without_room_for_the_settings_is_written_all_the_same(tmp_path):
    with pytest.warns(UserWarning, match=r"the settings take 2\d\d,\d+ bytes, and a JPEG has room for 65,533"):
        path = saved(tmp_path, "jpg", {"prompt": 70_000 * "a"})
    with Image.open(path) as image:
        image.load()
    with pytest.raises(ValueError, match="carries no settings"):
        read_metadata(path)


def test_encoding_serves_files_in_memory():
    file = io.BytesIO()
    smooth_picture().save(file, **encoding(with_metadata(smooth_picture(), TOLD), "PNG"))
    with Image.open(file) as image:
        assert json.loads(image.info["ldm"])["sha256"] == digest(smooth_picture())


def test_check_target_takes_four_suffixes(tmp_path):
    for name in ("a.png", "a.jpg", "a.JPEG", "a.webp", "folder"):
        check_target(tmp_path / name)
    with pytest.raises(ValueError, match=r"fox.gif is neither a folder nor a .png, .jpg, .jpeg or .webp; try .*x.png"):
        check_target(tmp_path / "fox.gif")


def test_psnr_is_that_of_the_definition():
    black, red = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (255, 0, 0))
    assert psnr(black, red) == pytest.approx(4.771, abs=1e-3)          # 10 log10 of 3: a third of the numbers is off
    assert psnr(black, black) == float("inf")
