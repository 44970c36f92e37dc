"""Reading pictures of any mode, writing them, and what ports make of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from task_nets import image_port

from leangan.errors import LeanganError, UnknownValue
from leangan.generator import Port
from leangan.tasks.images import (
    from_port,
    list_images,
    read_image,
    to_port,
    write_image,
)

RAMP = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
RGB = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 128)], 2)


def save(path, array, mode=None, **settings):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **settings)
    return path


def levels(picture):
    return (picture.rgb * 255).round().byte().permute(1, 2, 0).numpy()


def test_rgb_is_read_exactly_and_without_a_note(tmp_path):
    picture = read_image(save(tmp_path / "a.png", RGB))
    assert picture.rgb.dtype == torch.float32
    assert np.array_equal(levels(picture), RGB)
    assert picture.alpha is None
    assert picture.notes == ()


def test_alpha_is_kept_apart(tmp_path):
    rgba = np.dstack([RGB, RAMP])
    picture = read_image(save(tmp_path / "a.png", rgba))
    assert np.array_equal(levels(picture), RGB)
    assert torch.equal((picture.alpha * 255).round().byte(), torch.from_numpy(RAMP.copy()))
    assert picture.notes == ("a.png: alpha channel kept apart",)


def test_palettes(tmp_path):
    picture = read_image(save(tmp_path / "p.png", RGB, "P"))
    expected = np.array(Image.open(tmp_path / "p.png").convert("RGB"))
    assert np.array_equal(levels(picture), expected)
    assert "palette" in picture.notes[0]
    image = Image.fromarray(RGB).quantize(8)
    image.save(tmp_path / "t.png", transparency=0)
    picture = read_image(tmp_path / "t.png")
    assert set(picture.alpha.unique().tolist()) == {0.0, 1.0}
    assert any("alpha" in note for note in picture.notes)


def test_grey_kinds(tmp_path):
    grey = read_image(save(tmp_path / "l.png", RAMP))
    assert np.array_equal(levels(grey), np.dstack([RAMP] * 3))
    assert "grey" in grey.notes[0]
    with_alpha = read_image(save(tmp_path / "la.png", np.dstack([RAMP, 255 - RAMP])))
    assert np.array_equal(levels(with_alpha), np.dstack([RAMP] * 3))
    assert float(with_alpha.alpha[0, 0]) == 1
    bits = read_image(save(tmp_path / "b.png", RAMP, "1"))
    assert set(bits.rgb.unique().tolist()) == {0.0, 1.0}


def test_sixteen_bits_keep_their_precision(tmp_path):
    deep = (np.arange(12 * 20, dtype=np.uint16) * 273).reshape(12, 20)
    deep[-1, -1] = 65535
    picture = read_image(save(tmp_path / "d.png", deep))
    assert torch.allclose(picture.rgb[1], torch.from_numpy(deep / 65535).float())
    assert float(picture.rgb.max()) == 1
    assert "16-bit" in picture.notes[0]


def test_cmyk_jpeg(tmp_path):
    flat = np.full((16, 16, 3), (200, 40, 40), dtype=np.uint8)
    picture = read_image(save(tmp_path / "c.jpg", flat, "CMYK", quality=95))
    assert np.abs(levels(picture).astype(int) - flat).max() < 8
    assert "CMYK" in picture.notes[0]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture = read_image(save(tmp_path / "o.png", RGB, exif=exif))
    assert np.array_equal(levels(picture), np.rot90(RGB, -1))
    assert "EXIF" in picture.notes[0]


def test_the_first_frame_stands_for_several(tmp_path):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    first.save(tmp_path / "f.tiff", save_all=True, append_images=[second])
    picture = read_image(tmp_path / "f.tiff")
    assert np.array_equal(levels(picture), RGB)
    assert "first of its 2 frames" in picture.notes[0]


def test_files_that_are_no_pictures_are_named(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    whole = save(
        tmp_path / "whole.png",
        np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8),
    )
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("text.png", "cut.png", "empty.jpg", "absent.png"):
        with pytest.raises(LeanganError, match=name):
            read_image(tmp_path / name)


def test_float_pictures_are_refused_by_name(tmp_path):
    save(tmp_path / "f.tiff", RAMP.astype(np.float32) * 3)
    with pytest.raises(LeanganError, match=r"f\.tiff.*white"):
        read_image(tmp_path / "f.tiff")


def test_more_pixels_than_the_limit_are_one_sentence(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert read_image(path).rgb.shape == (3, 12, 20)  # over the warning, under the limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(LeanganError, match=r"huge\.png has more than"):
        read_image(path)


def test_listing(tmp_path):
    for name in ("b.PNG", "a.jpeg", "sub/c.Tif", "sub/deep/d.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [f.relative_to(tmp_path).as_posix() for f in list_images(tmp_path)]
    assert found == ["a.jpeg", "b.PNG", "sub/c.Tif"]
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_listing_nothing(tmp_path):
    with pytest.raises(LeanganError, match="holds no picture"):
        list_images(tmp_path)
    with pytest.raises(LeanganError, match="no file or folder"):
        list_images(tmp_path / "absent")


def test_values_outside_are_clipped_before_they_become_bytes(tmp_path):
    x = torch.tensor([1.2, -0.1, 1.0, 0.5]).view(1, 2, 2).expand(3, 2, 2)
    write_image(tmp_path / "o.png", x)
    assert np.array(Image.open(tmp_path / "o.png"))[..., 0].tolist() == [[255, 0], [255, 128]]


def test_written_alpha_and_grey_come_back(tmp_path):
    x, alpha = torch.rand(3, 5, 7), torch.rand(5, 7)
    back = read_image(write_image(tmp_path / "sub" / "a.png", x, alpha))
    assert (back.rgb - x).abs().max() <= 0.5 / 255 + 1e-6
    assert (back.alpha - alpha).abs().max() <= 0.5 / 255 + 1e-6
    write_image(tmp_path / "g.png", x[:1])
    assert Image.open(tmp_path / "g.png").mode == "L"


def test_what_cannot_be_written(tmp_path):
    x = torch.rand(3, 5, 7)
    with pytest.raises(LeanganError, match="NaN"):
        write_image(tmp_path / "a.png", x * torch.nan)
    with pytest.raises(LeanganError, match="channels"):
        write_image(tmp_path / "a.png", torch.rand(4, 5, 7))
    with pytest.raises(LeanganError, match=r"a\.png"):
        write_image(tmp_path / "a.jpg", x, torch.rand(5, 7))
    with pytest.raises(LeanganError, match="extension"):
        write_image(tmp_path / "a.xyz", x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_ports_scale_and_come_back(value_range):
    port = image_port("x", value_range=value_range)
    rgb = torch.rand(3, 6, 8)
    rgb[0, 0, :2] = torch.tensor([0.0, 1.0])
    x = to_port(rgb, port)
    assert x.shape == (1, 3, 6, 8)
    assert (float(x.min()), float(x.max())) == value_range
    assert torch.allclose(from_port(x, port)[0], rgb, atol=1e-6)


def test_ports_of_other_layouts():
    rgb = torch.rand(3, 6, 8)
    last = Port("x", "image", "NHWC", (2, None, None, 3), (2, 8, 8, 3), (0.0, 1.0))
    x = to_port(rgb, last)
    assert x.shape == (2, 6, 8, 3)
    assert torch.equal(from_port(x, last)[1], rgb)
    bare = Port("x", "image", "HW", (None, None), (8, 8), (0.0, 1.0))
    assert to_port(rgb, bare).shape == (6, 8)
    assert from_port(to_port(rgb, bare), bare).shape == (1, 1, 6, 8)


def test_a_grey_port_gets_the_luma():
    rgb = torch.zeros(3, 1, 3)
    rgb[:, 0] = torch.eye(3)
    x = to_port(rgb, image_port("x", channels=1))
    assert x.flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])


def test_output_is_clipped_on_the_way_back():
    port = image_port("x", value_range=(-1.0, 1.0))
    x = torch.tensor([-1.5, 0.0, 2.0]).view(1, 3, 1, 1)
    assert from_port(x, port).flatten().tolist() == [0, 0.5, 1]


def test_ports_that_pictures_do_not_fit():
    rgb = torch.rand(3, 6, 8)
    with pytest.raises(UnknownValue, match="--range x"):
        to_port(rgb, image_port("x", value_range=None))
    with pytest.raises(LeanganError, match="5 channels"):
        to_port(rgb, image_port("x", channels=5))
    flat = Port("x", "image", "NC", (None, 784), (1, 784), (0.0, 1.0))
    with pytest.raises(LeanganError, match="no pictures"):
        from_port(torch.rand(1, 784), flat)
