"""Every task of ours against the base test case."""

import numpy as np
import pytest
from PIL import Image
from task_nets import Smooth, Twice, image_generator, latent_net, pair_net, voice_net

from leangan import tasks
from leangan.testing.tasks import TaskCase


def write_pictures(folder, count, size=(90, 70)):
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


class TestTranslation(TaskCase):
    @pytest.fixture
    def task(self):
        return tasks.get("translation")

    @pytest.fixture(scope="class")
    def generator(self):
        return image_generator(Smooth(), value_range=(-1.0, 1.0))

    @pytest.fixture
    def source(self, tmp_path):
        return write_pictures(tmp_path / "photos", 8)


class TestSuperResolution(TestTranslation):
    @pytest.fixture
    def task(self):
        return tasks.get("super-resolution")

    @pytest.fixture(scope="class")
    def generator(self):
        return image_generator(Twice(), factor=2)


class TestSynthesis(TaskCase):
    @pytest.fixture
    def task(self):
        return tasks.get("synthesis")

    @pytest.fixture(scope="class")
    def generator(self):
        return latent_net()

    @pytest.fixture
    def source(self):
        return None


class TestSynthesisFromFiles(TestSynthesis):
    @pytest.fixture
    def source(self, tmp_path):
        folder = tmp_path / "latents"
        folder.mkdir()
        for i in range(7):
            np.save(folder / f"{i}.npy", np.random.default_rng(i).standard_normal(8))
        return folder


class TestVocoder(TaskCase):
    @pytest.fixture
    def task(self):
        return tasks.get("vocoder")

    @pytest.fixture(scope="class")
    def generator(self):
        return voice_net()

    @pytest.fixture
    def source(self, tmp_path):
        folder = tmp_path / "mels"
        folder.mkdir()
        for i in range(7):
            np.save(folder / f"{i}.npy", np.random.default_rng(i).standard_normal((1, 4, 41)))
        return folder


class TestArrays(TaskCase):
    @pytest.fixture
    def task(self):
        return tasks.get("arrays")

    @pytest.fixture(scope="class")
    def generator(self):
        return pair_net()

    @pytest.fixture
    def source(self, tmp_path):
        folder = tmp_path / "pairs"
        folder.mkdir()
        for i in range(7):
            rng = np.random.default_rng(i)
            np.savez(folder / f"{i}.npz", z=rng.standard_normal((1, 4)), c=rng.random((1, 2)))
        return folder
