import functools

import pytest

from leangan.runtimes import fitting, litert_
from leangan.runtimes.litert_ import LiteRT
from leangan.testing.runtimes import RuntimeTestCase, tiny_generator, tiny_int8_generator


@pytest.fixture(autouse=True, scope="module")
def _convert_once():
    """The converter takes seconds, whatever the size of the network."""
    made = {}

    def once(generator):
        if id(generator) not in made:
            made[id(generator)] = generator, convert(generator)
        return made[id(generator)][1]

    convert = litert_.to_tflite
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litert_, "to_tflite", once)
        yield


@functools.cache
def tiny(quantized):
    return fitting(tiny_int8_generator() if quantized else tiny_generator(), LiteRT())


class TestLiteRT(RuntimeTestCase):
    runtime = LiteRT()

    def generator(self, *, quantized):
        return tiny(quantized)
