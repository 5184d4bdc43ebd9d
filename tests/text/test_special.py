"""Special tokens are found where published checkpoints name them, in transformers' order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipstone.errors import CheckpointError
from skipstone.text import Text
from tests.text.checkpoints import BOS, BOTH, EOS, FOLDERS, MASK, NAMES, TURN, VOCAB, Folder, write
from tests.text.record import expected_ids

RECORDED = expected_ids()


def _read(directory: Path, vocab: int = VOCAB) -> Text:
    return Text.read(directory, MASK, EOS, vocab)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    assert _read(write(FOLDERS[name], tmp_path)).encode("a<b>é") == RECORDED[name]


def test_a_bos_that_only_the_map_names_is_one_id_more(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with_bos = _read(write(FOLDERS["map only, described"], tmp_path / "a")).encode("hello")
    without = _read(write(FOLDERS["nothing"], tmp_path / "b")).encode("hello")
    assert with_bos == [BOS, *without]


@pytest.mark.parametrize("name", ["additional", "added tokens described"])
def test_tokens_that_other_files_name_stay_text_in_a_prompt(name: str, tmp_path: Path) -> None:
    text = _read(write(FOLDERS[name], tmp_path))
    ids = text.encode("x<turn>y<s><mask>")
    assert [ids.count(token) for token in (BOS, TURN, MASK)] == [1, 0, 0]


def test_an_id_that_contradicts_the_tokenizer_is_refused(tmp_path: Path) -> None:
    write(Folder(BOTH, None, {"<turn>": 5}), tmp_path)
    with pytest.raises(CheckpointError, match=r"gives '<turn>' the id 5, but .* it has 258"):
        _read(tmp_path)


def test_a_token_beyond_the_model_is_refused(tmp_path: Path) -> None:
    write(Folder(BOTH, None, {"<far>": 260}), tmp_path)
    with pytest.raises(CheckpointError, match="has id 260, beyond the 260 ids"):
        _read(tmp_path, 260)


def test_a_name_that_nobody_uses_needs_no_room(tmp_path: Path) -> None:
    write(Folder({**BOTH, "pad_token": "<pad>"}), tmp_path)
    assert _read(tmp_path, 260).encode("a")[0] == BOS


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder is a list, must be an object"),
        ({"added_tokens_decoder": {"1": {}}}, "added token '1' has no text under 'content'"),
        ({"added_tokens_decoder": {"²": {"content": "x"}}}, "must be a whole number"),
        ({"added_tokens_decoder": {"9" * 400: {"content": "x"}}}, "must be a whole number"),
    ],
)
def test_broken_descriptions(tmp_path: Path, config: dict[str, object], message: str) -> None:
    write(Folder(config), tmp_path)
    with pytest.raises(CheckpointError) as caught:
        _read(tmp_path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def _with_normalizer(directory: Path, *steps: dict[str, object]) -> Path:
    write(Folder(BOTH), directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["normalizer"] = {"type": "Sequence", "normalizers": list(steps)}
    path.write_text(json.dumps(content), "utf-8")
    return directory


def _replaces(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def test_a_normaliser_that_makes_megabytes_is_refused(tmp_path: Path) -> None:
    grow = _replaces({"String": "a"}, "a" * 100)
    with pytest.raises(CheckpointError, match="normalizer may make 1000000 characters of one"):
        _read(_with_normalizer(tmp_path, grow, grow, grow))


def test_a_normaliser_that_takes_for_ever_is_an_error(tmp_path: Path) -> None:
    text = _read(_with_normalizer(tmp_path, _replaces({"Regex": "(a+)+$"}, "x")))
    with pytest.raises(CheckpointError, match="the tokenizer cannot read the prompt"):
        text.encode("a" * 100 + "!")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_file_of_gigabytes_is_refused_unread(tmp_path: Path, name: str) -> None:
    write(Folder(BOTH), tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match=rf"{name} has 1024 MB, more than"):
        _read(tmp_path)


def test_templates_of_all_places(tmp_path: Path) -> None:
    write(Folder(BOTH), tmp_path)

    def read() -> list[int]:
        return _read(tmp_path).encode("hi")

    def say(word: str) -> str:
        return f"{word}{{{{ messages[0].content }}}}"

    def is_from(word: str) -> bool:
        return "".join(map(_read(tmp_path).token, read())) == f"{word}hi"

    listed = [{"name": "default", "template": say("L")}, {"name": "rag", "template": say("R")}]
    config = {**BOTH, "chat_template": listed}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**BOTH}))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": say("P")}))
    assert is_from("P")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert is_from("L")
    (tmp_path / "chat_template.jinja").write_text(say("F"))
    assert is_from("F")
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text(say("T"))
    assert is_from("F")
    turns = [{"role": "user", "content": "hi"}]
    assert _read(tmp_path).render(turns, tools=[]) == "Thi"
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="has the chat templates tool_use and none named"):
        read()


def test_every_name_is_a_token(tmp_path: Path) -> None:
    text = _read(write(Folder(BOTH), tmp_path))
    assert tuple(map(text.token, range(BOS, MASK + 1))) == NAMES
