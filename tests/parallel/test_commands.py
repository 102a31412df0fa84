"""Commands under Paddle's own launcher: `make parallel`."""

from __future__ import annotations

import os

import pytest

from tests.e2e.conftest import lab  # noqa: F401
from tests.e2e.test_commands import require_two_ranks_as_one

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="a quarter of a minute: make parallel sets PADDLE_SFT_PARALLEL"
)


def test_two_ranks_of_lora_train_as_one_and_only_the_first_writes(lab, tmp_path):  # noqa: F811
    require_two_ranks_as_one(lab, tmp_path, "paddle", dict(lora=True))
