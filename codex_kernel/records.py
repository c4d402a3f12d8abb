"""One schema of records for every dataset that reads records: JSON lines, tables, foreign datasets.

One rule: a record becomes a document whole or is a BadRecord that says why; nothing of what is trained or read with it
is dropped, converted or guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from codex_kernel.errors import InputError
from codex_kernel.interfaces import BadRecord, Document, Message
from codex_kernel.options import option

_ROLES = ("system", "developer", "user", "assistant", "tool")
_WEIGHT = "weight"
_TOOLS = ("tools", "functions")


@frozen(slots=False, kw_only=True)
class TextFields:
    """The options that name the fields of a record with a text, or a prompt and a completion.

    A base class for plugins; it leaves room in `__slots__` for a second one.
    """

    text: str = option("text", help="Field with the text to train on.")
    prompt: str = option(
        "prompt",
        help="Field with the text that stands before a completion and is only read; may be left out.",
    )
    completion: str = option("completion", help="Field with the text to train on after a prompt.")
    id: str | None = option(None, help="Field with a unique id, a string or an integer; null: file and line.")
    group: str | None = option(
        None,
        help="Field whose equal values never cross between training and validation; null: each record by itself.",
    )
    language: str | None = option(
        None, help="Field with the programming language, taken in lower case; null: not known."
    )


@frozen(slots=False, kw_only=True)
class RecordFields(TextFields):
    """The same, for records that may hold a conversation as well."""

    messages: str = option("messages", help="Field with a conversation: a list of messages.")
    role: str = option("role", help="Field of a message that says whose it is.")
    content: str = option("content", help="Field of a message with its text.")
    roles: dict[str, str] = option(
        factory=dict,
        help="Other words for the roles system, developer, user, assistant and tool, such as {human: user}.",
    )


def document_of(record: Mapping[str, Any], fields: TextFields, where: str) -> Document | BadRecord:
    """Make a document of one record.

    It has a text, a completion (with or without a prompt) or, with RecordFields, messages; a field that is None counts
    as not there beside another one. `where` is `file:line`, and the document's id where `fields` name none. A message
    may have a `weight` of 0 (only read) or 1. Fields that nothing names are metadata and are left alone.
    """
    try:
        identity = where if fields.id is None else _identifier(record, fields.id)
        group = identity if fields.group is None else _identifier(record, fields.group)
        language = "" if fields.language is None else _language(record, fields.language)
        name = _content_field(record, fields)
        if isinstance(fields, RecordFields) and name == fields.messages:
            messages = _messages(record[name], fields)
            return Document(identity, group, messages=messages, language=language)
        prompted = name == fields.completion and fields.prompt in record
        prompt = _string(record, fields.prompt) if prompted else ""
        return Document(identity, group, _string(record, name), prompt, language=language)
    except _Unreadable as fault:
        return BadRecord(where, fault.problem, fault.remedy)


def columns_of(names: Sequence[str], fields: TextFields, where: str) -> list[str]:
    """Return which columns of a table are read: those that `fields` name, and those that must not be dropped.

    Raises InputError where the table has nothing to train on, lacks a column that is asked for, or has one twice.
    """
    content = _content_names(fields)
    if not any(name in names for name in content):
        raise InputError(
            f"{where}: no column {_one_of(content)}, has {_listed(names)}", remedy=_name_them(fields)
        )
    for option_name in ("id", "group", "language"):
        name = getattr(fields, option_name)
        if name is not None and name not in names:
            raise InputError(f"{where}: no column {name!r}, the option {option_name}, has {_listed(names)}")
    asked = {fields.prompt, fields.id, fields.group, fields.language, *content}
    if isinstance(fields, RecordFields) and fields.messages in names:
        asked.update(_TOOLS)
    read = [name for name in names if name in asked]
    twice = [name for name in read if read.count(name) > 1]
    if twice:
        raise InputError(f"{where}: the column {twice[0]!r} stands twice, among {_listed(names)}")
    return read


class _Unreadable(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def _content_field(record: Mapping[str, Any], fields: TextFields) -> str:
    """Return the field with what is trained; two options may name one field, and then the first one counts."""
    names = _content_names(fields)
    given = [name for name in names if record.get(name) is not None]
    if not given:
        raise _nothing_given(record, fields)
    name = given[0]
    if len(given) > 1:
        raise _Unreadable(
            f"has both {given[1]!r} and {name!r}, expected one of them",
            "give the option of the field that is to be left out another name",
        )
    if name not in {fields.completion, fields.prompt} and record.get(fields.prompt) is not None:
        remedy = f"the option completion: {name} trains on the text after the prompt"
        raise _Unreadable(
            f"has both {fields.prompt!r} and {name!r}, expected a prompt with a completion, or {name!r} alone",
            f"{remedy}; another name for the option prompt leaves the prompt out"
            if name == fields.text
            else "another name for the option prompt leaves the prompt out",
        )
    if isinstance(fields, RecordFields) and name == fields.messages:
        _refuse_tools(record)
    return name


def _nothing_given(record: Mapping[str, Any], fields: TextFields) -> _Unreadable:
    names = _content_names(fields)
    null = [name for name in reversed(names) if name in record]
    if null:
        return _Unreadable(f"field {null[0]!r}: expected a value, got null")
    return _Unreadable(f"no field {_one_of(names)}, has {_listed(list(record))}", _name_them(fields))


def _content_names(fields: TextFields) -> list[str]:
    """Return the fields that may hold what is trained, the one that counts first where two options name one field."""
    messages = [fields.messages] if isinstance(fields, RecordFields) else []
    return list(dict.fromkeys([*messages, fields.completion, fields.text]))


def _name_them(fields: TextFields) -> str:
    messages = ", or messages" if isinstance(fields, RecordFields) else ""
    return f"name the fields with the options text, or prompt and completion{messages}"


def _one_of(names: list[str]) -> str:
    *most, last = [repr(name) for name in reversed(names)]
    return f"{', '.join(most)} or {last}" if most else last


def _refuse_tools(record: Mapping[str, Any]) -> None:
    for name in _TOOLS:
        if record.get(name):
            raise _Unreadable(
                f"has {name!r} beside the messages, and tools are not read",
                "say what the model shall know of its tools in a system message, or take the field out",
            )


def _messages(value: object, fields: RecordFields) -> tuple[Message, ...]:
    field = f"field {fields.messages!r}"
    if not isinstance(value, list | tuple):
        raise _Unreadable(f"{field}: expected a list of messages, got {_kind(value)}")
    if not value:
        raise _Unreadable(f"{field}: expected at least one message, got an empty list")
    return tuple(_message(item, fields, f"message {number}") for number, item in enumerate(value, 1))


def _message(item: object, fields: RecordFields, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise _Unreadable(f"{where}: expected an object, got {_kind(item)}")
    missing = [name for name in (fields.role, fields.content) if name not in item]
    if missing:
        raise _Unreadable(
            f"{where}: no field {missing[0]!r}, has {_listed(list(item))}",
            "name the fields of a message with the options role and content",
        )
    known = (fields.role, fields.content, _WEIGHT)
    unknown = [name for name, value in item.items() if name not in known and value is not None]
    if unknown:
        raise _Unreadable(
            f"{where}: has {unknown[0]!r}, which is not read; {fields.role!r}, {fields.content!r}, {_WEIGHT!r} are",
            "put what the model shall see into the text of the message, or take the field out",
        )
    role = _role(item, fields, where)
    return Message(role, _string(item, fields.content, f"{where}: "), trained=_trained(item, role, where))


def _role(item: Mapping[str, Any], fields: RecordFields, where: str) -> str:
    said = _string(item, fields.role, f"{where}: ")
    role = fields.roles.get(said, said)
    if role not in _ROLES and said not in fields.roles:
        raise _Unreadable(
            f"{where}: role {said!r} is not known, expected {', '.join(_ROLES[:-1])} or {_ROLES[-1]}",
            f"say what it means with the option roles, such as {{{said}: user}}",
        )
    return role


def _trained(item: Mapping[str, Any], role: str, where: str) -> bool:
    weight = item.get(_WEIGHT)
    if weight is None:
        return True
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise _Unreadable(f"{where}: weight: expected 0 or 1, got {_shown(weight)}")
    if weight and role != "assistant":
        raise _Unreadable(
            f"{where}: weight: 1 trains a message, and only those of the assistant are, not {role!r}"
        )
    return bool(weight)


def _string(record: Mapping[str, Any], name: str, where: str = "") -> str:
    if name not in record:
        raise _Unreadable(f"{where}no field {name!r}, has {_listed(list(record))}")
    value = record[name]
    if not isinstance(value, str):
        raise _Unreadable(f"{where}field {name!r}: expected a string, got {_kind(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _Unreadable(
                f"{where}field {name!r}: a lone surrogate at character {error.start} is not text"
            ) from error
    return value


def _identifier(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = _string(record, name)
    if not text:
        raise _Unreadable(f"field {name!r}: expected a name, got an empty string")
    return text


def _language(record: Mapping[str, Any], name: str) -> str:
    return "" if name in record and record[name] is None else _string(record, name).lower()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES]) or "none"
    return f"{shown} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown


_SHOWN_NAMES = 12


def _shown(value: object) -> str:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else _kind(value)


def _kind(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        bytes: "bytes",
        list: "a list",
        tuple: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")
