"""Models by name: each hub's real client against a server on this machine, and its faults as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import write_arrays
from paddle_sft.models import remote
from paddle_sft.models.hubs import HUBS, TEXT_FILES, missing_files
from paddle_sft.models.remote import cached_folder, local_adapter, local_folder
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME
from tests.models.hub_server import HubState, serving

NAME, LARGE = "owner/tiny", "owner/large"
SIZE = 24 << 20
SHARDS = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
_HAS_MODELSCOPE = find_spec("modelscope") is not None  # not for Python 3.9
MODELSCOPE = pytest.param("modelscope", marks=pytest.mark.skipif(not _HAS_MODELSCOPE, reason="it is not installed"))
each_hub = pytest.mark.parametrize("hub", [*(hub for hub in HUBS if hub != "modelscope"), MODELSCOPE])


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The files of a model in two shards; the second is large enough to be cut in the middle."""
    folder = tmp_path_factory.mktemp("content")
    write_arrays(folder / SHARDS[0], {"a": np.arange(50.0)}, checksums=True)
    write_arrays(folder / SHARDS[1], {"b": np.random.default_rng(0).standard_normal(60_000)}, checksums=True)
    index = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"):
        (folder / name).write_text(json.dumps({"file": name}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def server(contents, monkeypatch, tmp_path):
    """The server, with every hub's mirror pointing to it and every hub's cache in a folder of this test."""
    state = HubState({NAME: {**contents, "README.md": b"not needed", "pytorch_model.bin": b"nor this"}})
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "AISTUDIO_HUB_CACHE", *remote.OFFLINE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.chdir(tmp_path)
    with serving(state) as address:
        for hub in HUBS.values():
            monkeypatch.setenv(hub.mirror, address)
            monkeypatch.setenv(hub.home, str(tmp_path / "caches" / hub.home))
        yield state


def require_whole(folder, contents):
    assert missing_files(folder) == []
    for name, content in contents.items():
        assert (folder / name).read_bytes() == content, name


@each_hub
def test_a_model_by_name_is_fetched_whole_and_without_what_is_not_needed(server, contents, hub):
    folder = local_folder(NAME, hub)
    require_whole(folder, contents)
    assert not (folder / "pytorch_model.bin").exists() and not (folder / "README.md").exists()


@each_hub
def test_the_tokenizer_alone_is_fetched_without_weights(server, contents, hub, monkeypatch):
    folder = local_folder(NAME, hub, with_weights=False)
    assert (folder / "tokenizer.json").read_bytes() == contents["tokenizer.json"]
    assert not [name for name in server.files_asked() if name.endswith(".safetensors")]
    assert cached_folder(NAME, hub) is None  # it is no model yet
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local_folder(NAME, hub, with_weights=False) == folder
    monkeypatch.delenv("HF_HUB_OFFLINE")
    require_whole(local_folder(NAME, hub), contents)


ADAPTERS = {
    "ours": ("adapter.json", "adapter.safetensors"),
    "peft": ("adapter_config.json", "adapter_model.safetensors"),
    "paddlenlp": ("lora_config.json", "lora_model_state.pdparams"),
}


@each_hub
@pytest.mark.parametrize("names", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_by_name_is_fetched_without_what_is_not_needed(server, contents, hub, names, monkeypatch):
    files = {name: f"{name} itself".encode() for name in (*names, "tokenizer.json")}
    server.models["owner/adapter"] = {**files, "optimizer.pt": b"not needed", "adapter_model.bin": b"nor this"}
    folder = local_adapter("owner/adapter", hub)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in files} == files
    assert not (folder / "optimizer.pt").exists() and not (folder / "adapter_model.bin").exists()
    before = dict(server.sent)
    assert local_adapter("owner/adapter", hub) == folder
    assert {name: server.sent[name] for name in files} == {name: before[name] for name in files}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local_adapter("owner/adapter", hub) == folder


@each_hub
def test_a_name_without_an_adapter_says_what_is_missing(server, hub):
    with pytest.raises(ModelError, match=r"owner/tiny.*it has no config of an adapter \(adapter.json, adapter_config"):
        local_adapter(NAME, hub)
    server.models["owner/pickle"] = {"adapter_config.json": b"{}", "adapter_model.bin": b"x"}
    with pytest.raises(ModelError, match="it has no adapter_model.safetensors"):
        local_adapter("owner/pickle", hub)


@each_hub
def test_a_second_call_fetches_no_file_again(server, contents, hub):
    folder = local_folder(NAME, hub)
    before = dict(server.sent)
    assert local_folder(NAME, hub) == folder
    assert server.sent == before


@pytest.fixture
def large(server, contents):
    """A model of one file of 24 MiB: the clients write what they get by 10 MiB."""
    server.models[LARGE] = {"config.json": contents["config.json"], WEIGHTS_NAME: np.random.default_rng(1).bytes(SIZE)}
    return server.models[LARGE]


@each_hub
def test_a_connection_that_is_cut_twice_goes_on_where_it_stopped(server, large, hub):
    server.cut_after[WEIGHTS_NAME] = [11 << 20, 11 << 20]
    require_whole(local_folder(LARGE, hub), large)
    ranges = [given for _, path, given in server.requests if path.endswith(WEIGHTS_NAME) and given]
    assert len(ranges) >= 2 and server.sent[WEIGHTS_NAME] < 1.1 * SIZE  # nothing came twice, but for parts of a block


@each_hub
def test_a_run_that_was_stopped_goes_on_in_the_next(server, large, hub):
    server.cut_after[WEIGHTS_NAME] = [21 << 20, 0]  # the hub is gone for as long as this run lasts
    with pytest.raises(ModelError, match=LARGE):
        local_folder(LARGE, hub)
    server.cut_after.clear()
    server.sent.clear()
    require_whole(local_folder(LARGE, hub), large)
    assert server.sent[WEIGHTS_NAME] < 0.2 * SIZE


@pytest.mark.parametrize("hub", ["paddlenlp", "aistudio"])
def test_a_server_that_can_not_go_on_leaves_no_wrong_file(server, large, hub):
    """It answers with the whole file, which these clients put behind the part they have."""
    server.knows_ranges = False
    server.cut_after[WEIGHTS_NAME] = [11 << 20]
    with pytest.raises(ModelError, match="was removed; try again|Consistency check failed"):
        local_folder(LARGE, hub)
    require_whole(local_folder(LARGE, hub), large)


def put_part(server, hub, content):
    """Leave a part of LARGE where PaddleNLP's client looks for one; returns (where the file would be, its address)."""
    target = HUBS[hub].cached(LARGE) / WEIGHTS_NAME
    target.parent.mkdir(parents=True)
    target.with_name(f"{WEIGHTS_NAME}.incomplete").write_bytes(content)
    return target, HUBS[hub].address()


def test_upstream_still_puts_the_whole_file_behind_a_part(server, large):
    """paddlenlp 3.0.0b4. When this fails, `hubs._require_size` may go."""
    from paddlenlp.utils.download.bos_download import bos_download

    server.knows_ranges = False
    target, address = put_part(server, "paddlenlp", large[WEIGHTS_NAME][:1000])
    cache = str(target.parents[2])
    bos_download(LARGE, WEIGHTS_NAME, cache_dir=cache, endpoint=address, resume_download=True)
    assert target.stat().st_size == SIZE + 1000


def test_upstream_still_fails_on_a_part_that_is_whole(server, large):
    """paddlenlp 3.0.0b4. When this fails, `hubs._drop_overlong` may go."""
    from paddlenlp.utils.download.bos_download import bos_download

    target, address = put_part(server, "paddlenlp", large[WEIGHTS_NAME])
    cache = str(target.parents[2])
    with pytest.raises(Exception, match="416"):
        bos_download(LARGE, WEIGHTS_NAME, cache_dir=cache, endpoint=address, resume_download=True)
    require_whole(local_folder(LARGE), large)


@pytest.mark.parametrize("hub", ["huggingface", MODELSCOPE])
def test_bytes_that_changed_on_the_way_are_seen(server, contents, hub):
    server.spoilt = [SHARDS[1]]
    with pytest.raises(ModelError, match=f"{SHARDS[1]} was damaged on its way|Hash mismatch for {SHARDS[1]}"):
        local_folder(NAME, hub)
    server.spoilt = []
    require_whole(local_folder(NAME, hub), contents)


@each_hub
def test_a_single_file_and_a_pickled_one_are_found_too(server, contents, hub):
    text = {name: contents[name] for name in ("config.json", "tokenizer.json")}
    server.models["owner/single"] = {**text, WEIGHTS_NAME: contents[SHARDS[0]], PDPARAMS_NAME: b"old"}
    server.models["owner/old"] = {**text, PDPARAMS_NAME: b"old"}
    single, old = local_folder("owner/single", hub), local_folder("owner/old", hub)
    assert (single / WEIGHTS_NAME).is_file() and not (single / PDPARAMS_NAME).exists()
    assert (old / PDPARAMS_NAME).read_bytes() == b"old"


@each_hub
def test_a_model_with_nothing_but_a_pickle_of_torch_is_refused(server, contents, hub):
    server.models["owner/torch"] = {"config.json": contents["config.json"], "pytorch_model.bin": b"x"}
    with pytest.raises(ModelError, match=r"'owner/torch' from .* at http://127.* can't be used: it has n.*safetensors"):
        local_folder("owner/torch", hub)


@each_hub
def test_a_misspelt_name_is_called_unknown_and_nothing_else(server, hub):
    with pytest.raises(ModelError, match=r"'owner/tinny' is no folder here, and .* has no model of this name.*from_hf"):
        local_folder("owner/tinny", hub)


@each_hub
@pytest.mark.parametrize("status, code", [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")])
def test_a_refusal_names_the_token_that_is_needed(server, hub, status, code):
    server.refused[NAME] = (status, code)
    token = HUBS[hub].token or "check the name"
    with pytest.raises(ModelError, match=rf"refuses '{NAME}' \(HTTP {status}\).*{token}"):
        local_folder(NAME, hub)


@each_hub
def test_a_hub_that_is_not_there_is_called_unreachable_with_the_mirror_variable(server, hub, monkeypatch):
    monkeypatch.setenv(HUBS[hub].mirror, "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=f"at http://127.0.0.1:9 can't be reached: .*{HUBS[hub].mirror} to a mirror"):
        local_folder(NAME, hub)


@each_hub
def test_a_copy_in_the_cache_serves_when_the_hub_is_not_there(server, contents, hub, monkeypatch):
    folder = local_folder(NAME, hub)
    monkeypatch.setenv(HUBS[hub].mirror, "http://127.0.0.1:9")
    assert local_folder(NAME, hub) == folder


@each_hub
def test_offline_asks_nobody_and_takes_what_is_there(server, contents, hub, monkeypatch):
    folder = local_folder(NAME, hub)
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local_folder(NAME, hub) == folder == cached_folder(NAME, hub)
    assert server.requests == []


@each_hub
def test_offline_says_what_is_missing_and_where_it_looked(server, contents, hub, monkeypatch):
    folder = local_folder(NAME, hub)
    (folder / SHARDS[1]).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        local_folder(NAME, hub)
    assert f"looked in {folder}, missing there: {SHARDS[1]}" in str(caught.value)
    assert "HF_HUB_OFFLINE=1 forbids" in str(caught.value) and cached_folder(NAME, hub) is None
    with pytest.raises(ModelError, match="missing there: the whole folder"):
        local_folder("owner/other", hub)


@each_hub
def test_a_full_disk_is_called_full(server, hub, monkeypatch, tmp_path):
    """/dev/full is a file on a disk without room: the first write into a model's file meets it."""
    real = open

    def full(file, mode="r", *given, **named):
        inside = str(file).startswith(str(tmp_path / "caches")) and ("a" in mode or "w" in mode) and "b" in mode
        return real("/dev/full" if inside else file, mode, *given, **named)

    monkeypatch.setattr("builtins.open", full)
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *given, **named: full(self, mode, *given, **named))
    with pytest.raises(ModelError, match=f"no room for '{NAME}' .*No space left.*{HUBS[hub].home}"):
        local_folder(NAME, hub)


def test_a_command_takes_a_name_where_it_takes_a_folder(server, model_folder, capsys):
    from paddle_sft.cli.entry import run

    server.models[NAME] = {path.name: path.read_bytes() for path in model_folder("llama", "hf").iterdir()}
    words = ["--model_name_or_path", NAME, "--from_hf_hub", "--prompt", "red cat", "--max_new_tokens", "2"]
    with patch.dict(os.environ):  # it settles threads for its own process
        assert run("paddle_sft.cli.generate", [*words, "--device", "cpu"]) == 0, capsys.readouterr().err
    assert WEIGHTS_NAME in server.files_asked()


def test_a_hub_that_answers_with_a_fault_of_its_own_is_quoted(server):
    server.refused[NAME] = (503, "")
    with pytest.raises(ModelError, match="the Hugging Face hub at http://127.* answers HTTP 503; try again later"):
        local_folder(NAME, "huggingface")


def test_the_client_of_modelscope_is_asked_for_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(ModelError, match="pip install modelscope"):
        local_folder(NAME, "modelscope")


# ---- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_here_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    assert local_folder(str(tmp_path / "model")) == tmp_path / "model"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_folder("~/model") == tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    assert local_folder("model", "huggingface") == Path("model") == cached_folder("model")


def test_a_path_that_is_not_there_is_answered_with_the_nearest_folder(tmp_path):
    (tmp_path / "llama-7b").mkdir()
    with pytest.raises(ModelError, match=r"no model folder .*lama-7b; did you mean .*llama-7b\?"):
        local_folder(str(tmp_path / "lama-7b"))
    with pytest.raises(ModelError, match="folders in .*: llama-7b"):
        local_folder(str(tmp_path / "xyz"))
    with pytest.raises(ModelError, match="nowhere is no folder either"):
        local_folder(str(tmp_path / "nowhere" / "model"))


@pytest.mark.parametrize("name", ["./model", "../model", "~/model", "models/", "a/b/c"])
def test_what_looks_like_a_path_never_goes_to_a_hub(server, name):
    with pytest.raises(ModelError, match="no model folder"):
        local_folder(name)
    assert server.requests == [] and cached_folder(name) is None


def test_a_clone_without_git_lfs_is_refused_by_its_files(model_folder, tmp_path):
    folder = shutil.copytree(model_folder(), tmp_path / "clone")
    local_folder(str(folder))
    for name in (WEIGHTS_NAME, "tokenizer.model"):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match=r"2 files are git-lfs pointers.*\(model.safetensors, tokenizer.model\).*pull"):
        local_folder(str(folder))


@pytest.mark.parametrize("given", [{}, {"HF_HOME": "~/hf"}, {"HF_HUB_CACHE": "$HOME/hub"}, {"XDG_CACHE_HOME": "/x"}])
def test_what_others_fetched_from_hugging_face_is_found(given, monkeypatch):
    """Its client reads the variables once, when it is imported."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert HUBS["huggingface"].cached("a/b").parents[2] == Path(theirs.strip())


@pytest.mark.parametrize("home", ["", "somewhere"])
def test_what_others_fetched_from_paddlenlps_registry_is_found(home, monkeypatch, tmp_path):
    from paddlenlp.utils import env

    monkeypatch.delenv("PPNLP_HOME", raising=False)
    if home:
        monkeypatch.setenv("PPNLP_HOME", str(tmp_path / home))
    assert HUBS["paddlenlp"].cached("a/b").parents[1] == Path(env._get_ppnlp_home()) / "models"


def test_text_files_hold_no_weights():
    assert not [name for name in TEXT_FILES if name.endswith((".safetensors", ".pdparams", ".bin"))]
