"""``GET /v1/settings``."""

from __future__ import annotations

import inspect
import typing
from typing import cast

from fastapi import APIRouter

from skipstone.engine.settings import Settings
from skipstone.policies import KINDS, field_defaults
from skipstone.server.protocol.settings import Plain, PolicyCard, SettingCard, SettingList
from skipstone.server.served import ServedModel


def setting_routes(served: ServedModel) -> APIRouter:
    """The endpoint, for what is served."""
    routes = APIRouter()

    @routes.get("/v1/settings")
    async def settings() -> SettingList:
        """What a request may change of how it is decoded, and what holds if it does not."""
        own = served.engine.settings.as_json()
        return SettingList(
            model=served.options.name,
            traces=served.options.keep_traces > 0,
            data=[
                SettingCard(name=name, value=_plain(value), choices=_choices(name))
                for name, value in own.items()
            ],
            policies={
                kind.name: [_card(name, policy) for name, policy in kind.known().items()]
                for kind in KINDS
            },
        )

    return routes


def _choices(name: str) -> list[str]:
    """The words that a setting may be."""
    for kind in KINDS:
        if kind.name == name:
            return kind.names()
    hint = typing.get_type_hints(Settings)[name]
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    # None: it may be left to the model.
    return ["true", "false"] if bool in (hint, *typing.get_args(hint)) else []


def _card(name: str, policy: type) -> PolicyCard:
    about = (inspect.getdoc(policy) or "").partition("\n")[0]
    settings = {key: _plain(value) for key, value in field_defaults(policy).items()}
    return PolicyCard(name=name, about=about.replace("``", ""), settings=settings)


def _plain(value: object) -> Plain:
    """A value as JSON has it; what JSON has not, as the text that the command line takes."""
    if isinstance(value, tuple):
        return [int(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return cast("Plain", value)
    return str(value)
