"""Small chat templates, each with one feature that published templates use.

``expected.json`` holds what transformers renders them to; ``python -m tests.text.record`` writes it
again, with transformers installed.
"""

from __future__ import annotations

from typing import NamedTuple

SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
WORDS = "a<b & c>d it's é"


def _says(*turns: tuple[str, str]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in turns]


USER = _says(("user", WORDS))
TALK = _says(
    ("system", "Be brief."),
    ("user", "Hi\n\tthere"),
    ("assistant", "<think>\nhm\n</think>\n\nHello!"),
    ("user", "  Who?  "),
)
TOOL: dict[str, object] = {
    "type": "function",
    "function": {
        "name": "sum",
        "description": "a & b",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    },
}
CALLED: list[dict[str, object]] = [
    *_says(("user", "2+2?")),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "sum", "arguments": {"x": 2.5, "y": [True, None]}}}],
    },
    {"role": "tool", "content": "4"},
]
MANY_CALLS = CALLED * 12


class Case(NamedTuple):
    """One template and what it is given."""

    template: str
    messages: list[dict[str, object]] = USER
    tools: list[dict[str, object]] | None = None
    documents: list[dict[str, object]] | None = None
    add_generation_prompt: bool = True


CASES = {
    "tojson": Case("{{ messages[0].content | tojson }}"),
    "tojson ascii": Case("{{ messages[0].content | tojson(ensure_ascii=True) }}"),
    "tojson indent": Case("{{ messages | tojson(indent=2) }}", TALK),
    "tojson separators": Case("{{ messages | tojson(separators=(',', ':')) }}", TALK),
    "tojson sorted": Case("{{ tools | tojson(sort_keys=true, indent=4) }}", USER, [TOOL]),
    "tojson tight": Case("{{ messages | tojson(separators=(',', ':')) }}", MANY_CALLS),
    "tojson of many tools": Case(
        "{% for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor %}{{ messages[0].content }}",
        USER,
        [TOOL] * 20,
    ),
    "tojson position": Case("{{ messages | tojson(false, 1) }}", TALK),
    "generation": Case(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}"
        "{% endfor %}",
        TALK,
    ),
    "generation scope": Case(
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    ),
    "generation trims": Case("a\n{%- generation -%}\n b \n{%- endgeneration -%}\n c"),
    "break": Case(
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}|"
        "{% endfor %}",
        TALK,
    ),
    "continue": Case(
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ loop.index0 }}{{ m.content }}{% endfor %}",
        TALK,
    ),
    "blocks are trimmed": Case(
        "{% if true %}\n  a\n    {% if true %}\n b\n  {% endif %}\nc\n{% endif %}\n"
    ),
    "undefined tools": Case(
        "{% if tools %}T{% endif %}{% if tools is defined and tools is not none %}D{% endif %}"
        "{{ tools is none }}{{ documents is none }}{% if not tools %}no{% endif %}"
    ),
    "tools": Case(
        "{%- if tools %}{{- '<tools>' }}{%- for t in tools %}{{- '\\n' }}{{- t | tojson }}"
        "{%- endfor %}{{- '\\n</tools>' }}{%- endif %}",
        USER,
        [TOOL, TOOL],
    ),
    "documents": Case(
        "{% for d in documents %}{{ loop.index }}. {{ d['title'] }}: {{ d.text }}\n{% endfor %}",
        USER,
        None,
        [{"title": "t", "text": "x"}, {"title": "u", "text": "y"}],
    ),
    "calls": Case(
        "{% for m in messages %}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}"
        "{{ c.function.name }}({{ c.function.arguments | tojson }})"
        "{{ c.function.arguments is string }}{% for k, v in c.function.arguments | items %}"
        "<{{ k }}={{ v }}>{% endfor %}{% endfor %}{% endif %}"
        "{{ m.content is none }}{{ m.content is defined }};{% endfor %}",
        CALLED,
    ),
    "qwen-like": Case(
        "{%- set ns = namespace(multi=true, last=messages|length - 1) %}"
        "{%- for message in messages[::-1] %}"
        "{%- set index = (messages|length - 1) - loop.index0 %}"
        "{%- if ns.multi and message.role == 'user' and message.content is string and not("
        "message.content.startswith('<r>') and message.content.endswith('</r>')) %}"
        "{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}"
        "{%- for message in messages %}"
        "{%- if message.role == 'assistant' %}{%- set content = message.content %}"
        "{%- if '</think>' in content %}"
        "{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1]"
        ".lstrip('\\n') %}"
        "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
        "{%- if loop.index0 > ns.last %}{{- 'T:' + thought }}{%- endif %}"
        "{{- '<a>' + content + '</a>\\n' }}"
        "{%- else %}{{- '<' + message.role + '>' + message.content + '</>\\n' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<a>' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<n>' }}{%- endif %}"
        "{%- endif %}",
        TALK,
    ),
    "llama-like": Case(
        "{{- bos_token }}{%- if custom_tools is defined %}"
        "{%- set tools = custom_tools %}{%- endif %}"
        "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}"
        "{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
        "{%- else %}{%- set system = '' %}{%- endif %}{{- 'S:' + system }}"
        "{%- for m in messages %}{%- if not (m.role == 'tool' or 'tool_calls' in m) %}"
        "{{- '<|' + m['role'] + '|>\\n\\n' + m['content'] | trim + eos_token }}{%- endif %}"
        "{%- endfor %}",
        TALK,
    ),
    "mistral-like": Case(
        "{%- set loop_messages = messages %}{{- bos_token }}"
        "{%- set user_messages = loop_messages | selectattr('role', 'equalto', 'user') | list %}"
        "{%- for m in loop_messages | rejectattr('role', 'equalto', 'system') %}"
        "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('roles must alternate') }}{%- endif %}"
        "{%- if m['role'] == 'user' %}{%- if m == user_messages[-1] %}{{- '[LAST]' }}{%- endif %}"
        "{{- '[I] ' + m['content'] + '[/I]' }}{%- else %}{{- ' ' + m['content']|trim + eos_token }}"
        "{%- endif %}{%- endfor %}",
        TALK,
    ),
    "macros": Case(
        "{%- macro render(x, depth=0) %}{%- if x is mapping %}{%- for k, v in x.items() %}"
        "{{ '  ' * depth }}{{ k }}:\n{{ render(v, depth + 1) }}{%- endfor %}{%- elif x is string %}"
        "{{ '  ' * depth }}{{ x }}\n{%- endif %}{%- endmacro %}{{ render(tools[0]) }}",
        USER,
        [TOOL],
    ),
    "call blocks": Case(
        "{% macro box(t) %}<{{ t }}>{{ caller(1) }}</{{ t }}>{% endmacro %}"
        "{% call(n) box('b') %}{{ n }}{{ messages[0].content }}{% endcall %}"
    ),
    "concatenation": Case("{{ 'a' ~ 1 ~ none ~ [1, 'b'] ~ 2.0 ~ true ~ nothing }}"),
    "strings": Case(
        "{{ 'aXb'.lower().upper().title() }}{{ ' a '.strip() }}{{ 'a,b'.split(',') }}"
        "{{ '%s-%03d' % ('x', 7) }}{{ '{}:{:>4}'.format('a', 3) }}{{ 'abc'[::-1] }}{{ 'abc'[1:] }}"
        "{{ 'a' in 'abc' }}{{ 'ab' * 3 }}{{ 'a-b'.replace('-', '+') }}{{ 'x'.join(['1', '2']) }}"
    ),
    "filters": Case(
        "{{ [3, 1, 2] | sort | join('<') }}{{ [1, 2] | sum }}{{ 'a b' | replace(' ', '_') }}"
        "{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ ['a', 'b'] | map('upper') | list }}"
        "{{ nothing | default('d') }}{{ 'abc' | length }}{{ '7' | int + 1 }}{{ 2.567 | round(1) }}"
        "{{ {'b': 1, 'a': 2} | dictsort }}{{ [1, 1, 2] | unique | list }}{{ 'x\ny' | indent(2) }}"
        "{{ [1, 2, 3] | batch(2) | list }}{{ 'a' | center(5) }}{{ ['x', 'y'] | reverse | list }}"
        "{{ [{'n': 1}] | map(attribute='n') | list }}{{ 'abcdef' | truncate(4, true, '.', 0) }}"
        "{{ 'a&b' | escape }}{{ 'a b' | urlencode }}{{ 'word word' | wordcount }}{{ -3 | abs }}"
        "{{ [1, 2] | min }}{{ [1, 2] | max }}{{ 'x' | string }}"
        "{{ ['b', 'a'] | sort(reverse=true) }}"
        "{{ [{'a': 1}, {'a': 2}] | groupby('a') | list }}{{ 'a' | upper }}{{ 'Ab cd' | title }}"
        "{{ 'hello world foo' | wordwrap(5) }}{{ '%d%%' | format(5) }}{{ 'abc' | list }}"
    ),
    "tests": Case(
        "{{ 1 is odd }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ 1 is number }}"
        "{{ none is none }}{{ true is boolean }}{{ 3 is divisibleby 3 }}{{ 'a' is in 'ab' }}"
        "{{ 2 is eq 2 }}{{ x is undefined }}{{ [] is sequence }}{{ 1.5 is float }}{{ 2 is gt 1 }}"
    ),
    "lazy once": Case(
        "{% set xs = ['a', 'b'] | map('upper') %}{% for x in xs %}{{ x }}{% endfor %}"
        "{% for x in xs %}{{ x }}{% endfor %}"
    ),
    "namespace": Case(
        "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.seen }}",
        TALK,
    ),
    "dict": Case("{{ dict(a=1, b=[2]) }}{{ dict.fromkeys(['x'], 0) }}{{ {'a': {'b': 1}}.a.b }}"),
    "loops": Case(
        "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}"
        "{{ loop.first }}{{ loop.last }}{{ loop.cycle('x', 'y') }}"
        "{{ loop.previtem.role if loop.previtem is defined }}"
        "{{ loop.nextitem is defined }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty"
        "{% endfor %}{% for a in [1, [2, [3]]] recursive %}{% if a is iterable %}({{ loop(a) }})"
        "{% else %}{{ a }}{% endif %}{% endfor %}",
        TALK,
    ),
    "globals": Case(
        "{{ range(3) | list }}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}"
        "{{ c.next() }}"
        "{% set j = joiner('+') %}{{ j() }}1{{ j() }}2"
    ),
    "set blocks": Case(
        "{% set x %}a{{ 1 }}{% endset %}{{ x }}{% set y | upper %}ab{% endset %}{{ y }}"
        "{% filter upper %}x{{ 'y' }}{% endfilter %}{% with z = 3 %}{{ z }}{% endwith %}{{ z }}"
        "{% set a, b = 1, 2 %}{{ a + b }}{% raw %}{{ raw }}{% endraw %}{# gone #}"
    ),
    "operators": Case(
        "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ 7 / 2 }}{{ -3 }}{{ 1 < 2 < 3 }}{{ 1 if false }}"
        "{{ 'a' if 1 else 'b' }}{{ not true or false and true }}{{ 'x' not in 'abc' }}"
        "{{ [1] + [2] }}"
        "{{ (1, 2) == (1, 2) }}{{ 'a' < 'b' }}{{ 1 == 1.0 }}"
    ),
    "reasoning": Case(
        "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }};{% endfor %}",
        [*USER, {"role": "assistant", "content": "x", "reasoning": "why"}],
    ),
    "parts": Case(
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}",
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            }
        ],
    ),
    "no answer begun": Case(
        "{{ messages[0].content }}{% if add_generation_prompt %}>{% else %}.{% endif %}",
        add_generation_prompt=False,
    ),
    "special tokens": Case(
        "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ cls_token is defined }}"
    ),
}
