"""What a prompt may be: in Python, as an argument, on standard input, and in files."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipstone import Engine, Model, Result, load
from skipstone.cli.main import run
from skipstone.cli.prompts import read_questions
from skipstone.errors import PromptError
from skipstone.testing.checkpoint import BOS, EOT, MASK, TEMPLATE, write_checkpoint

IDS = [1, 2, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("prompts") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load(folder, device="cpu")


@pytest.fixture
def engine(model: Model) -> Engine:
    return Engine(model, gen_length=4)


# ---------------------------------------------------------------- Python


@pytest.mark.parametrize(
    "ids",
    [
        tuple(IDS),
        range(1, 4),
        iter(IDS),
        torch.tensor(IDS),
        torch.tensor([IDS]),
        torch.tensor(IDS, dtype=torch.int32),
        np.array(IDS),
        np.array([IDS], dtype=np.uint16),
        [np.int64(1), 2, torch.tensor(3)],
        list(np.array(IDS)),
        list(torch.tensor(IDS)),
        [IDS],
        [torch.tensor(IDS)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_ids_in_whatever_holds_them(engine: Engine, ids: Any) -> None:
    assert engine.generate(ids).tokens == engine.generate(IDS).tokens


def test_a_conversation_is_put_into_the_template(model: Model, engine: Engine) -> None:
    alone = [{"role": "user", "content": "hi"}]
    assert engine.generate(alone).tokens == engine.generate("hi").tokens
    turns = [{"role": "system", "content": "brief"}, *alone, {"role": "assistant", "content": "yo"}]
    ids = model.text.encode(turns)
    assert (ids.count(EOT), ids[0]) == (3, BOS)
    assert "".join(map(model.text.token, ids)).count("brief") == 1


def test_special_text_in_any_turn_stays_text(model: Model) -> None:
    turns = [
        {"role": "user", "content": " <|eot_id|>a<|mdm_mask|> "},
        {"role": "assistant", "content": "ok<|eot_id|>"},
        {"role": "user", "content": "<|startoftext|>b"},
    ]
    ids = model.text.encode(turns)
    assert [ids.count(token) for token in (BOS, EOT, MASK)] == [1, 3, 0]


def test_a_tensor_of_rows_is_a_batch(engine: Engine) -> None:
    rows = [[1, 2], [3, 4]]
    expected = [result.tokens for result in engine.generate_batch(rows)]
    for given in (torch.tensor(rows), np.array(rows)):
        assert [result.tokens for result in engine.generate_batch(given)] == expected
    texts = engine.generate_batch(np.array(["a", "b"]))
    assert [r.tokens for r in texts] == [r.tokens for r in engine.generate_batch(["a", "b"])]


TURN = {"role": "user", "content": "hi"}
NO_PROMPTS: list[tuple[Any, str]] = [
    (None, "the prompt is None; give text"),
    (5, "the prompt is 5; give text"),
    (1.5, "the prompt is 1.5; give text"),
    (object, "the prompt is <class 'object'>; give text"),
    (b"hi", "may be text or ids; give text: prompt.decode('utf-8')"),
    (bytearray(b"hi"), "may be text or ids; give text"),
    (memoryview(b"hi"), "may be text or ids; give text"),
    ([], "the prompt is empty; give at least one token id"),
    ((), "the prompt is empty"),
    ([[]], "the prompt is empty"),
    (torch.tensor([]), "ids of type torch.float32; token ids are whole numbers"),
    (torch.tensor([], dtype=torch.long), "the prompt is empty"),
    (torch.tensor([1, 2]).to_sparse(), "a tensor of layout torch.sparse_coo, whose values cannot"),
    (torch.zeros(3, dtype=torch.long, device="meta"), "the prompt is a meta tensor"),
    (torch.tensor([1.0]), "ids of type torch.float32; token ids are whole numbers"),
    (torch.tensor([True]), "ids of type torch.bool"),
    (np.array([1.5]), "ids of type float64"),
    (np.array([True]), "ids of type bool"),
    (np.array(["a"]), "ids of type <U1"),
    (torch.tensor(3), "ids of shape [], must be [L] or [1, L]"),
    (np.int64(3), "ids of shape [], must be [L] or [1, L]"),
    (torch.ones(2, 3, dtype=torch.long), "shape [2, 3], which are 2 prompts; give them to gen"),
    (np.ones((2, 3), dtype=int), "shape [2, 3], which are 2 prompts; give them to generate_batch"),
    (torch.ones(1, 1, 3, dtype=torch.long), "shape [1, 1, 3], must be [L] or [1, L]"),
    ([[1], [2]], "the prompt holds several prompts; give them to generate_batch"),
    (["hi", "there"], "holds 'hi', which is text; give one text alone, or several to generate_b"),
    ([1, "a"], "the prompt holds 'a'; token ids are whole numbers"),
    ([1, None], "the prompt holds None; token ids are whole numbers"),
    ([1, 2.5], "the prompt holds 2.5; token ids are whole numbers"),
    ([True], "the prompt holds True; token ids are whole numbers"),
    ([torch.tensor(1.5)], "token ids are whole numbers"),
    ([10**5000], "holds id a very large number, outside the model's vocabulary of 264"),
    ({1, 2}, "the prompt is {1, 2}; give text"),
    (TURN, "a conversation is a list: write [message]"),
    ({"input_ids": [1, 2]}, "give its ids: prompt['input_ids']"),
    ([TURN, "x"], "message 1 is 'x'; a message is"),
    ([{"role": "user"}], "has None under 'content', must be text"),
    ([{"content": "x"}], "has None under 'role'; write 'user'"),
    ([{"role": 3, "content": "x"}], "has 3 under 'role'"),
    ([{"role": "user", "content": " "}], "the prompt is empty"),
    ([{"role": "user", "content": 3}], "has 3 under 'content', must be text"),
    ([{"role": "<|eot_id|>", "content": "x"}], "has '<|eot_id|>' outside of its content"),
    ([{"role": "user", "content": "a\udcff"}], "not valid Unicode"),
    ([{**TURN, "extra": object()}], "a conversation is made of text, numbers, lists and dicts"),
    (itertools.repeat(1), "more than the model's 128"),
    (range(10**12), "the prompt has"),
    ("x" * 4_000_001, "has 4000001 characters, more than 4000000; shorten it"),
]


@pytest.mark.parametrize(("prompt", "message"), NO_PROMPTS, ids=[m[:30] for _, m in NO_PROMPTS])
def test_what_is_no_prompt_is_a_prompt_error(engine: Engine, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        engine.generate(prompt)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "was given None; it needs a list"),
        ("hi", "was given 'hi'; it needs a list"),
        (b"hi", "was given b'hi'"),
        (3, "was given 3"),
        ([], "at least one prompt"),
        (TURN, "it needs a list"),
        (torch.tensor(IDS), "ids of shape [3], which are one prompt; give it to generate"),
        (np.array(IDS), "ids of shape [3], which are one prompt"),
        ([[1], None], "prompt 1 is None"),
        ([TURN, TURN], "prompt 0 is {'content"),
        ([[1], b"x"], "prompt 1 is b'x'"),
        ([[1], [[1], [2]]], "prompt 1 holds several prompts"),
    ],
    ids=str,
)
def test_what_is_no_batch_is_a_prompt_error(engine: Engine, prompts: Any, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        engine.generate_batch(prompts)
    assert message in str(caught.value)


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    bare = Engine(load(write_checkpoint(tmp_path, template=None), device="cpu"), gen_length=4)
    (note,) = (n for n in bare.generate("hi").notes if "chat template" in n)
    assert "the prompt was encoded as it stands" in note
    assert not any("chat template" in n for n in bare.generate([104, 105]).notes)
    mixed: list[Result] = bare.generate_batch(["hi", [104, 105]])
    assert [any("chat template" in n for n in result.notes) for result in mixed] == [True, False]
    with pytest.raises(PromptError, match="has no chat template, which messages need; give"):
        bare.generate([TURN])


def test_a_model_with_a_template_says_nothing(engine: Engine) -> None:
    assert not any("chat template" in note for note in engine.generate("hi").notes)


# ---------------------------------------------------------------- standard input

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = run([*arguments, "--model", str(folder), "--device", "cpu"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return called


SHORT = ("--gen-length", "4", "--json")


def _tokens(out: str) -> list[Any]:
    return [json.loads(line)["tokens"] for line in out.splitlines()]


def test_generate_reads_standard_input(call: Call) -> None:
    _, expected, _ = call("generate", "hi", *SHORT)
    for given in (b"hi\n", b"hi\r\n", b"\xef\xbb\xbfhi", "hi".encode("utf-16")):
        code, out, err = call("generate", "-", *SHORT, given=given)
        assert (code, _tokens(out)) == (0, _tokens(expected)), err


def test_a_prompt_on_standard_input_has_lines(model: Model, call: Call) -> None:
    _, expected, _ = call("generate", "a\nb", *SHORT)
    assert _tokens(call("generate", "-", *SHORT, given=b"a\nb\n")[1]) == _tokens(expected)


def test_every_command_with_a_prompt_reads_standard_input(call: Call, tmp_path: Path) -> None:
    specs = ("cache=dual", "cache=dual")
    short = SHORT[:2]
    code, _, err = call("trace", "-", "-o", str(tmp_path / "t"), *short, given=b"hi")
    assert code == 0, err
    pair = ("--a", specs[0], "--b", specs[1])
    assert call("compare", "-", *pair, *short, given=b"hi")[0] == 0
    assert call("diagnose", *specs, "-", *short, given=b"hi")[0] == 0


def test_a_batch_on_standard_input(call: Call) -> None:
    _, expected, _ = call("generate", "a", *SHORT)
    for given in (b"a\nb\n", b'{"prompt": "a"}\n{"prompt": "b"}', b'["a", "b"]'):
        code, out, err = call("generate", "--batch-file", "-", *SHORT, given=given)
        assert (code, len(out.splitlines())) == (0, 2), err
        assert _tokens(out)[0] == _tokens(expected)[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "standard input is empty; give at least one word"),
        (b"\n\n", "standard input is empty"),
        (b"\xff", "PROMPT - is not UTF-8 text"),
        (b"a\x00b", "PROMPT - holds NUL characters"),
    ],
)
def test_standard_input_that_is_no_prompt(call: Call, given: bytes, message: str) -> None:
    code, _, err = call("generate", "-", *SHORT, given=given)
    assert code == 2
    assert message in err


# ---------------------------------------------------------------- files


def _questions(path: Path, content: bytes | str) -> list[tuple[str, str | None, int]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_questions(path, "--prompts")
    return [(question.prompt, question.answer, question.line) for question in found]


LINES = '{"prompt": "a", "answer": "x"}\n\n{"prompt": "b"}\n'
AS_LINES = [("a", "x", 1), ("b", None, 3)]


@pytest.mark.parametrize(
    "name", ["p.jsonl", "p.JSONL", "p.ndjson", "p.NdJson", "p.txt", "p", "p.prompts"]
)
@pytest.mark.parametrize("change", ["", "bom", "crlf", "cr", "utf-16-le", "utf-16-be"])
def test_lines_of_json_are_read_whatever_their_name(tmp_path: Path, name: str, change: str) -> None:
    content = LINES.encode()
    if change == "bom":
        content = b"\xef\xbb\xbf" + content
    elif change.startswith("utf-16"):
        content = ("\ufeff" + LINES).encode(change)
    elif change:
        content = content.replace(b"\n", b"\r\n" if change == "crlf" else b"\r")
    assert _questions(tmp_path / name, content) == AS_LINES


@pytest.mark.parametrize("name", ["p.json", "p.JSON", "p.txt"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_a_list_of_texts_or_objects(tmp_path: Path, name: str, indent: int | None) -> None:
    content = json.dumps(["a", {"prompt": "b", "answer": 3}], indent=indent)
    assert _questions(tmp_path / name, content) == [("a", None, 1), ("b", "3", 2)]
    single = json.dumps({"prompt": "a"}, indent=indent)
    assert _questions(tmp_path / name, single) == [("a", None, 1)]


def test_plain_lines_are_prompts_as_they_stand(tmp_path: Path) -> None:
    content = '\ufeffWho?\r\n\r\n  \r\n"\r\n{not json}\r\n[1, 2]\r\na\u2028b'
    assert [prompt for prompt, _, _ in _questions(tmp_path / "p.txt", content)] == [
        "Who?",
        '"',
        "{not json}",
        "[1, 2]",
        "a\u2028b",
    ]


def test_marks_of_files_that_were_joined_are_no_tokens(tmp_path: Path, call: Call) -> None:
    content = "\ufeff\ufeffWho?\n\ufeffWhat \ufeffis?\n"
    found = [prompt for prompt, _, _ in _questions(tmp_path / "p.txt", content)]
    assert found == ["Who?", "What \ufeffis?"]
    joined = '\ufeff{"prompt": "a"}\n\ufeff{"prompt": "b"}\n'
    found = [prompt for prompt, _, _ in _questions(tmp_path / "p.jsonl", joined)]
    assert found == ["a", "b"]
    assert json.loads(call("generate", "\ufeffw1", *SHORT)[1])["prompt"] == "w1"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1: the key 'prompt' is given twice"),
        ("p.jsonl", '{"prompt": "a", "answer": "\\ud800"}', "line 1 is not valid Unicode text"),
        ("p.json", '[{"prompt": "\\udcff"}]', "p.json is not valid Unicode text"),
        (
            "p.jsonl",
            '{"prompt": "a", "anwser": "b"}',
            "'anwser', which is unknown; did you mean 'a",
        ),
        ("p.jsonl", '{"Prompt": "a"}', "'Prompt', which is unknown; did you mean 'prompt'?"),
        ("p.jsonl", "plain", "line 1 is not JSON"),
        ("p.jsonl", '"text"', 'line 1 has no text under "prompt"'),
        ("p.jsonl", '{"prompt": " "}', 'line 1 has an empty "prompt"'),
        ("p.jsonl", '{"prompt": "a", "answer": NaN}', "NaN is no number of JSON"),
        ("p.jsonl", '{"prompt": "a", "answer": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ("p.jsonl", "[" * 100_000, "nested too deeply"),
        ("p.json", "plain", "is not JSON"),
        ("p.json", LINES, "Extra data, line 3); name a file with one object a line .jsonl"),
        ("p.json", "[]", "has no prompts; write a list of them"),
        ("p.json", '[""]', 'entry 1 has an empty "prompt"'),
        ("p.json", "[3]", 'entry 1 has no text under "prompt"'),
        (
            "p.jsonl",
            '{"prompt": "a", "answer": 1e999}',
            'a number under "answer" that is too large',
        ),
        ("p.jsonl", '{"question": "a"}', "under \"prompt\"; it has 'question'"),
        ("p.jsonl", '["a", "b"]', "it is a list: write one"),
        ("p.jsonl", '{"messages": [{"role": "user", "content": "a"}]}', "it holds messages"),
        ("p.json", '[{"role": "user", "content": "a"}]', "it holds messages"),
        ("p.txt", '{"prompt": "a",}\nWho?', "line 1 is nearly JSON, but no object"),
        ("p.txt", "Who?\n{'prompt': 'a'}", "line 2 is nearly JSON, but no object"),
        ("p.txt", 'Who?\n{"id": 1, "prompt": "a"}', "line 2 is JSON among lines of plain text"),
        ("p.txt", 'Who?\n{"prompt": "a"}', "line 2 is JSON among lines of plain text"),
        ("p.txt", '{"prompt": "a"}\nWho?', "line 2 is not JSON"),
        ("p.txt", "Hi".encode("utf-16-le"), "holds NUL characters, as other encodings do"),
        ("p.txt", b"\xff\xfe", "has no prompts"),
        ("p.txt", b"caf\xe9", "is not UTF-8 text; convert it first"),
        ("p.txt", "x" * 4_000_001, "line 1 has 4000001 characters, more than 4000000"),
        ("p.txt", "a\n" * 1_000_001, "has more than 1000000 lines; split it"),
        ("p.txt", b"a" * ((64 << 20) + 1), "has more than 64 MB; split it"),
        ("p.csv", "prompt\nWho?", "is a .csv file; write one prompt a line"),
        ("p.PARQUET", "PAR1", "is a .parquet file"),
    ],
)
def test_a_file_that_is_not_read_says_why(
    tmp_path: Path, name: str, content: bytes | str, message: str
) -> None:
    with pytest.raises(PromptError) as caught:
        _questions(tmp_path / name, content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_device_without_end_is_refused() -> None:
    with pytest.raises(PromptError, match="has more than 64 MB"):
        read_questions(Path("/dev/zero"), "--prompts")


def test_a_folder_is_no_file_of_prompts(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read"):
        read_questions(tmp_path, "--prompts")


def test_other_keys_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = '{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2, "topic": "t"}'
    assert len(_questions(tmp_path / "p.jsonl", lines)) == 2
    err = capsys.readouterr().err
    assert "keys that nothing reads: 'id', 'topic'; known: prompt, answer, judge" in err
    assert err.count("note: ") == 1


def test_answers_that_nobody_judges_are_said(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}')
    code, _, err = call("generate", "--batch-file", str(path), *SHORT)
    assert code == 0
    assert "have no effect here; audit and sweep judge by them" in err


def test_the_template_of_the_tests_is_in_use(model: Model) -> None:
    assert model.text.template == TEMPLATE
