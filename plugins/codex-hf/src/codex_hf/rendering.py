"""Rendering conversations by a chat template, in a process of its own (`_render`).

One rule: whatever the template does, this process gets the text or an error that names the conversation; the other one
never outlives its use.
"""

from __future__ import annotations

import contextlib
import json
import re
import reprlib
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from codex_kernel import ConversationError, InputError, Message, PluginError

_PROGRAM = Path(__file__).with_name("_render.py")
_REQUEST_CHARACTERS = 1 << 18
_CONVERSATION_CHARACTERS = 4 << 20  # the text may have no more either
_ROLE = re.compile(r"[A-Za-z0-9_-]{1,100}")
_STRFTIME = "write a date into the template instead of strftime_now"


@frozen(eq=False)
class Rendered:
    """A conversation as text.

    `generation` are (start, end) of what the template itself says the model writes; None: it says nothing of it.
    `contents` are (message, start, end) of the messages' contents, in the order of the text; None: the template changes
    them so that they cannot be found again. `lost` are messages found in part, `absent` those not found at all.
    """

    text: str
    generation: Sequence[tuple[int, int]] | None
    contents: Sequence[tuple[int, int, int]] | None
    lost: Sequence[int]
    absent: Sequence[int]


def must_be_found(message: Message) -> bool:
    """Say whether a message is one of the assistant's that is trained."""
    return message.role == "assistant" and message.trained


@define(eq=False)
class Renderer:
    """A template and the process that renders it, which is started when it is needed; safe to use from threads."""

    template: str
    variables: Mapping[str, str]
    generation: bool = field(init=False, default=False)
    """Whether the template has `{% generation %}` blocks; known once it was started."""
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _end: Any = field(init=False, default=None)
    _lock: Any = field(init=False, factory=threading.Lock)

    def check(self) -> None:
        """Raise InputError where the template is no Jinja template."""
        with self._lock:
            try:
                self._ready()
            except BaseException:
                self._stop()
                raise

    def render(self, conversations: Sequence[Sequence[Message]]) -> list[Rendered]:
        """Return the text of each conversation.

        Raises ConversationError where the template fails, takes too long or too much memory, InputError where it is no
        template at all.
        """
        with self._lock:
            try:
                return list(self._answers(conversations))
            except (
                BaseException
            ):  # also a signal's: what is still on its way would be taken for the next answers
                self._stop()
                raise

    def close(self) -> None:
        """End the process; the next conversation starts another."""
        with self._lock:
            self._stop()

    def _answers(self, conversations: Sequence[Sequence[Message]]) -> Iterator[Rendered]:
        self._ready()
        done = 0
        for request, count in _requests(conversations, needed=not self.generation):
            process, line = self._ask(request)
            for _ in range(count):
                yield self._rendered(line or _read(process), done)
                line = b""
                done += 1

    def _ask(self, request: bytes) -> tuple[subprocess.Popen[bytes], bytes]:
        """Send a request; return who answers it, and the first line of the answer."""
        process = self._ready()
        first = _asked(process, request)
        if not first and process.wait() == 0:  # it was about to end for want of work
            self._stop()
            process = self._ready()
            first = _asked(process, request)
        return process, first

    def _rendered(self, line: bytes, index: int) -> Rendered:
        if not line.endswith(b"\n"):
            raise ConversationError(f"the chat template {self._cause_of_death()}", index=index)
        answer = json.loads(line)
        if "error" in answer:
            raise ConversationError(
                f"the chat template fails{_in_line(answer)}: {answer['error']}",
                index=index,
                remedy=_STRFTIME if "strftime_now" in answer["error"] else None,
            )
        return Rendered(**answer)

    def _ready(self) -> subprocess.Popen[bytes]:
        """Return the process, started anew where it has ended or is no child of this one."""
        process = self._process
        if process is not None and process.poll() is None:  # in a fork, what is no child counts as ended
            return process
        self._stop()
        process = self._start()
        answer = _asked(process, _line({"template": self.template, "variables": dict(self.variables)}))
        if not answer:
            raise InputError(f"the chat template cannot be compiled: it {self._cause_of_death()}")
        told = json.loads(answer)
        if "error" in told:
            raise InputError(f"the chat template is not valid Jinja{_in_line(told)}: {told['error']}")
        self.generation = told["generation"]
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                # -P: the modules beside the program must not stand in for those of others
                [sys.executable, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for this process, which may have something to finish
            )
        except OSError as error:
            raise PluginError(f"no process can be started to render the chat template: {error}") from error
        self._process = process
        self._end = weakref.finalize(self, _end, process)
        return process

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _cause_of_death(self) -> str:
        process = self._process
        assert process is not None  # noqa: S101 - it was just spoken to
        code = process.wait()
        if code == -signal.SIGPROF:
            return "takes too much processor time (a second for a conversation, two for the template itself)"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        if "MemoryError" in said:
            return "needs too much memory"
        raise PluginError(f"the process that renders chat templates ended with {code}: {said[-500:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and wait for it; one that is no child, in a fork, is left alone by Popen itself."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not yet written has nobody left to read it
                pipe.close()
    process.kill()
    process.wait()


def _asked(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Send a line and return the first line of the answer; nothing where the process has ended."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.flush()
    return _read(process)


def _read(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    return process.stdout.readline()


def _requests(conversations: Sequence[Sequence[Message]], *, needed: bool) -> Iterator[tuple[bytes, int]]:
    """Yield requests of about equal size, and how many conversations are in each."""
    batch: list[list[tuple[str, str, bool]]] = []
    characters = 0
    for index, messages in enumerate(conversations):
        _check(messages, index)
        batch.append([(turn.role, turn.content, needed and must_be_found(turn)) for turn in messages])
        characters += sum(len(turn.content) for turn in messages)
        if characters >= _REQUEST_CHARACTERS:
            yield _line(batch), len(batch)
            batch, characters = [], 0
    if batch:
        yield _line(batch), len(batch)


def _check(messages: Sequence[Message], index: int) -> None:
    """Raise ConversationError for what is no conversation."""
    if not messages:
        raise ConversationError("the conversation has no messages", index=index)
    for number, turn in enumerate(messages, start=1):
        role: object = turn.role
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise ConversationError(
                f"message {number} has the role {reprlib.repr(role)}, expected a word of letters, digits, _ and -",
                index=index,
            )
        content: object = turn.content
        if not isinstance(content, str):
            raise ConversationError(
                f"message {number} has the content {reprlib.repr(content)}, expected a text", index=index
            )
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise ConversationError(f"message {number} is not valid Unicode: {error}", index=index) from error
    characters = sum(len(turn.content) for turn in messages)
    if characters > _CONVERSATION_CHARACTERS:
        raise ConversationError(
            f"the conversation has {characters:,} characters, more than {_CONVERSATION_CHARACTERS:,}",
            index=index,
        )


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _in_line(answer: Mapping[str, Any]) -> str:
    return f" in line {answer['line']}" if answer["line"] is not None else ""
