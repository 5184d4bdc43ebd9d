"""The chat templates of a checkpoint: where they are found, and which one is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2.exceptions import SecurityError

from skipstone.errors import CheckpointError
from skipstone.files import Json
from skipstone.quoting import one_line, shown
from skipstone.text import sandbox
from skipstone.text.costs import ExhaustedError
from skipstone.text.published import read_published_text, read_settings

DEFAULT = "default"
_TOOLS = "tool_use"
_REMEDY = "use the template of the published checkpoint"
_TRUST = "use a template you trust"
_MOST_BYTES = 4 << 20


class ChatTemplate:
    """One template, compiled."""

    def __init__(self, text: str, where: str) -> None:
        """Compile.

        Args:
            text: its source.
            where: it was found, for messages.

        Raises:
            CheckpointError: it does not parse.
        """
        self.text = text
        """Its source."""
        self._where = where
        try:
            self._code = sandbox.compile_template(text)
        except ExhaustedError as error:
            raise self.refused("is too long", error) from None
        # Jinja's compiler and Python's raise many kinds for what is malformed or nested too deeply.
        except Exception as error:
            raise self.refused("does not parse", error) from None

    def render(self, variables: Mapping[str, object], characters: int) -> str:
        """Text of a conversation; ``characters`` of the variables are what people wrote.

        Raises:
            CheckpointError: it fails, reaches for something unsafe, or takes too much.
        """
        try:
            return sandbox.render(self._code, variables, characters)
        except ExhaustedError as error:
            raise self.refused("takes too much time or memory", error, _TRUST) from None
        except SecurityError as error:
            raise self.refused("reaches for something unsafe", error, _TRUST) from None
        # The template is somebody else's program: whatever it raises is its own failure.
        except Exception as error:
            raise self.refused("fails", error) from None

    def refused(
        self, what: str, error: Exception | None = None, remedy: str = _REMEDY
    ) -> CheckpointError:
        """The error that names this template."""
        reason = "" if error is None else f" ({one_line(error)})"
        return CheckpointError(f"{self._where}: the chat template {what}{reason}; {remedy}")


def read_templates(directory: Path, settings: Json) -> dict[str, ChatTemplate]:
    """All chat templates by name; none if a checkpoint has none.

    Files of their own come before what tokenizer_config.json holds, and a processor's file last.

    Raises:
        CheckpointError: a file is no text, or a template does not parse.
    """
    own = _own_files(directory)
    if own:
        return own
    for file, values in (
        ("tokenizer_config.json", settings),
        ("chat_template.json", read_settings(directory / "chat_template.json")),
    ):
        found = _named(values.get("chat_template"), directory / file)
        if found:
            return found
    return {}


def choose(
    templates: Mapping[str, ChatTemplate], source: str, *, tools: bool
) -> ChatTemplate | None:
    """The template for a conversation; None if there is none at all.

    Raises:
        CheckpointError: there are several, and none is the default.
    """
    if tools and _TOOLS in templates:
        return templates[_TOOLS]
    if templates and DEFAULT not in templates:
        raise CheckpointError(
            f"{source} has the chat templates {', '.join(templates)[:200]} and none named "
            f"{DEFAULT!r}; name one so"
        )
    return templates.get(DEFAULT)


def _own_files(directory: Path) -> dict[str, ChatTemplate]:
    main = directory / "chat_template.jinja"
    paths = {DEFAULT: main} if main.exists() else {}
    # In a folder, the name of a file is the name of its template.
    more = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    paths |= {path.stem: path for path in more}
    return {
        name: ChatTemplate(read_published_text(path, _MOST_BYTES), str(path))
        for name, path in paths.items()
    }


def _named(value: object, path: Path) -> dict[str, ChatTemplate]:
    """One text, or a list of texts with names."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: ChatTemplate(value, str(path))}
    entries = value if isinstance(value, list) else [value]
    found = dict[str, ChatTemplate]()
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        text = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(text, str):
            raise CheckpointError(
                f"{path}: chat_template is a {type(value).__name__} with an entry that is no "
                f"name and template; give one text, or a list of {{'name': ..., 'template': ...}}"
            )
        found[name] = ChatTemplate(text, f"{path}, template {shown(name)}")
    return found
