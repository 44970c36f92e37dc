"""From files to samples: sizes, mixed folders, the split, arrays, and what is refused."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from task_nets import (
    Smooth,
    Twice,
    image_generator,
    image_port,
    latent_net,
    pair_net,
    voice_net,
)
from torch import nn

from leangan import tasks
from leangan.errors import LeanganError, UnknownValue, UsageError
from leangan.generator import Generator, Port, Signature
from leangan.measure import perceptual
from leangan.tasks.array_files import fit_sizes, read_arrays
from leangan.tasks.base import Sample
from leangan.tasks.calibration import check_inputs
from leangan.tasks.images import Picture
from leangan.tasks.pictures import (
    flat_samples,
    kept_size,
    picture_examples,
    scale,
    working_size,
)
from leangan.tasks.super_resolution import shrink
from leangan.tasks.variation import vary


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(perceptual, "load_network", lambda: None)


@pytest.fixture(scope="module")
def smooth():
    return image_generator(Smooth(), value_range=(-1.0, 1.0))


@pytest.fixture(scope="module")
def twice():
    return image_generator(Twice(), factor=2, multiple=2)


def photo(path, size=(90, 70), mode="RGB", seed=0, **settings):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, **settings)
    return path


@pytest.fixture
def mixed(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    photo(folder / "rgb.png")
    photo(folder / "rgba.png", mode="RGBA", seed=1)
    photo(folder / "palette.png", mode="P", seed=2)
    photo(folder / "grey.png", mode="L", seed=3)
    photo(folder / "cmyk.jpg", mode="CMYK", seed=4)
    deep = np.arange(70 * 90, dtype=np.uint16).reshape(70, 90) * 10
    Image.fromarray(deep).save(folder / "deep.png")
    return folder


@pytest.mark.parametrize("name", ["translation", "super-resolution"])
def test_a_folder_of_mixed_modes_works_and_says_what_it_converted(name, mixed, smooth, twice):
    generator = smooth if name == "translation" else twice
    data = tasks.get(name).data(generator, mixed)
    samples = (*data.calibration, *data.held_out)
    assert len(samples) == 6
    check_inputs(generator, samples)
    noted = " ".join(data.notes)
    for file in ("rgba.png", "palette.png", "grey.png", "cmyk.jpg", "deep.png"):
        assert f"{file}: " in noted
    assert "rgb.png: " not in noted.replace("rgba.png: ", "")


def test_translation_resizes_the_shorter_side(tmp_path, smooth):
    for i, size in enumerate([(90, 70), (64, 128), (20, 20), (32, 32)]):
        photo(tmp_path / f"{i}.png", size, seed=i)
    data = tasks.get("translation").data(smooth, tmp_path)
    for sample in (*data.calibration, *data.held_out):
        assert sample.inputs[0].shape == (1, 3, 32, 32)
    exact = next(s for s in (*data.calibration, *data.held_out) if s.name == "3.png")
    stored = np.array(Image.open(tmp_path / "3.png")).transpose(2, 0, 1)
    assert np.array_equal(((exact.inputs[0][0] + 1) * 127.5).round().numpy(), stored)


def test_super_resolution_truth_is_the_photo_and_input_its_reduction(tmp_path, twice):
    for i in range(3):
        photo(tmp_path / f"{i}.png", (66, 50), seed=i)
    data = tasks.get("super-resolution").data(twice, tmp_path)
    (sample,) = data.held_out
    assert sample.inputs[0].shape == (1, 3, 24, 32)  # 25 is no multiple of 2
    assert sample.truth.shape == (1, 3, 48, 64)
    stored = Image.open(tmp_path / sample.name).crop((1, 1, 65, 49))
    assert np.array_equal(
        (sample.truth[0] * 255).round().byte().permute(1, 2, 0).numpy(), np.array(stored)
    )
    small = stored.resize((32, 24), Image.Resampling.BICUBIC)
    made = (sample.inputs[0][0] * 255).permute(1, 2, 0).numpy()
    assert np.abs(made - np.array(small)).max() < 1e-3


def test_super_resolution_is_judged_against_the_photo(tmp_path, twice):
    for i in range(3):
        photo(tmp_path / f"{i}.png", seed=i)
    task = tasks.get("super-resolution")
    samples = task.data(twice, tmp_path).held_out
    perfect = [s.truth for s in samples]
    assert task.quality(twice, samples, perfect, perfect)["psnr_y_truth"].worst == 100
    off = [(t + 0.1 * torch.randn(t.shape)).clamp(0, 1) for t in perfect]
    scores = task.quality(twice, samples, off, off)
    assert scores["psnr"].worst == 100
    assert 15 < scores["psnr_y_truth"].worst < 35


def test_shrinking_smooths_instead_of_picking_pixels():
    stripes = torch.zeros(1, 16, 16)
    stripes[..., ::2] = 1
    inner = shrink(stripes, 4, 4)[..., 1:-1]
    assert (inner - 0.5).abs().max() < 0.05


def test_one_picture_is_cut_into_halves(tmp_path, smooth):
    left, right = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([left, right], 1)).save(tmp_path / "one.png")
    data = tasks.get("translation").data(smooth, tmp_path / "one.png")
    assert float(data.calibration[0].inputs[0].max()) < -0.999
    assert float(data.held_out[0].inputs[0].min()) > 0.999
    assert any("only picture" in note for note in data.notes)


def test_one_picture_too_small_to_share(tmp_path, twice):
    photo(tmp_path / "one.png", (6, 5))
    with pytest.raises(LeanganError, match="two or more"):
        tasks.get("super-resolution").data(twice, tmp_path)


def test_unusable_files_are_skipped_by_name(tmp_path, twice):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", seed=1)
    photo(tmp_path / "tiny.png", (3, 3))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    data = tasks.get("super-resolution").data(twice, tmp_path)
    assert {s.name for s in (*data.calibration, *data.held_out)} == {"a.png", "b.png"}
    noted = " ".join(data.notes)
    assert "broken.png" in noted
    assert "tiny.png is too small (3x3)" in noted


def test_nothing_usable(tmp_path, smooth):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(LeanganError, match=r"No picture of .*broken\.png"):
        tasks.get("translation").data(smooth, tmp_path)


def test_equal_names_in_subfolders_stay_apart(tmp_path, smooth):
    for sub in ("a", "b"):
        (tmp_path / sub).mkdir()
        photo(tmp_path / sub / "1.png", seed=ord(sub))
    data = tasks.get("translation").data(smooth, tmp_path)
    assert {data.calibration[0].name, data.held_out[0].name} == {"a/1.png", "b/1.png"}


@pytest.mark.parametrize("name", ["translation", "super-resolution"])
def test_picture_tasks_ask_for_pictures(name, smooth, twice):
    with pytest.raises(UsageError, match="--data"):
        tasks.get(name).data(smooth if name == "translation" else twice, None)


def test_an_unknown_range_is_asked_for(tmp_path, smooth):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    unknown = Signature((image_port("photo", value_range=None),), smooth.signature.outputs)
    with pytest.raises(UnknownValue, match="--range photo"):
        tasks.get("translation").data(Generator(smooth.program, unknown), tmp_path)


def test_sizes_read_off_ports():
    assert working_size(image_port("x", size=50, multiple=16)) == (48, 48)
    assert working_size(image_port("x", size=9, multiple=16)) == (16, 16)
    assert working_size(image_port("x", size=40, fixed=True)) == (40, 40)
    four = Signature((image_port("x", size=16),), (image_port("y", size=64),))
    odd = Signature((image_port("x", size=16),), (image_port("y", size=40),))
    assert (scale(four), scale(odd), scale(latent_net().signature)) == (4, None, None)


def test_flat_colours(smooth):
    samples = {s.name: s.inputs[0] for s in flat_samples(smooth)}
    assert set(samples) == {"white", "black", "red", "green", "blue"}
    assert samples["red"].shape == (1, 3, 32, 32)
    assert samples["red"][0, :, 5, 7].tolist() == [1, -1, -1]
    check_inputs(smooth, flat_samples(smooth))


def test_flat_colours_say_nothing_after_instance_norm():
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3))
    assert flat_samples(image_generator(module)) == ()


def sample(*inputs, name="bad.npy"):
    return Sample(name, inputs)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.full((1, 3, 32, 32), torch.nan), "NaN"),
        (torch.full((1, 3, 32, 32), torch.inf), "NaN or Inf"),
        (torch.rand(1, 1, 32, 32), r"shape \(1, 1, 32, 32\)"),
        (torch.rand(3, 32, 32), "shape"),
        (torch.rand(1, 3, 31, 32), r"H \(a multiple of 2\)"),
        (torch.rand(1, 3, 32, 32) * 255, "outside of the range 0 to 1"),
        (torch.rand(1, 3, 32, 32) - 0.5, "--range image"),
    ],
)
def test_calibration_stops_at_the_file(twice, x, words):
    good = sample(torch.rand(1, 3, 32, 32), name="good.npy")
    with pytest.raises(LeanganError, match=rf"^bad\.npy.*{words}"):
        check_inputs(twice, [good, sample(x), good])


def test_calibration_counts_the_inputs():
    with pytest.raises(LeanganError, match=r"bad\.npy gives 1 inputs, Pair takes 2"):
        check_inputs(pair_net(), [sample(torch.rand(1, 4))])


def test_latents_are_standard_normal_and_all_different():
    data = tasks.get("synthesis").data(latent_net(), None, limit=60)
    rows = torch.cat([s.inputs[0] for s in (*data.calibration, *data.held_out)])
    assert rows.shape == (60, 8)
    assert abs(float(rows.mean())) < 0.2
    assert abs(float(rows.std()) - 1) < 0.15
    assert len(rows.unique(dim=0)) == 60


def test_rows_of_one_file_are_shared(tmp_path):
    latents = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    np.save(tmp_path / "z.npy", latents)
    data = tasks.get("synthesis").data(latent_net(), tmp_path / "z.npy")
    assert (len(data.calibration), len(data.held_out)) == (6, 3)
    for s in (*data.calibration, *data.held_out):
        row = int(s.name.removeprefix("z.npy row "))
        assert np.array_equal(s.inputs[0][0].numpy(), latents[row])
    assert "only file" in data.notes[0]


def test_one_row_cannot_be_shared(tmp_path):
    np.save(tmp_path / "z.npy", np.zeros(8))
    with pytest.raises(LeanganError, match="two or more"):
        tasks.get("synthesis").data(latent_net(), tmp_path)


def test_time_is_cut_to_the_typical_length(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.arange(4 * 51).reshape(4, 51))
    data = tasks.get("vocoder").data(voice_net(), tmp_path)
    for s in (*data.calibration, *data.held_out):
        (mel,) = s.inputs
        assert mel.shape == (1, 4, 20)
        assert torch.equal(mel[0, 0].diff(), torch.ones(19))  # an unbroken stretch


def test_inputs_share_their_window():
    ports = [
        Port("a", "mel", "NCT", (None, 2, None), (1, 2, 8)),
        Port("b", "noise", "NT", (None, None), (1, 8)),
    ]
    line = torch.arange(40.0)
    a, b = fit_sizes((line.expand(1, 2, 40), line[None]), ports, random.Random(1))
    assert a.shape == (1, 2, 8)
    assert torch.equal(a[0, 0], b[0])


def test_arrays_that_do_not_fit_are_named(tmp_path):
    z = latent_net().signature.inputs
    cases = {
        "shape.npy": np.zeros((3, 9)),
        "text.npy": np.array(["a", "b"]),
        "none.npy": np.zeros((0, 8)),
    }
    for name, array in cases.items():
        np.save(tmp_path / name, array)
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 nothing")
    for name in (*cases, "pickle.npy", "damaged.npz"):
        with pytest.raises(LeanganError, match=name):
            read_arrays(tmp_path / name, z)


def test_several_inputs_need_their_names(tmp_path):
    ports = pair_net().signature.inputs
    np.savez(tmp_path / "x.npz", z=np.zeros((2, 4)), label=np.zeros((2, 2)))
    with pytest.raises(LeanganError, match=r"z, label.*inputs are z, c"):
        read_arrays(tmp_path / "x.npz", ports)
    np.savez(tmp_path / "y.npz", z=np.zeros((2, 4)), c=np.zeros((3, 2)))
    with pytest.raises(LeanganError, match="differ in their number of rows"):
        read_arrays(tmp_path / "y.npz", ports)
    np.savez(tmp_path / "z.npz", c=np.ones((2, 2)), z=np.zeros((2, 4)))
    rows = read_arrays(tmp_path / "z.npz", ports)
    assert [[tuple(t.shape) for t in row] for row in rows] == [[(1, 4), (1, 2)]] * 2
    assert float(rows[0][1].min()) == 1


def test_a_fixed_batch_is_kept_together(tmp_path):
    port = Port("z", "latent", "NC", (4, 8), (4, 8))
    np.save(tmp_path / "z.npy", np.zeros((8, 8)))
    assert [r[0].shape for r in read_arrays(tmp_path / "z.npy", [port])] == [(4, 8)] * 2
    np.save(tmp_path / "z.npy", np.zeros((6, 8)))
    with pytest.raises(LeanganError, match="4 x 8"):
        read_arrays(tmp_path / "z.npy", [port])


def test_only_noise_is_made_up():
    with pytest.raises(UsageError, match=r"mel \(mel\).*--data"):
        tasks.get("vocoder").data(voice_net(), None)


def test_tasks_are_inferred(smooth, twice):
    inferred = [tasks.infer(g).name for g in (smooth, twice, latent_net(), voice_net())]
    assert inferred == ["translation", "super-resolution", "synthesis", "vocoder"]
    stated = Generator(smooth.program, smooth.signature, "arrays")
    assert tasks.infer(stated).name == "arrays"


def test_what_cannot_be_inferred_is_asked_for(smooth):
    with pytest.raises(UnknownValue, match=r"--task.*translation, super-resolution"):
        tasks.infer(pair_net())
    with pytest.raises(UsageError, match="no task 'painting'"):
        tasks.infer(Generator(smooth.program, smooth.signature, "painting"))


class Point:
    def __init__(self, loaded):
        self.name, self.value, self.loaded = "colour", "colours:TASK", loaded

    def load(self):
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def installed(monkeypatch):
    def install(loaded):
        monkeypatch.setattr(tasks, "entry_points", lambda group: [Point(loaded)])
        tasks.all_tasks.cache_clear()

    yield install
    tasks.all_tasks.cache_clear()


def test_an_installed_package_adds_a_task(installed):
    class Colour(type(tasks.get("translation"))):
        name = "colour"

    installed(Colour())
    assert tasks.get("colour").name == "colour"


def test_a_package_that_fails_is_named(installed):
    installed(ImportError("no module named paint"))
    with pytest.raises(LeanganError, match=r"'colour' \(colours:TASK\).*no module named paint"):
        tasks.get("colour")


def test_an_mlp_that_puts_out_flat_pictures_is_judged_by_psnr():
    task = tasks.get("synthesis")
    flat = Port("digits", "image", "NC", (None, 16), (1, 16), (0.0, 1.0))
    generator = Generator(latent_net().program, Signature(latent_net().signature.inputs, (flat,)))
    reference = [torch.zeros(1, 16)]
    scores = task.quality(generator, [], reference, [torch.full((1, 16), 0.1)])
    assert set(scores) == {"psnr"}
    assert scores["psnr"].mean == pytest.approx(20, abs=1e-3)


def test_metrics_see_the_clipped_picture(smooth):
    low, lower = torch.full((1, 3, 16, 16), -1.0), torch.full((1, 3, 16, 16), -1.7)
    scores = tasks.get("translation").quality(smooth, [], [low], [lower])
    assert scores["psnr"].mean == 100


def ramp(path, side):
    """Grey from 0 to 1 from left to right: a part shows how much of the width it is."""
    level = np.linspace(0, 255, side).round().astype(np.uint8)
    Image.fromarray(np.tile(level, (side, 1))).convert("RGB").save(path)


def test_examples_are_seen_at_many_scales_but_never_enlarged(tmp_path):
    for number, side in enumerate((40, 200, 20)):
        ramp(tmp_path / f"{number}.png", side)
    shares = {}

    def make(picture, place):
        assert picture.rgb.shape == (3, 32, 32)
        span = float(picture.rgb.max() - picture.rgb.min())
        shares.setdefault(picture.name, []).append(span)
        return Sample(picture.name, (picture.rgb,))

    stream = picture_examples(tmp_path, make, seed=0, without=(), least=(32, 32))
    for _ in range(120):
        next(stream)
    assert min(shares["0.png"]) > 32 / 40 - 0.05
    assert 0.4 < min(shares["1.png"]) < 0.6
    assert len({round(share, 2) for share in shares["1.png"]}) > 20
    assert min(shares["2.png"]) > 0.95  # all of it: a part would be blurred more


def test_photos_that_decode_large_are_kept_small():
    picture = Picture("a.png", torch.rand(3, 300, 500))
    assert kept_size(picture, (32, 32)).rgb.shape[1:] == (64, 107)
    assert kept_size(picture, None) is picture
    assert kept_size(picture, (200, 200)) is picture


def test_varied_pictures_differ_in_colour_and_not_in_shape():
    rgb = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    made = [vary(rgb, seed) for seed in range(60)]
    same = [m for m in made if torch.equal(m, rgb)]
    assert 8 < len(same) < 30
    assert torch.equal(vary(rgb, 7), made[7])
    for picture in made:
        assert picture.shape == rgb.shape
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    shifts = [float((m.mean((1, 2)) - rgb.mean((1, 2))).abs().max()) for m in made]
    assert max(shifts) > 0.1
    grey = torch.stack([m.mean(0).flatten() for m in made])  # swapped ones too
    assert float(torch.corrcoef(torch.cat([rgb.mean(0).flatten()[None], grey]))[0].min()) > 0.6
