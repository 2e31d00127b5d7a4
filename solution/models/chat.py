"""A conversation as the text that a model was trained on: its own Jinja template, in Jinja's sandbox."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from spec import InvalidArgument

ROLES = ("system", "developer", "user", "assistant", "tool")

Message = Mapping[str, Any]


def render(template: str, messages: Sequence[Message], *, generate: bool, names: Mapping[str, Any]) -> str:
    """The conversation as text; with `generate` it ends where the assistant's answer begins.

    Templates come with models, from strangers: they see what they are given and can call or change nothing
    else. How long they take is not limited. Raises InvalidArgument where the template fails or refuses.
    """
    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=generate, **names)
    except Exception as error:  # a stranger's code, which may raise anything
        raise InvalidArgument(f"messages: the model's chat template refuses them: {error}") from error


def check_messages(messages: Sequence[Message]) -> None:
    """A role is one of a few words: templates build special tokens of it."""
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise InvalidArgument(f"messages[{index}]: expected a role of {', '.join(ROLES)}, got {role!r}")


@cache
def _compiled(template: str) -> Template:
    """With the options, functions and filters of transformers, for which templates are written."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter writes < and > as for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
