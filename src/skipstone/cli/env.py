"""``skipstone env``: what a bug report needs to say about the machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from skipstone.cli.terminal import say, say_json

_PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "jinja2", "huggingface_hub")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def env(*, as_json: bool) -> None:
    """Show versions, devices and threads."""
    import torch

    from skipstone import __version__

    facts: dict[str, object] = {
        "skipstone": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in _PACKAGES},
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
    if as_json:
        say_json(facts)
        return
    for name, value in facts.items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else value
        say((f"{name:16} ", "label"), str(shown))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
