"""What a rank reads of a folder is exactly its part of every weight, and the parts together are the whole."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.models.config import read_config, to_paddlenlp
from paddle_sft.models.hub import build_empty, unique_parameters
from paddle_sft.models.part_of import PartOf
from paddle_sft.models.renames import Piece, rename_table
from paddle_sft.models.split import find_parts
from paddle_sft.models.weights import ModelWeights, _pieces_of_part
from tests import tiny

DEGREE = 2


@pytest.fixture(scope="module", params=[("llama", "paddle"), ("qwen2", "hf"), ("phi3", "paddle"), ("phi3", "hf")],
                ids=lambda param: "-".join(param))  # fmt: skip
def folder(request, tmp_path_factory):
    family, layout = request.param
    return tiny.make_model(tmp_path_factory.mktemp("split") / "model", family, layout=layout)


def parts_of(model, config, rank):
    settings = to_paddlenlp(config)
    settings.tensor_parallel_degree, settings.tensor_parallel_rank = DEGREE, rank
    shapes = {name: tuple(one.shape) for name, one in unique_parameters(model).items()}
    return find_parts(type(model), settings, shapes)


def test_a_rank_reads_its_part_of_every_weight(folder):
    config = read_config(folder)
    model = build_empty(config, "float32")
    renames = rename_table(type(model), model.config)
    whole = ModelWeights(folder, renames)
    together = {}
    for rank in range(DEGREE):
        weights, parts = ModelWeights(folder, renames), parts_of(model, config, rank)
        assert len(parts) > 2 * model.config.num_hidden_layers
        for name, part in parts.items():
            expected = part.take(np.array(whole.read(name)))
            weights.keep_part(name, part)
            assert weights.spec(name).shape == expected.shape
            found = np.full(expected.shape, np.nan, np.float32)
            assert weights.fill(name, found, "F32") == ""
            np.testing.assert_array_equal(found, expected)
            part.put(found, together.setdefault(name, np.full(part.shape, np.nan, np.float32)))
    for name, array in together.items():
        np.testing.assert_array_equal(array, whole.read(name))


def test_ranks_have_different_parts_of_the_same_size(folder):
    config = read_config(folder)
    model = build_empty(config, "float32")
    first, second = (parts_of(model, config, rank) for rank in range(DEGREE))
    for name, part in first.items():
        assert part.ranges != second[name].ranges
        sizes = [sum(last - begin for begin, last in one.ranges) for one in (part, second[name])]
        assert sizes == [part.shape[part.axis] // DEGREE] * DEGREE


def test_a_part_of_several_ranges_goes_back_where_it_came_from():
    whole = np.arange(24).reshape(2, 12)
    part = PartOf((2, 12), 1, ((1, 3), (7, 9)))
    taken = part.take(whole)
    np.testing.assert_array_equal(taken, whole[:, [1, 2, 7, 8]])
    back = np.zeros_like(whole)
    part.put(taken, back)
    np.testing.assert_array_equal(back[:, [1, 2, 7, 8]], taken)
    assert back.sum() == taken.sum()
    for column in range(12):
        at = part.find((1, column))
        assert at is None if column not in (1, 2, 7, 8) else taken[at] == whole[1, column]


def test_a_part_of_a_weight_that_several_tensors_make_up():
    """The second of three tensors [4, 3] that lie side by side, transposed, in a weight [3, 12]."""
    piece = Piece("w", "h", True, (slice(None), slice(4, 8)))
    found = list(_pieces_of_part(piece, (4, 3), PartOf((3, 12), 1, ((2, 6), (7, 9)))))
    stored, whole = np.arange(12).reshape(4, 3), np.full((3, 12), -1)
    whole[:, 4:8] = stored.T
    target = np.full((3, 6), -1)
    for one in found:
        target[one.paddle_at] = stored[one.hf_at].T
    np.testing.assert_array_equal(target, whole[:, [2, 3, 4, 5, 7, 8]])
