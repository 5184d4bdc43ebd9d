"""The environment that chat templates are written for, made safe to run.

What a template may use is what the published stack gives it: Jinja with loop controls, a
``generation`` tag, ``tojson`` that escapes no HTML, ``strftime_now`` and ``raise_exception``.
Jinja's sandbox keeps it from the system; a meter bounds its time and its memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from types import CodeType
from typing import Any, TypeVar, cast

from jinja2 import Template, TemplateError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from skipstone.quoting import shown
from skipstone.text.costs import ExhaustedError
from skipstone.text.meter import Meter
from skipstone.text.sizes import Once, length

MOST_CHARACTERS = 200_000
"""Of a template's source; the longest published ones have a tenth of it."""
MOST_TOKENS = 10_000
"""Names, signs and literals of a template; the longest published ones have a third of it."""

_AROUND = ("_loop_vars", "_block_vars")

Operation = Callable[..., object]
Repeated = TypeVar("Repeated", nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


def compile_template(source: str) -> CodeType:
    """Compile a template; nothing of it runs, and no constant is folded.

    Raises:
        ExhaustedError: it is too long to compile.
        Exception: it does not parse. Jinja and Python's own compiler raise many kinds.
    """
    if len(source) > MOST_CHARACTERS:
        raise ExhaustedError(f"{len(source)} characters, more than {MOST_CHARACTERS}")
    sandbox = _Sandbox(Meter(0))
    tokens = (kind for _, kind, _ in sandbox.lex(source) if kind != "whitespace")
    if any(islice(tokens, MOST_TOKENS, None)):
        raise ExhaustedError(f"more than {MOST_TOKENS} names, signs and literals")
    return sandbox.compile(source)


def render(code: CodeType, variables: Mapping[str, object], characters: int) -> str:
    """Run a compiled template.

    Args:
        code: what ``compile_template`` gave.
        variables: what the template may name; plain values only.
        characters: how many of the variables are text, which its budget grows with.

    Raises:
        SecurityError: it reaches for something unsafe, or takes too much time or memory.
        Exception: whatever it raises; a template is somebody else's program.
    """
    sandbox = _Sandbox(Meter(characters))
    template = Template.from_code(sandbox, code, sandbox.make_globals(None))
    return template.render(variables)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a meter in every operation whose cost depends on its operands."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self, meter: Meter) -> None:
        # Jinja folds constants at compile time, where nothing is metered. It cannot fold what
        # takes the context: the filters, the tests and `finalize`.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[_Generation, loopcontrols],
            finalize=_written,
        )
        self.meter = meter
        self.filters["tojson"] = _tojson
        self.filters = {name: _filter(name, act) for name, act in self.filters.items()}
        self.tests = {name: _test(act) for name, act in self.tests.items()}
        own = {
            "raise_exception": _refuse,
            "strftime_now": self._strftime_now,
            "dict": _Dicts(),
            "namespace": _Namespace,
        }
        for name, value in own.items():
            self.globals[name] = cast("Any", value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metering().visit(tree)
        tree.set_environment(self)
        return tree

    def unsafe_undefined(self, obj: object, attribute: str) -> Undefined:
        """Refuse at once; Jinja's own sandbox prints nothing until the value is used further."""
        raise SecurityError(f"attribute {shown(attribute)} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Charge a binary operator; the compiled template calls this."""
        self.meter.operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        """Charge a call; the compiled template calls this."""
        if getattr(obj, "__self__", None) is self:
            return cast("Operation", obj)(*args)  # charges for itself
        # Jinja hands the variables around a call to functions that ask for its context.
        given = [value for name, value in kwargs.items() if name not in _AROUND]
        self.meter.call(obj, (*args, *given))
        result = super().call(context, obj, *args, **kwargs)
        self.meter.structure(result)
        return result

    # What `_Metering` writes into a template. A template cannot name an attribute of its
    # environment.

    def turn(self, work: int) -> bool:
        """Charge one turn of a loop or one run of a macro."""
        self.meter.spend(work)
        return True

    def built(self, value: object) -> object:
        """Charge a list, tuple or dict."""
        self.meter.structure(value)
        return value

    def cut(self, value: object) -> object:
        """Charge what a slice may copy."""
        self.meter.items(value)
        return value

    def compared(self, value: object) -> object:
        """Charge an operand of a comparison."""
        self.meter.texts(value)
        return value

    def concatenated(self, *values: object) -> str:
        """Charge and do what ``~`` does."""
        self.meter.texts(values)
        return str_join(values)

    def _strftime_now(self, format: str) -> str:
        # A directive writes at most some hundred characters.
        self.meter.spend(256 * length(format))
        return datetime.now().strftime(format)


class _Metering(NodeTransformer):
    """Puts the meter into what Jinja's sandbox does not intercept."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            turn = _ask("turn", nodes.Const(_work([node.test])))
            node.test = nodes.And(turn, node.test).set_lineno(node.lineno)
        return _counting(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        return _counting(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        self.generic_visit(node)
        return _counting(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Block:
        self.generic_visit(node)
        return _counting(node)

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        self.generic_visit(node)
        return _ask("built", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        self.generic_visit(node)
        return _ask("built", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        # A tuple that is assigned to is no value.
        return _ask("built", node) if node.ctx == "load" else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _ask("compared", node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _ask("cut", node.node)
        elif not isinstance(node.arg, nodes.Const):
            node.arg = _ask("compared", node.arg)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        for side in (node, *node.ops):
            if not isinstance(side.expr, nodes.Const):
                side.expr = _ask("compared", side.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _ask("concatenated", *node.nodes)


def _ask(name: str, *operands: nodes.Expr) -> nodes.Call:
    """A call of a method of the sandbox, which is not itself charged as a call."""
    method = nodes.EnvironmentAttribute(name)
    line = operands[0].lineno if operands else 1
    call = nodes.Call(method, list(operands), [], None, None)
    call.set_lineno(line)
    return call


def _counting(node: Repeated) -> Repeated:
    turn = nodes.ExprStmt(_ask("turn", nodes.Const(_work(node.body)))).set_lineno(node.lineno)
    node.body.insert(0, turn)
    return node


def _work(body: list[nodes.Node]) -> int:
    """What one pass over some nodes costs besides what depends on sizes: nodes and literal text."""
    work, waiting = 10, list(body)
    while waiting:
        node = waiting.pop()
        literal = getattr(node, "data", None) or getattr(node, "value", None)
        work += 2 + (len(literal) if isinstance(literal, str) else 0)
        waiting.extend(node.iter_child_nodes())
    return work


# ---------------------------------------------------------------- what templates are given


def _metered(context: Context) -> Meter:
    return cast("_Sandbox", context.environment).meter


def _filter(name: str, act: Operation) -> Operation:
    """A filter that is charged first. What it gives lazily is computed and charged at once."""

    @pass_context
    def metered(context: Context, value: object, /, *args: object, **kwargs: object) -> object:
        meter = _metered(context)
        meter.filter(name, value, (*args, *kwargs.values()))
        result = act(*_leading(act, context), value, *args, **kwargs)
        if isinstance(result, Iterator) and not isinstance(result, Once):
            items = list[object]()
            for item in result:
                meter.structure(item)
                items.append(item)
            return Once(items)
        meter.structure(result)
        return result

    return metered


def _test(act: Operation) -> Operation:
    """A test that is charged first."""

    @pass_context
    def metered(context: Context, value: object, /, *args: object, **kwargs: object) -> object:
        _metered(context).test(value, (*args, *kwargs.values()))
        return act(*_leading(act, context), value, *args, **kwargs)

    return metered


def _leading(act: Operation, context: Context) -> tuple[object, ...]:
    """What a filter or test of Jinja's wants to be given first."""
    wanted = getattr(act, "jinja_pass_arg", None)
    known = {
        "context": context,
        "eval_context": context.eval_ctx,
        "environment": context.environment,
    }
    return () if wanted is None else (known[wanted.name],)


@pass_context
def _written(context: Context, value: object) -> object:
    """Charge what a template writes."""
    _metered(context).texts(value)
    return value


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter escapes what HTML needs escaped."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: object) -> str:
    """What chat templates call to reject a conversation."""
    raise TemplateError(str(message))


class _Dicts:
    """What ``dict`` is for a template: it can be called, and is no type to dig in."""

    def __call__(self, *args: object, **kwargs: object) -> dict[object, object]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: object, value: object = None) -> dict[object, object]:
        """A dict with one value."""
        return dict.fromkeys(cast("Iterator[object]", keys), value)


class _Namespace(Namespace):
    """A place for variables that outlives a loop; hidden names are refused."""

    def __init__(*args: object, **kwargs: object) -> None:
        Namespace.__init__(*args, **kwargs)
        for name in dict(*args[1:], **kwargs):
            _check_name(name)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        # It may hold itself.
        return "<namespace>"


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"attribute {shown(name)} of a namespace")


class _Generation(Extension):
    """``{% generation %}`` marks, for training, what the model says; here it writes its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the body up to ``{% endgeneration %}``; a scope of its own, as published."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()
