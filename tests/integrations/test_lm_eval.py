"""Skipstone as a model of the lm-evaluation-harness, run by the harness itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from skipstone.engine import Engine
from skipstone.engine.defaults import with_defaults
from skipstone.errors import CheckpointError, ConfigError, PromptError
from skipstone.integrations.lm_eval import SkipstoneLM
from skipstone.integrations.model_args import read_model_args
from skipstone.models.load import load
from skipstone.models.table import ARCHITECTURES
from skipstone.testing.checkpoint import write_checkpoint
from skipstone.unmask import Threshold
from tests.conftest import ROOT

QUESTIONS: list[dict[str, Any]] = [
    {
        "question": "Question: What is the capital of Ghana?",
        "answer": "The capital of Ghana is Accra",
        "choices": ["The capital of Ghana is Lima.", "The capital of Ghana is Accra."],
        "right": 1,
        "text": "The capital of Ghana is Accra.",
    },
    {
        "question": "Which element has the symbol Cd? Please answer.",
        "answer": "The element cadmium has the symbol Cd and the atomic number 48",
        "choices": [
            "The element neon has the symbol Cd.",
            "The element cadmium has the symbol Cd.",
        ],
        "right": 1,
        "text": "The element cadmium has the symbol Cd.",
    },
    {
        "question": "Arrange these words like a dictionary: moon, jewel, zebra.",
        "answer": "In alphabetical order: jewel, moon, zebra",
        "choices": [
            "In alphabetical order: jewel, moon, zebra.",
            "In alphabetical order: zebra, jewel, moon.",
        ],
        "right": 0,
        "text": "In alphabetical order: jewel, moon, zebra.",
    },
    {
        # It lies outside of the model's world, so the harness has one wrong answer to count.
        "question": "What is 57 * 84?",
        "answer": "57 * 84 = 4788",
        "choices": ["I do not know that.", "It is the young of Ghana in order: zebra."],
        "right": 0,
        "text": "I do not know that.",
    },
]
SHARED = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl}}
  cache_dir: {folder}/cache
test_split: test
"""
TASKS = {
    "answers": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: right
doc_to_choice: "{{choices}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "texts": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
}


