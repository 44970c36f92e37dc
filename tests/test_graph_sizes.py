import pytest
import torch

import leangan as lg
from leangan.errors import UsageError
from leangan.graph.sizes import fix_sizes
from leangan.runtimes import fitting, get
from leangan.testing.runtimes import tiny_generator, tiny_int8_generator


@pytest.mark.parametrize("make", [tiny_generator, tiny_int8_generator])
def test_one_size_computes_the_same_there(make):
    free = make()
    fixed = fix_sizes(free, {"H": 48, "W": 40})
    assert fixed.signature.inputs[0].shape == (1, 3, 48, 40)
    assert fixed.signature.outputs[0].shape == (1, 3, 96, 80)
    (x,) = fixed.example(seed=3)
    assert torch.equal(fixed(x), free(x))
    assert not [n for n in fixed.program.graph.nodes if "sym_size" in str(n.target)]
    assert fixed.history[-1].settings == {"N": 1, "H": 48, "W": 40}


def test_nothing_to_fix_is_the_generator_itself():
    fixed = fix_sizes(tiny_generator())
    assert fix_sizes(fixed) is fixed


def test_a_size_that_the_network_cannot_take_is_named():
    generator = tiny_generator()
    port = generator.signature.inputs[0]
    assert port.multiple == (1, 1, 2, 2)
    with pytest.raises(UsageError, match="multiples of 2; H 33 is none"):
        fix_sizes(generator, {"H": 33})


def test_runtimes_with_free_sizes_get_the_generator_as_it_is():
    generator = tiny_generator()
    assert fitting(generator, get("openvino")) is generator


def test_usual_sizes_can_be_said_of_a_file_that_has_some(tmp_path):
    path = tiny_generator().save(tmp_path / "g.pt2")
    again = lg.load(path, example_inputs=(1, 3, 48, 40))
    assert again.signature.inputs[0].typical == (1, 3, 48, 40)
    assert again.signature.outputs[0].typical == (1, 3, 96, 80)
    assert again.signature.inputs[0].shape == (None, 3, None, None)
    with pytest.raises(UsageError, match=r"\(1, 4, 48, 40\) does not fit"):
        lg.load(path, example_inputs=(1, 4, 48, 40))
    with pytest.raises(UsageError, match="2 sizes were given, tiny takes 1"):
        lg.load(path, example_inputs=[(1, 3, 48, 40), (1, 3, 48, 40)])
