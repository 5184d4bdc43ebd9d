"""Chat templates, which are programs: greedy, endless, curious, or just wrong."""

from __future__ import annotations

import json
from random import Random

from skipstone.testing.checkpoint import TEMPLATE
from tests.fuzz.case import Kind, Outcome, Scene, command
from tests.fuzz.mutate import ODD_JSON, broken_bytes, odd_text
from tests.fuzz.sound import LENGTHS

_SUBJECTS = (
    *("messages", "messages[0]['content']", "bos_token", "''", "'x'", "[1, 2]", "{}", "none"),
    *("range(9)", "cycler", "namespace()", "lipsum", "joiner", "dict", "self", "raise_exception"),
    *("strftime_now('%Y')", "messages[0].role", "loop", "1", "1.5", "undefined_name", "tools"),
)
_HUGE = ("3000000000", "99999", "9999999999", "10**9", "2**31", "-1", "0", "'9'*9")
_FILTERS = (
    *("center({n})", "ljust({n})", "format({n})", "indent({n})", "list", "join(',')", "tojson"),
    *("tojson(indent={n})", "batch({n})", "slice({n})", "map('center', {n})|join", "upper", "trim"),
    *("replace('', 'x' * 999)", "round({n})", "truncate({n})", "wordwrap({n})", "urlize", "sort"),
    *("xmlattr", "pprint", "sum", "attr('__class__')", "map(attribute='__class__')", "safe", "e"),
    *("groupby('role')", "selectattr('role')", "items", "dictsort", "random", "string", "first"),
)
_ATTRIBUTES = (
    *(".__class__", ".__init__.__globals__", "['__class__']", ".mro()", ".format({n})", ".split()"),
    *(
        ".zfill({n})",
        ".ljust({n})",
        ".center({n})",
        " * {n}",
        " ** {n}",
        " % 1",
        "[::-1]",
        ".items()",
    ),
    *(".encode()", ".join(['a'] * 9)", ".replace('', 'x')", " ~ 'x' * {n}", "[{n}]", ".append(1)"),
)
_BLOCKS = (
    "{{% for a in {e} %}}{b}{{% endfor %}}",
    "{{% for a in range({n}) %}}{b}{{% endfor %}}",
    "{{% if {e} %}}{b}{{% else %}}{b}{{% endif %}}",
    "{{% set x = {e} %}}{b}{{{{ x }}}}",
    "{{% set x %}}{b}{{% endset %}}{{{{ x * 9 }}}}",
    "{{% macro m(a) %}}{b}{{{{ m(a) }}}}{{% endmacro %}}{{{{ m(1) }}}}",
    "{{% macro m(a) %}}{b}{{% endmacro %}}{{{{ m(1) }}}}",
    "{{% generation %}}{b}{{% endgeneration %}}",
    "{{% filter center({n}) %}}{b}{{% endfilter %}}",
    "{{% call(x) m() %}}{b}{{% endcall %}}",
    "{{% include 'x' %}}{b}",
    "{{% import 'os' as os %}}{b}",
    "{{% for a in messages recursive %}}{b}{{{{ loop(messages) }}}}{{% endfor %}}",
    "{{% for a in messages %}}{b}{{% break %}}{{% endfor %}}",
    "{{% raw %}}{b}{{% endraw %}}",
    "{{# {b} #}}",
    "{{{{ raise_exception('{t}') }}}}",
)


def _expression(random: Random, depth: int = 0) -> str:
    text = random.choice(_SUBJECTS)
    if depth < 2 and random.random() < 0.3:
        text = f"({_expression(random, depth + 1)} {random.choice('+*-/%~')} {text})"
    for _ in range(random.choice((0, 1, 1, 2))):
        huge = random.choice(_HUGE)
        if random.random() < 0.5:
            text += "|" + random.choice(_FILTERS).format(n=huge)
        else:
            text += random.choice(_ATTRIBUTES).format(n=huge)
    return text


def _body(random: Random, depth: int = 0) -> str:
    if depth > 3 or random.random() < 0.4:
        return random.choice(
            ("x", "{{ messages[0]['content'] }}", f"{{{{ {_expression(random)} }}}}")
        )
    block = random.choice(_BLOCKS)
    return block.format(
        b=_body(random, depth + 1),
        e=_expression(random),
        n=random.choice(_HUGE),
        t=random.choice(("no", "\x1b[2J", "x" * 900)),
    )


def _program(random: Random) -> object:
    """A template: built from parts, the published one changed, or no text at all."""
    luck = random.random()
    if luck < 0.6:
        return _body(random)
    if luck < 0.75:
        return TEMPLATE + _body(random)
    if luck < 0.9:
        return broken_bytes(TEMPLATE.encode(), random).decode("utf-8", "replace")
    if luck < 0.95:
        return [{"name": odd_text(random), "template": _body(random)} for _ in range(2)]
    return random.choice(ODD_JSON)


def _rendered(scene: Scene) -> Outcome:
    random = scene.random
    folder = scene.copy("model")
    settings = folder / "tokenizer_config.json"
    template = _program(random)
    if isinstance(template, str) and random.random() < 0.2:
        (folder / "chat_template.jinja").write_bytes(template.encode("utf-8", "surrogatepass"))
    else:
        value = {**json.loads(settings.read_bytes()), "chat_template": template}
        settings.write_text(json.dumps(value))
    prompt = random.choice(("hi", "a<b & c>d it's é", "{{ 7 * 7 }}", "  spaced  "))
    return command(["generate", prompt, "--model", str(folder), *LENGTHS])


KINDS = (Kind("template", _rendered, 14),)
