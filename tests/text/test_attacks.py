"""Templates that mean harm: at most one second and 64 MB, and an error that names the file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from skipstone.errors import CheckpointError
from skipstone.testing.checkpoint import EOS, MASK, byte_tokenizer
from skipstone.text import Text, sandbox
from tests.text.attacked import ATTACKS

SECONDS, MEGABYTES = 1.0, 64


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, int, str]]:
    """Of every attack, each in a process of its own."""
    if sys.platform != "linux":
        pytest.skip("peaks are read from /proc")
    done = subprocess.run(
        [sys.executable, "-m", "tests.text.attacked", str(tmp_path_factory.mktemp("model"))],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=ATTACKS)
def test_an_attack_is_refused_soon_and_cheaply(
    number: int, outcomes: list[tuple[float, int, str]]
) -> None:
    seconds, megabytes, message = outcomes[number]
    assert "chat_template.jinja: the chat template" in message
    assert seconds < SECONDS
    assert megabytes < MEGABYTES
    assert "\n" not in message
    assert len(message) < 500


def test_most_attacks_are_refused_for_what_they_take(
    outcomes: list[tuple[float, int, str]],
) -> None:
    refused = [message for _, _, message in outcomes if "takes too much time" in message]
    assert len(refused) > 0.8 * len(ATTACKS)


def _text(template: str, **special: str) -> Text:
    return Text(
        byte_tokenizer(),
        template=template,
        special=special,
        mask_id=MASK,
        eos_id=EOS,
        source="here",
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{a}}" * 40_000,
        "{{a" + "<a" * 90_000 + "}}",
        "{{" + "(" * 90_000 + "1" + ")" * 90_000 + "}}",
        "{%if a%}" * 9_000 + "{%endif%}" * 9_000,
        "{{" + "1" * 190_000 + "}}",
        "x" * 100_000_000,
        "{{ '" + "a" * 1_000_000 + "' }}",
        "{{ a" + ".b" * 4_000 + " }}",
        "{{" + "not " * 4_000 + "a }}",
    ],
    ids=lambda template: template[:12],
)
def test_a_template_too_long_to_compile(template: str) -> None:
    with pytest.raises(CheckpointError, match=r"here: the chat template (is too long|does not)"):
        _text(template)


def test_constants_are_not_folded() -> None:
    """The control: compiling does nothing, whatever the constants."""
    for attack in ATTACKS:
        sandbox.compile_template(attack)


def test_a_special_token_counts_like_any_other_text() -> None:
    hungry = "{% for i in range(9999) %}{{ bos_token }}{% endfor %}{{ messages[0].content }}"
    assert _text(hungry, bos_token="x").encode("a")
    with pytest.raises(CheckpointError, match="takes too much"):
        _text(hungry, bos_token="x" * 10_000).encode("a")


def test_the_budget_grows_with_the_conversation() -> None:
    text = _text(
        "{% for m in messages %}{% for w in m.content.split() %}{{ w }} {% endfor %}{% endfor %}"
    )
    turns = [{"role": "user", "content": "word " * 20}] * 2_000
    assert len(text.render(turns)) == 200_000


@pytest.mark.parametrize(
    "template",
    [
        "hello",
        "{{ messages[0].role }}",
        "{{ messages[0].content[:5] }}",
        "{{ messages[0].content.split()[0] }}",
        "{% if messages[0].content|length < 5 %}{{ messages[0].content }}{% endif %}",
        "Who is the inventor of it? Who is Newton, physics?",
    ],
)
def test_a_template_may_not_leave_out_the_prompt(template: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"here: the chat template leaves out 'Who is Newton,"
    ):
        _text(template).encode("Who is Newton, physics?")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content | trim }}",
        "{{ messages[0].content | tojson }}",
        "{{ messages[0].content | tojson(ensure_ascii=true) }}",
        "{{ messages[0].content | e }}",
        "{{ messages[0].content | upper }}",
        "{{ messages[0].content | replace('\n', ' ') }}",
        "{% for w in messages[0].content.split() %}[{{ w }}]{% endfor %}",
        "{{ messages | tojson(indent=2) }}",
        "{{ messages }}",
    ],
)
@pytest.mark.parametrize("prompt", ['  a<b & c>d it\'s é\n"x" \\n ', "!?", "数学", "🧪"])
def test_a_template_may_write_the_prompt_otherwise(template: str, prompt: str) -> None:
    assert _text(template).encode(prompt)


def test_a_system_prompt_that_is_dropped_is_said_and_thoughts_may_be() -> None:
    text = _text("{% for m in messages if m.role != 'system' %}{{ m.content[-3:] }}{% endfor %}")
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>long</think>yes"},
        {"role": "user", "content": "and"},
    ]
    assert text.encode(said)
    with pytest.raises(CheckpointError, match="leaves out 'Be brief'"):
        text.encode([{"role": "system", "content": "Be brief"}, *said])
