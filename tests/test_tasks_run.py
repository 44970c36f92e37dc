"""Any size by padding, large pictures by tiles, and picture files in and out."""

import numpy as np
import pytest
import torch
from PIL import Image
from task_nets import Normed, Overflow, Smooth, Twice, UNet, image_generator, image_port, latent_net
from torch.nn import functional as F

from leangan.errors import LeanganError, UsageError
from leangan.generator import Port, Signature
from leangan.tasks import run as run_module
from leangan.tasks.anysize import pad_end, run_any_size
from leangan.tasks.base import Sample
from leangan.tasks.preview import panels, to_data_uri
from leangan.tasks.run import run_images
from leangan.tasks.tiles import run_tiled

SMOOTH = image_generator(Smooth())
NORMED = image_generator(Normed())
TWICE = image_generator(Twice(), factor=2)
UNET = image_generator(UNet(), multiple=4)
FIXED = image_generator(Smooth(), size=24, fixed=True)


def random_picture(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(50, 50), (33, 47), (1, 3), (48, 64)])
def test_a_unet_takes_any_size(height, width):
    port, x = UNET.signature.inputs[0], random_picture(height, width)
    y = run_any_size(UNET, x, port)
    assert y.shape == x.shape
    whole = run_any_size(UNET, pad_end(pad_end(x, 2, 64), 3, 64), port)
    # Far from the padded edges nothing depends on the padding.
    inside = (..., slice(0, max(height - 16, 0)), slice(0, max(width - 16, 0)))
    assert torch.allclose(y[inside], whole[inside], atol=1e-5)


def test_padding_mirrors_as_pytorch_does():
    x = random_picture(9, 7)
    assert torch.equal(pad_end(x, 3, 12), F.pad(x, (0, 5, 0, 0), "reflect"))
    again = pad_end(torch.arange(3.0), 0, 9)  # further than PyTorch can
    assert again.tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert pad_end(torch.ones(1), 0, 4).tolist() == [1] * 4


def test_a_fixed_size_is_padded_to_and_never_exceeded():
    port, x = FIXED.signature.inputs[0], random_picture(20, 17)
    assert run_any_size(FIXED, x, port).shape == x.shape
    with pytest.raises(LeanganError, match=r"takes the size 24 only.*30 is more"):
        run_any_size(FIXED, random_picture(30, 24), port)


def test_the_output_is_cut_in_proportion():
    port = image_port("x", multiple=4)
    x = random_picture(10, 12)
    assert run_any_size(lambda t: t.repeat(1, 1, 3, 3), x, port).shape == (1, 3, 30, 36)
    assert run_any_size(lambda t: t[..., ::2, ::2], x, port).shape == (1, 3, 5, 6)
    with pytest.raises(LeanganError, match="multiple of 4"):
        run_any_size(lambda t: t[..., 1:, :], x, port)


def test_time_is_padded_too():
    mel = Port("mel", "mel", "NCT", (None, 4, None), (1, 4, 20), multiple=(1, 1, 8))
    y = run_any_size(lambda t: t.repeat_interleave(5, 2), torch.rand(1, 4, 11), mel)
    assert y.shape == (1, 4, 55)


@pytest.mark.parametrize(
    ("generator", "halo", "size"),
    [
        (SMOOTH, 3, (61, 83)),
        (SMOOTH, 3, (16, 16)),
        (SMOOTH, 3, (7, 90)),
        (TWICE, 1, (45, 38)),
        (UNET, 16, (90, 70)),
    ],
)
def test_tiles_equal_the_whole(generator, halo, size):
    port, x = generator.signature.inputs[0], random_picture(*size)
    whole = run_any_size(generator, x, port)
    tiled = run_tiled(generator, x, port, 16, halo)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() < 1e-5


def test_a_halo_too_small_is_seen():
    port, x = SMOOTH.signature.inputs[0], random_picture(61, 83)
    whole = run_any_size(SMOOTH, x, port)
    assert (run_tiled(SMOOTH, x, port, 16, 1) - whole).abs().max() > 1e-4


def test_all_tiles_have_one_shape():
    shapes = set()

    def watched(x):
        shapes.add(tuple(x.shape))
        return SMOOTH(x)

    done = []
    run_tiled(
        watched, random_picture(61, 83), SMOOTH.signature.inputs[0], 16, 3,
        progress=lambda *now: done.append(now),
    )  # fmt: skip
    assert shapes == {(1, 3, 22, 22)}
    assert done[0] == (1, 24)
    assert done[-1] == (24, 24)


