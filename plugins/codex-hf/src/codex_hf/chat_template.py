"""Where the chat template of a tokenizer comes from, and what it needs of the vocabulary.

One rule: a template is text here; it is run in a process of its own alone (`rendering`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from codex_hf.rendering import Renderer
from codex_kernel import InputError

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATES_FOLDER = "additional_chat_templates"
TOKEN_VARIABLES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_MAX_BYTES = 1 << 20
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_LOOKS_SPECIAL = re.compile(r"<\|[\w./-]+\|>|<\uff5c[^\uff5c<>\n]+\uff5c>|</?s>|<(?:start|end)_of_turn>")


def read_template(file: Path) -> str:
    """Read a template file; raise InputError where it is missing, no UTF-8, or larger than a mebibyte."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"the chat template {file} has more than {_MAX_BYTES:,} bytes")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the chat template {file} is not UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"the chat template {file} cannot be read: {error.strerror}") from error


def template_problems(file: Path, tokens: Collection[str] | None) -> list[str]:
    """Say what is wrong with the template file of the option `chat_template`; it is compiled, and not run.

    tokens: the special tokens that the vocabulary will have; None: they are not known yet.
    """
    try:
        source = read_template(file)
        Renderer(source, {}).check()
    except InputError as error:
        return [f"chat_template: {error.message}"]
    missing = [] if tokens is None else missing_tokens(source, tokens)
    return [f"chat_template: {_missing_words(missing)}"] if missing else []


def missing_tokens(template: str, tokens: Collection[str]) -> list[str]:
    """Return what looks like a special token in a template, but is none of `tokens`."""
    written = dict.fromkeys(_LOOKS_SPECIAL.findall(_COMMENT.sub("", template)))
    return [token for token in written if token not in tokens]


def require_tokens(template: str, tokens: Collection[str]) -> None:
    """Raise InputError where a template writes special tokens that the vocabulary has not."""
    missing = missing_tokens(template, tokens)
    if missing:
        raise InputError(f"chat_template: {_missing_words(missing)}", remedy=_remedy(missing))


def _missing_words(missing: list[str]) -> str:
    return f"the template writes {', '.join(missing)}, and the vocabulary has no such special token"


def _remedy(missing: list[str]) -> str:
    return (
        f"add to tokenizer.special_tokens: {', '.join(missing)}; or write a template for the tokens there are"
    )


def stored_template(folder: Path, config: Mapping[str, Any], name: str | None) -> str | None:
    """Return the template that a pretrained tokenizer has in its folder or its configuration.

    name: one of several; None: the only one, or the one that is called `default`. Returns None where there is none.
    Raises InputError where there is no template of that name.
    """
    templates = _templates(folder, config)
    if name is None:
        return templates.get("default")
    if name not in templates:
        raise InputError(
            f"the tokenizer of {folder} has no chat template {name!r}; it has {', '.join(sorted(templates)) or 'none'}"
        )
    return templates[name]


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the templates by name; files come before what the configuration says, as in transformers."""
    files = {path.stem: path for path in sorted((folder / TEMPLATES_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        files["default"] = folder / TEMPLATE_FILE
    if files:
        return {name: read_template(path) for name, path in files.items()}
    stored = config.get("chat_template")
    if isinstance(stored, str):
        return {"default": stored}
    if isinstance(stored, Mapping):
        stored = [{"name": name, "template": template} for name, template in stored.items()]
    try:
        return {str(each["name"]): str(each["template"]) for each in stored or ()}
    except (TypeError, KeyError) as error:
        raise InputError(
            f"the chat templates in the tokenizer's configuration in {folder} are damaged: expected a text, or a list "
            "of objects with name and template"
        ) from error


def token_variables(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens that a configuration names, as the template sees them (`bos_token`, …)."""
    found = {name: config.get(name) for name in TOKEN_VARIABLES}
    plain = {
        name: value.get("content") if isinstance(value, Mapping) else value for name, value in found.items()
    }
    return {name: value for name, value in plain.items() if isinstance(value, str)}
