"""What a policy says of itself, in full: from its class, its module, and what it declares."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import textwrap
from dataclasses import dataclass
from itertools import pairwise

from skipstone.cache import CacheNeed, CachePolicy
from skipstone.policies import field_defaults
from skipstone.unmask import Need, UnmaskPolicy


@dataclass(frozen=True)
class SettingText:
    """One setting of a policy."""

    name: str
    default: object
    kind: str
    """As it is written in the class: ``float | None``."""
    meaning: str
    """What stands below it there; empty if nothing does, or the source is not at hand."""


@dataclass(frozen=True)
class PolicyText:
    """All that is known of a policy."""

    rule: tuple[str, ...]
    """Paragraphs."""
    source: tuple[str, ...]
    """Paragraphs: where it comes from, and what it does otherwise than the published code."""
    settings: tuple[SettingText, ...]
    declares: tuple[str, ...]
    """What it needs and what that costs, at its defaults, a sentence each."""


def text_of(policy: type) -> PolicyText:
    """What a class of policies says of itself."""
    meanings, kinds = _below(policy), _kinds(policy)
    return PolicyText(
        rule=_paragraphs(policy.__doc__),
        source=_paragraphs(sys.modules[policy.__module__].__doc__),
        settings=tuple(
            SettingText(name, default, kinds.get(name, ""), meanings.get(name, ""))
            for name, default in field_defaults(policy).items()
        ),
        declares=_declared(policy),
    )


def _paragraphs(doc: str | None) -> tuple[str, ...]:
    """Of a docstring, each in one line; what letters of shapes mean is for who reads the code."""
    parts = inspect.cleandoc(doc or "").split("\n\n")
    lines = (" ".join(part.split()).replace("``", "") for part in parts)
    return tuple(line for line in lines if line and not line.startswith("Shape letters"))


def _body(owner: type) -> list[ast.stmt]:
    """What stands in a class and those that it derives from; nothing of what has no source here."""
    found = list[ast.stmt]()
    for one in reversed(owner.__mro__):
        with contextlib.suppress(OSError, TypeError, SyntaxError):
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
            found += node.body if isinstance(node, ast.ClassDef) else []
    return found


def _below(owner: type) -> dict[str, str]:
    """The text below each name that a class gives a value, by name."""
    found, body = dict[str, str](), _body(owner)
    for entry, after in pairwise(body):
        targets = entry.targets if isinstance(entry, ast.Assign) else [getattr(entry, "target", 0)]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            told = " ".join(_paragraphs(str(after.value.value)))
            found |= {name.id: told for name in targets if isinstance(name, ast.Name)}
    return found


def _kinds(policy: type) -> dict[str, str]:
    """How the type of each setting is written, with the words of those that are one of some."""
    words = vars(sys.modules[policy.__module__])
    written = {
        entry.target.id: ast.unparse(entry.annotation)
        for entry in _body(policy)
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
    }
    named = {name: getattr(words.get(kind), "__args__", ()) for name, kind in written.items()}
    return {
        name: ", ".join(map(str, named[name] or _written_out(kind))) or kind
        for name, kind in written.items()
    }


def _written_out(kind: str) -> tuple[object, ...]:
    """The words of ``Literal[...]``; none of another type."""
    node = ast.parse(kind, mode="eval").body
    if not isinstance(node, ast.Subscript) or ast.unparse(node.value) != "Literal":
        return ()
    found = ast.literal_eval(node.slice)
    return found if isinstance(found, tuple) else (found,)


def _declared(policy: type) -> tuple[str, ...]:
    """What a policy at its defaults declares."""
    try:
        made = policy()
    except (TypeError, ValueError):
        return ()
    if isinstance(made, UnmaskPolicy):
        return tuple(_of_unmask(made))
    said = [] if getattr(made, "pure", False) else [_WAITS]
    if isinstance(made, CachePolicy):
        said += [f"needs {need}: {_CACHE_NEEDS.get(need, '')}" for need in sorted(made.needs)]
    return tuple(said)


_WAITS = "each step waits until the one before is known to the host: it depends on what that gave"


_EAGER = "layers are computed eagerly, without CUDA graphs"
_KEPT = "it is kept for each position beside keys and values, and counts in --memory"
_CACHE_NEEDS: dict[CacheNeed, str] = {
    "attention": f"how rows attend in each layer; {_EAGER}",
    "keys": f"queries and keys, of which it may hide some; {_EAGER}",
    "layer_inputs": f"what entered layers before which rows are named anew; {_KEPT}",
    "layer_changes": f"what layers added to rows that they do not compute; {_KEPT}",
    "contexts": f"what attention and the MLP of a layer gave rows; {_KEPT}",
    "confidence": "how confident masks right of the block are; these are scored, too",
}


def _of_unmask(policy: UnmaskPolicy) -> list[str]:
    below = _below(Need)
    needs = [f"needs {need.name}: {below.get(need.name, '')}" for need in sorted(policy.needs)]
    if not needs:
        needs = ["needs the probability of each mask's token alone"]
    pure = "steps are launched before the one before is known" if policy.pure else _WAITS
    said = [*needs, pure]
    if policy.uses_steps:
        said.append("the number of steps decides how much is committed")
    if policy.uses_seed:
        said.append("random numbers decide what is committed")
    known = "are held against its rule" if policy.replays else "have no rule to be held against"
    return [*said, f"in a diagnosis, recorded decisions {known}"]
