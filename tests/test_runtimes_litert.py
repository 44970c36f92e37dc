from leangan.runtimes.litert_ import LiteRT
from leangan.testing.runtimes import RuntimeTestCase


class TestLiteRT(RuntimeTestCase):
    runtime = LiteRT()