def test_a_fixed_size_is_reached_by_tiles():
    port, x = FIXED.signature.inputs[0], random_picture(50, 70)
    tiled = run_tiled(FIXED, x, port, 999, 3)
    assert (tiled - SMOOTH(x)).abs().max() < 1e-5
    with pytest.raises(LeanganError, match="12 pixels to each side"):
        run_tiled(FIXED, x, port, 999, 12)


def test_tiles_are_halved_until_they_fit():
    sizes = []

    def small_machine(x):
        sizes.append(x.shape[2])
        if x.shape[2] > 80:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
        return SMOOTH(x)

    port, x = SMOOTH.signature.inputs[0], random_picture(150, 140)
    assert (run_tiled(small_machine, x, port, 128, 3) - SMOOTH(x)).abs().max() < 1e-5
    assert max(sizes) > 80

    def no_memory(x):
        raise MemoryError

    with pytest.raises(LeanganError, match="does not fit into memory"):
        run_tiled(no_memory, x, port, 128, 3)


def test_other_failures_are_not_taken_for_memory():
    def broken(x):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_tiled(broken, random_picture(50, 50), SMOOTH.signature.inputs[0], 32, 3)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "in"
    (source / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (33, 47, 4), dtype=np.uint8)
    Image.fromarray(rgba[..., :3]).save(source / "rgb.png")
    Image.fromarray(rgba).save(source / "rgba.png")
    Image.fromarray(rgba[..., :3]).convert("P").save(source / "palette.png")
    Image.fromarray(rgba[..., 0]).save(source / "grey.png")
    Image.fromarray(rgba[..., 0].astype(np.uint16) * 257).save(source / "deep.png")
    Image.fromarray(rgba[..., :3]).convert("CMYK").save(source / "cmyk.jpg")
    Image.fromarray(rgba[..., :3]).save(source / "more" / "rgb.jpg")
    return source