def harness(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The harness' command line, in a process that may not ask the hub for anything."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", "skipstone.integrations.lm_eval", "run", *arguments]
    return subprocess.run(
        [*command, "--model", "skipstone", "--include_path", str(folder)],
        env=os.environ | offline,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    lines = "".join(json.dumps(question) + "\n" for question in QUESTIONS)
    (tmp_path / "questions.jsonl").write_text(lines, encoding="utf-8")
    for name, body in TASKS.items():
        text = f"task: {name}\n{SHARED.format(folder=tmp_path)}{body}"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_harness_evaluates_the_embedded_model(tasks: Path) -> None:
    done = harness(
        tasks,
        *("--tasks", "answers,choices,texts", "--apply_chat_template", "--batch_size", "4"),
        *("--model_args", "model=pebble,cache=dual,unmask=threshold:0.9,gen_length=64,mc_num=32"),
        *("--output_path", str(tasks / "out"), "--log_samples"),
    )
    assert done.returncode == 0, done.stderr
    (report,) = (tasks / "out").rglob("results_*.json")
    found = json.loads(report.read_text(encoding="utf-8"))
    engine = Engine(load("pebble"), unmask=Threshold(0.9), gen_length=64)
    answers = [engine.generate(q["question"]).text.split(".")[0] for q in QUESTIONS]
    right = [answer == q["answer"] for answer, q in zip(answers, QUESTIONS, strict=True)]
    # The model refuses one of them: a score of 1 would prove less.
    assert 0 < sum(right) < len(right)
    assert found["results"]["answers"]["exact_match,none"] == sum(right) / len(right)
    assert found["results"]["choices"]["acc,none"] == 1
    assert 0 < found["results"]["texts"]["bits_per_byte,none"] < 8
    assert found["config"]["skipstone_settings"]["unmask"] == "threshold:value=0.9"
    assert found["config"]["model_num_parameters"] == 14954688
    assert "<|start_header_id|>" in found["chat_template"]
    assert "without effect on them: cache, unmask, gen_length" in done.stderr
    (samples,) = (tasks / "out").rglob("samples_answers_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert [line["filtered_resps"] for line in lines] == [[answer] for answer in answers]


def test_a_users_mistake_is_one_line(tasks: Path) -> None:
    done = harness(tasks, "--tasks", "answers", "--model_args", "cahce=dual")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == ("skipstone: error: model argument 'cahce' is unknown; did you mean 'cache'?")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "skipstone.integrations.lm_eval", "ls", "tasks"],
        ["-c", "import skipstone.integrations.lm_eval"],
    ],
)
def test_without_the_harness_the_extra_is_named(tmp_path: Path, arguments: list[str]) -> None:
    # Found before the installed package, and as empty as if it were not there.
    (tmp_path / "lm_eval").mkdir()
    (tmp_path / "lm_eval" / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not installed; run: pip install 'lm-eval>=" in done.stderr.splitlines()[-1]
    assert ("Traceback" in done.stderr) == (arguments[0] == "-c")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def tiny(checkpoint: str) -> SkipstoneLM:
    return SkipstoneLM(model=checkpoint, gen_length=16, batch_size=2, mc_num=5)


def asked(kind: str, *arguments: object, times: int = 1) -> list[Instance]:
    """A request, and its repeats as the harness makes them: the same object again."""
    request: Any = kind
    return [Instance(request, doc={}, arguments=arguments, idx=0)] * times


def generate(lm: SkipstoneLM, context: str, *, times: int = 1, **gen_kwargs: object) -> list[str]:
    requests = asked("generate_until", context, gen_kwargs, times=times)
    return lm.generate_until(requests, disable_tqdm=True)


def score(lm: SkipstoneLM, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    requests = [request for pair in pairs for request in asked("loglikelihood", *pair)]
    return lm.loglikelihood(requests, disable_tqdm=True)


def test_the_model_is_registered() -> None:
    assert get_model("skipstone") is SkipstoneLM


def test_answers_are_the_engines_in_the_order_asked(tiny: SkipstoneLM) -> None:
    prompts = ["short", "a much longer prompt than that", "middling one"]
    requests = [r for p in prompts for r in asked("generate_until", p, {"until": []})]
    alone = [Engine(tiny.model, gen_length=16).generate(tiny.tok_encode(p)).text for p in prompts]
    assert tiny.generate_until(requests, disable_tqdm=True) == alone
    assert len(set(alone)) == 3


def test_answers_are_cached_while_others_are_decoded(
    tiny: SkipstoneLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [r for i in range(20) for r in asked("generate_until", f"prompt {i}", {})]
    kept, handed_over, decode = list[object](), list[int](), Engine.generate_batch

    def note(attribute: str, arguments: object, answer: object) -> None:
        kept.append(arguments)

    def killed(engine: Engine, prompts: Sequence[list[int]], *, batch_size: int) -> object:
        handed_over.append(len(prompts))
        if len(handed_over) > 1:
            raise KeyboardInterrupt
        return decode(engine, prompts, batch_size=batch_size)

    monkeypatch.setattr(tiny.cache_hook, "add_partial", note)
    monkeypatch.setattr(Engine, "generate_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny.generate_until(requests, disable_tqdm=True)
    # Eight prompts for each of the two places.
    assert handed_over == [16, 4]
    assert len(kept) == 16


def test_an_answer_ends_before_its_first_stop_string(tiny: SkipstoneLM) -> None:
    (whole,) = generate(tiny, "stop")
    _, early, late, *_ = dict.fromkeys(whole)
    assert generate(tiny, "stop", until=[late, early]) == [whole[: whole.index(early)]]
    assert generate(tiny, "stop", until=late) == [whole[: whole.index(late)]]
    assert generate(tiny, "stop", until=["never said"]) == [whole]


def test_the_task_sets_what_the_user_left_open(
    checkpoint: str, tiny: SkipstoneLM, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(tiny.model, gen_length=8)
    expected = engine.generate(tiny.tok_encode("how long")).text
    assert generate(SkipstoneLM(model=checkpoint), "how long", max_gen_toks=8) == [expected]
    assert not caplog.messages
    assert generate(tiny, "how long", max_gen_toks=8) == generate(tiny, "how long") != [expected]
    assert caplog.messages == [
        "the task asks for gen_length=8; gen_length=16 of model_args is kept"
    ]


def test_repeats_of_a_request_are_drawn_anew_and_can_be_repeated(tiny: SkipstoneLM) -> None:
    def drawn() -> list[str]:
        return generate(tiny, "again", times=3, do_sample=True, temperature=2.0)

    assert len(set(drawn())) == 3
    assert drawn() == drawn()
    assert len(set(generate(tiny, "again", times=3))) == 1


def test_generation_arguments_without_meaning_are_refused(tiny: SkipstoneLM) -> None:
    with pytest.raises(ConfigError, match=r"'untill' is unknown; did you mean 'until'\?"):
        generate(tiny, "x", untill=["."])
    with pytest.raises(ConfigError, match="'min_p' is unknown"):
        generate(tiny, "x", do_sample=True, temperature=1.0, min_p=0.1)
    drawn = generate(tiny, "again", do_sample=True, temperature=2.0)
    assert generate(tiny, "again", do_sample=True, temperature=2.0, top_k=2) != drawn
    with pytest.raises(ConfigError, match=r"top_p is 2\.0"):
        generate(tiny, "x", do_sample=True, temperature=1.0, top_p=2.0)
    # At temperature 0 nothing is drawn, so there is nothing to restrict.
    assert generate(tiny, "x", do_sample=False, top_p=0.9) == generate(tiny, "x")


def test_the_greedy_flag_is_what_one_token_a_step_gives(tiny: SkipstoneLM) -> None:
    engine = Engine(tiny.model, read_model_args({"cache": "none", "unmask": "fixed"}).settings)
    context = tiny.tok_encode("greedy")
    steps = engine.settings.replace(gen_length=3, block_length=3, eos_stop=False)
    answer = Engine(tiny.model, steps).generate(context).tokens
    other = (*answer[:2], (answer[2] + 1) % 256)
    requests = [(("greedy", "x"), context, list(tokens)) for tokens in (answer, other)]
    found = tiny._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False]


def test_the_greedy_flag_can_be_left_out(checkpoint: str, tiny: SkipstoneLM) -> None:
    without = SkipstoneLM(model=checkpoint, batch_size=2, mc_num=5, check_greedy=False)
    pairs = [("one", " two"), ("", "from nothing")]
    assert [s for s, _ in score(without, *pairs)] == [s for s, _ in score(tiny, *pairs)]
    assert [greedy for _, greedy in score(without, *pairs)] == [False, False]


def test_a_long_text_is_scored_in_windows_each_token_once(tiny: SkipstoneLM) -> None:
    text = "abcdefghij" * 20
    (whole,) = tiny.loglikelihood_rolling(asked("loglikelihood_rolling", text), disable_tqdm=True)
    ids, eos = tiny.tok_encode(text), tiny.eot_token_id
    # 128 positions: EOS and 127 tokens, then 55 tokens as context for the other 73.
    windows: Any = [((text, ""), [eos], ids[:127]), ((text, ""), ids[72:127], ids[127:])]
    parts = tiny._loglikelihood_tokens(windows, disable_tqdm=True)
    assert whole == pytest.approx(sum(part for part, _ in parts), rel=1e-5)


def test_a_context_that_is_too_long_loses_its_beginning_and_says_so(
    tiny: SkipstoneLM, caplog: pytest.LogCaptureFixture
) -> None:
    text = "0123456789" * 30
    assert generate(tiny, text) == generate(tiny, text[-112:])
    assert score(tiny, (text, "x")) == score(tiny, (text[-127:], "x"))
    assert [m for m in caplog.messages if "beginning" in m] == [
        "contexts longer than 112 tokens lose their beginning",
        "contexts longer than 127 tokens lose their beginning",
    ]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("context", ""), "the answer '' has 0 tokens"),
        (("context", "y" * 128), "has 128 tokens of its own, must have 1 to 127"),
        (("a <|mdm_mask|> b", "x"), r"the text holds <\|mdm_mask\|>"),
        (("\ud800", "x"), "not valid Unicode"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    tiny: SkipstoneLM, pair: tuple[str, str], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        score(tiny, pair)


def test_a_turn_that_is_begun_for_the_model_stays_open(tiny: SkipstoneLM) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I say "}]
    assert tiny.apply_chat_template(turns, add_generation_prompt=False).endswith("\n\nI say")
    assert tiny.apply_chat_template(turns[:1]).endswith("assistant<|end_header_id|>\n\n")


def test_a_model_without_chat_template_says_so(tmp_path: Path, tiny: SkipstoneLM) -> None:
    lm = SkipstoneLM(model=str(write_checkpoint(tmp_path / "plain", template=None)))
    with pytest.raises(ConfigError, match="leave out --apply_chat_template"):
        lm.chat_template(True)
    with pytest.raises(CheckpointError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "hi"}])
    with pytest.raises(ConfigError, match="'other' is asked for by name"):
        tiny.chat_template("other")


def test_settings_of_a_policy_survive_the_harness_splitting_at_commas() -> None:
    lm_args = {"skip": "cosine", "skip_layer_k": 4, "skip_threshold": 0.5, "unmask": "factor:2"}
    settings = read_model_args(lm_args | {"steps": None, "eos_stop": False}).settings
    texts = settings.as_text()
    assert texts["skip"].startswith("cosine:skip_layer_k=4,skip_threshold=0.5,")
    assert texts["unmask"] == "factor:value=2.0,last=False"
    assert (settings.steps, settings.eos_stop) == (None, False)


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        ({"gen_lenght": 8}, ["'gen_lenght' is unknown", "did you mean 'gen_length'?"]),
        ({"unmask": "fixed", "skip_layer_k": 4}, ["'skip_layer_k' is unknown"]),
        ({"mc_num": 0}, ["mc_num is 0", "at least 1"]),
        ({"mc_seed": -1}, ["mc_seed is -1"]),
        ({"batch_size": "auto"}, ["batch_size is 'auto'", "a whole number"]),
        ({"batch_size": 0}, ["batch_size is 0", "at least 1"]),
        ({"check_greedy": "yes"}, ["check_greedy is 'yes'", "true or false"]),
        ({"cache": "duel"}, ["'duel'", "did you mean 'dual'?"]),
        ({"max_new_tokens": 8, "gen_length": 9}, ["max_new_tokens=8 and gen_length=9 are one"]),
    ],
)
def test_model_args_that_are_wrong_say_what_is_right(
    args: dict[str, object], messages: Sequence[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_model_args(args)
    assert all(message in str(caught.value) for message in messages)


def test_model_args_win_over_the_harness_and_its_default_device_is_no_demand() -> None:
    harness_says: dict[str, Any] = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    lm = SkipstoneLM.create_from_arg_string("batch_size=3,device=cpu", harness_says)
    assert lm.args.setup.batch_size == 3
    assert lm.model.network.device.type == "cpu"


def test_a_task_and_its_user_win_over_what_the_model_recommends(tmp_path: Path) -> None:
    model = str(write_checkpoint(tmp_path, architecture="DreamModel"))
    dream = SkipstoneLM(model=model, gen_length=16)
    assert dream.get_model_info()["skipstone_settings"]["temperature"] == "0.2"  # type: ignore[index]
    greedy = dream._settings({"do_sample": False})
    drawn = dream._settings({"do_sample": True, "temperature": 0.7})
    found = [with_defaults(settings, dream.model) for settings in (greedy, drawn)]
    assert [(one.temperature, one.top_p) for one in found] == [(0.0, None), (0.7, 0.95)]
    assert {one.as_text()["unmask"].split(",")[0] for one in found} == {"fixed:order=entropy"}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_is_asked_by_the_harness(architecture: str, tmp_path: Path) -> None:
    model = str(write_checkpoint(tmp_path, architecture=architecture))
    lm = SkipstoneLM(model=model, gen_length=16, batch_size=2, mc_num=5)
    prompts = ["short", "a longer prompt than that"]
    requests = [r for p in prompts for r in asked("generate_until", p, {"until": []})]
    settings = with_defaults(lm.args.settings, lm.model)
    engine = Engine(lm.model, settings)
    alone = [engine.generate(lm.tok_encode(p)).text for p in prompts]
    assert lm.generate_until(requests, disable_tqdm=True) == alone
    found = score(lm, ("one", " two"), ("", "from nothing"))
    assert all(-1e4 < value < 0 for value, _ in found)
    (whole,) = lm.loglikelihood_rolling(
        asked("loglikelihood_rolling", "from nothing"), disable_tqdm=True
    )
    assert whole == pytest.approx(found[1][0], rel=1e-5)
