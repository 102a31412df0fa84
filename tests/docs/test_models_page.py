"""docs/models.md says what was measured and what the code does."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from paddle_sft.arguments.hub import HUB_KEYS
from paddle_sft.core.errors import ModelError
from paddle_sft.models.catalogue import FAMILIES, find_family
from paddle_sft.models.hubs import HUBS
from paddle_sft.models.survey import VERIFIED
from tests.docs.reading import ROOT

PAGES = ("docs/models.md", "docs/models_zh.md")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_models_table", ROOT / "tools" / "make_models_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_what_was_measured(tool, capsys):
    assert tool.main(["--check"]) == 0, f"{capsys.readouterr().out}; run make docs"


def test_a_number_that_changed_makes_a_page_out_of_date(tool, monkeypatch, tmp_path, capsys):
    content = json.loads(VERIFIED.read_text())
    content["families"]["llama"]["logits"] *= 10
    (tmp_path / "verified.json").write_text(json.dumps(content))
    monkeypatch.setattr(tool, "VERIFIED", tmp_path / "verified.json")
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().out.strip() == f"out of date: {', '.join(PAGES)}"


def test_every_family_was_measured_and_no_other(tool):
    content = json.loads(VERIFIED.read_text())
    assert list(content["families"]) == list(FAMILIES)
    for found in content["families"].values():
        assert all(0 < found[what] <= 1e-5 for what in ("logits", "packed", "gradients", "merged"))


def test_what_is_called_not_verified_is_refused_by_name(tool):
    for name in tool.NOT_VERIFIED:
        with pytest.raises(ModelError, match=f"model_type is '{name}'"):
            find_family({"model_type": name}, "config.json")


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_hubs_has_the_variables_that_are_read(page):
    key_of = {key.hub: name for name, key in HUB_KEYS.items()}
    rows = re.findall(r"^\| ([^|]*) \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", (ROOT / page).read_text(), re.MULTILINE)
    told = {row[0]: [cell.strip(" `") for cell in row[1:]] for row in rows}
    for name, hub in HUBS.items():
        assert told[hub.title] == [key_of.get(name, ""), hub.mirror, hub.token, hub.home]