def test_a_folder_of_mixed_modes(folder, tmp_path):
    seen = []
    written = run_images(
        UNET, UNET.signature, [folder], tmp_path / "out",
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert seen == [(i, 7) for i in range(1, 8)]
    names = {w.path.name for w in written}
    assert names == {
        f"{s}.png" for s in ("rgb", "rgb-2", "rgba", "palette", "grey", "deep", "cmyk")
    }
    for item in written:
        image = Image.open(item.path)
        assert image.size == (47, 33)
        assert image.mode == ("RGBA" if item.source.name == "rgba.png" else "RGB")
    notes = {w.source.name: " ".join(w.notes) for w in written}
    assert notes["rgb.png"] == ""
    for name, word in {"palette.png": "palette", "deep.png": "16-bit", "cmyk.jpg": "CMYK"}.items():
        assert word in notes[name]


def test_alpha_is_kept_or_enlarged(folder, tmp_path):
    given = np.array(Image.open(folder / "rgba.png"))[..., 3]
    (kept,) = run_images(SMOOTH, SMOOTH.signature, [folder / "rgba.png"], tmp_path / "a")
    assert np.array_equal(np.array(Image.open(kept.path))[..., 3], given)
    (large,) = run_images(TWICE, TWICE.signature, [folder / "rgba.png"], tmp_path / "b")
    image = Image.open(large.path)
    assert image.size == (94, 66)
    exact = Image.fromarray(given.astype(np.float32)).resize((94, 66), Image.Resampling.BICUBIC)
    difference = np.array(image)[..., 3] - np.array(exact).clip(0, 255)
    assert np.abs(difference).max() <= 1


def test_overflow_is_saved_as_white_and_black(folder, tmp_path):
    net = image_generator(Overflow())
    (item,) = run_images(net, net.signature, [folder / "rgb.png"], tmp_path / "out")
    stored = np.array(Image.open(item.path))
    assert (stored[:, :23] == 255).all()
    assert (stored[:, 23:] == 0).all()


def test_large_pictures_are_tiled(folder, tmp_path, monkeypatch):
    (whole,) = run_images(SMOOTH, SMOOTH.signature, [folder / "rgb.png"], tmp_path / "a")
    calls = []

    def watched(x):
        calls.append(x.shape)
        return SMOOTH(x)

    (tiled,) = run_images(
        watched, SMOOTH.signature, [folder / "rgb.png"], tmp_path / "b", tile=16, halo=3
    )
    assert len(calls) == 9
    monkeypatch.setattr(run_module, "WHOLE", 1000)
    monkeypatch.setattr(run_module, "TILE", 16)
    calls.clear()
    (large,) = run_images(watched, SMOOTH.signature, [folder / "rgb.png"], tmp_path / "c", halo=3)
    assert calls
    stored = [np.array(Image.open(w.path)).astype(int) for w in (whole, tiled, large)]
    assert np.abs(stored[0] - stored[1]).max() <= 1
    assert np.abs(stored[0] - stored[2]).max() <= 1


def test_tiles_are_refused_when_the_whole_picture_counts(folder, tmp_path, monkeypatch):
    files = [folder / "rgb.png"]
    with pytest.raises(UsageError, match="depends on the whole picture"):
        run_images(NORMED, NORMED.signature, files, tmp_path / "out", tile=16)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(run_module, "WHOLE", 1000)
    (item,) = run_images(NORMED, NORMED.signature, files, tmp_path / "out")
    assert "run whole" in item.notes[0]
    given = torch.from_numpy(np.array(Image.open(files[0]))).permute(2, 0, 1)[None] / 255
    stored = np.array(Image.open(item.path))
    expected = (NORMED(given)[0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(stored - expected).max() <= 1


def test_memory_that_runs_out_is_one_sentence(folder, tmp_path):
    def no_memory(x):
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    with pytest.raises(LeanganError, match=r"rgb\.png: The picture does not fit into memory"):
        run_images(no_memory, SMOOTH.signature, [folder / "rgb.png"], tmp_path / "out")
    calls = []

    def small_machine(x):
        calls.append(x.shape)
        if x.shape[3] > 1200:
            raise MemoryError
        return SMOOTH(x)

    wide = Image.fromarray(np.zeros((4, 1300, 3), np.uint8))
    wide.save(tmp_path / "wide.png")
    run_images(small_machine, SMOOTH.signature, [tmp_path / "wide.png"], tmp_path / "out", halo=3)
    assert len(calls) > 1


def test_sources_are_never_overwritten(folder):
    before = (folder / "rgb.png").read_bytes()
    with pytest.raises(UsageError, match=r"overwrite .*\.png.*-o"):
        run_images(SMOOTH, SMOOTH.signature, [folder], folder)
    assert (folder / "rgb.png").read_bytes() == before
    (item,) = run_images(SMOOTH, SMOOTH.signature, [folder / "cmyk.jpg"], folder)
    assert item.path == folder / "cmyk.png"


def test_failures_are_named_and_the_others_written(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(LeanganError, match=r"1 of 8 pictures failed, 7 are in .*broken\.png"):
        run_images(SMOOTH, SMOOTH.signature, [folder], tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 7


def test_nan_is_not_saved(folder, tmp_path):
    with pytest.raises(LeanganError, match=r"NaN or Inf for .*rgb\.png"):
        run_images(
            lambda x: x * torch.nan, SMOOTH.signature, [folder / "rgb.png"], tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_generators_of_no_pictures_are_refused(folder, tmp_path):
    net = latent_net()
    with pytest.raises(UsageError, match=r"z \(latent\)"):
        run_images(net, net.signature, [folder], tmp_path / "out")


def test_no_such_file(tmp_path):
    with pytest.raises(LeanganError, match=r"absent\.png"):
        run_images(SMOOTH, SMOOTH.signature, [tmp_path / "absent.png"], tmp_path / "out")


def test_panels_show_input_reference_output_and_difference():
    x = random_picture(32, 32)
    a = torch.full((1, 3, 64, 64), 0.5)
    shown = panels(TWICE.signature, Sample("a.png", (x,)), a, a + 4 / 255)
    assert list(shown) == ["input", "reference", "output", "difference"]
    assert {image.size for image in shown.values()} == {(256, 256)}
    last = (x[0, :, 31, 31] * 255).round().int().tolist()
    corners = [list(image.getpixel((255, 255))) for image in shown.values()]
    assert corners == [last, [128] * 3, [132] * 3, [32] * 3]


def test_panels_of_latents_have_no_input_and_survive_nan():
    net = latent_net()
    (z,) = net.example({"N": 1})
    y = net(z)
    shown = panels(net.signature, Sample("z", (z,)), y, y * torch.nan)
    assert list(shown) == ["reference", "output", "difference"]
    voice = Port("w", "waveform", "NT", (None, None), (1, 100))
    signature = Signature(net.signature.inputs, (voice,))
    assert panels(signature, Sample("z", (z,)), y, y) == {}


def test_panels_of_grey_pictures():
    net = image_generator(Smooth(1), channels=1)
    x = torch.rand(1, 1, 300, 20)
    shown = panels(net.signature, Sample("a", (x,)), x, x)
    assert shown["input"].mode == "RGB"
    assert shown["input"].size == (20, 300)


def test_data_uris_are_small():
    flat = Image.new("RGB", (64, 64))
    assert to_data_uri(flat).startswith("data:image/png;base64,")
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    assert to_data_uri(Image.fromarray(noise)).startswith("data:image/jpeg;base64,")
