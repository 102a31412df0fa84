from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_sft.core.atomic import write_json
from paddle_sft.core.later import perform, written_later
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, write_tensors


def test_files_are_written_in_order_when_the_actions_are_called_with_what_was_given(tmp_path):
    content, done = {"step": 1}, []
    with written_later() as actions:
        write_json(tmp_path / "state.json", content)
        perform(lambda: done.append((tmp_path / "state.json").is_file()))
        found = write_tensors(tmp_path / "w", [TensorSpec("w", "F32", (2,))], lambda _: np.ones(2, np.float32))
        content["step"] = 2
    assert list(tmp_path.iterdir()) == [] and done == []
    for action in actions:
        action()
    assert json.loads((tmp_path / "state.json").read_text()) == {"step": 1}
    assert done == [True]
    np.testing.assert_array_equal(TensorFile(tmp_path / "w").read("w"), np.ones(2))
    assert found["w"] != "00000000"  # known now


def test_outside_everything_is_done_at_once(tmp_path):
    done = []
    with pytest.raises(ValueError, match="from within"), written_later():
        raise ValueError("from within")
    perform(lambda: done.append(1))
    write_json(tmp_path / "state.json", {})
    assert done == [1] and (tmp_path / "state.json").is_file()
