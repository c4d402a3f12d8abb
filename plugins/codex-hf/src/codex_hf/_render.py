"""The process that renders chat templates: a template is a program of somebody else, and may loop, swell or crash.

One rule: it imports the standard library and Jinja alone, and a template can spend no more than LIMITS of it. Lines of
JSON come in and go out: first the template, then conversations, each answered by one line as soon as it is rendered, so
that a death says which one was its cause. It ends with its input, or after a while without any.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LIMITS = {"cpu_seconds": 1.0, "memory_bytes": 512 * 2**20, "characters": 4 * 2**20}
"""What one conversation may take; the template itself is compiled within twice the processor time."""

IDLE_SECONDS = 10.0
TOKEN_NAMES = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
FIRST_MARK = 0xF0000  # the planes of private use, whose characters no text needs
LAST_MARK = 0x10FFFD
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_MESSAGE_CHARACTERS = 500

Turn = tuple[str, str, bool]
"""Role, content, and whether it must be found again even if it is blank."""


class TooLongError(Exception):
    """The template writes more characters than one conversation may have."""


class Undefined(jinja2.Undefined):
    """What a template asks for and there is not: it may ask, but not write it as if it were there.

    Only a special token that the tokenizer has not is written as nothing, as every template expects.
    """

    __slots__ = ()

    def __str__(self) -> str:
        if self._undefined_name not in TOKEN_NAMES:
            self._fail_with_undefined_error()
        return ""


class ReservedNamespace(Namespace):
    """A namespace without names of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        Namespace.__init__(self)
        for name, value in dict(*given, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateError(f"a namespace cannot hold {name!r}")
        Namespace.__setitem__(self, name, value)


class Generation(Extension):
    """The block `{% generation %}` … `{% endgeneration %}`: what the model is to write.

    `spans` are where the blocks lie in the text, `written` how many characters came before.
    """

    tags = {"generation"}  # noqa: RUF012 - Jinja reads it from the class
    spans: list[tuple[int, int]]
    texts: list[str]
    written: int

    def begin(self) -> None:
        """Forget the text before."""
        self.spans, self.texts, self.written = [], [], 0

    def parse(self, parser: Any) -> nodes.Node:
        """Make a call of the block, whose text `_note` sees."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: Callable[[], str]) -> str:
        text = str(caller())
        self.spans.append((self.written, self.written + len(text)))
        self.texts.append(text)
        return text


def make_environment() -> ImmutableSandboxedEnvironment:
    """Return an environment as transformers has it, less what would give another text tomorrow."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], undefined=Undefined
    )
    environment.filters["tojson"] = _to_json
    environment.filters["random"] = _no_random
    environment.globals["raise_exception"] = _raise
    environment.globals["namespace"] = ReservedNamespace
    del environment.globals["lipsum"]
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates may give it by its place
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _no_random(*_: Any) -> NoReturn:
    raise jinja2.TemplateError("it asks for something at random, and the same text must come out each time")


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class Template:
    """A compiled template with the variables that each conversation gets."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        environment = make_environment()
        self._compiled = environment.from_string(source)
        self._generation: Any = environment.extensions[Generation.identifier]
        self._variables = {"tools": None, "documents": None, "add_generation_prompt": False, **variables}
        tags = environment.parse(source).find_all(nodes.CallBlock)
        self.has_generation = any(_is_generation(tag) for tag in tags)
        self._private = set(_PRIVATE.findall(source))

    def render(self, contents: Sequence[tuple[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of messages (role, content), and where its generation blocks lie.

        Raises whatever the template raises, TooLongError, and TemplateError for a block that cannot be located.
        """
        messages = [{"role": role, "content": content} for role, content in contents]
        self._generation.begin()
        pieces = []
        for piece in self._compiled.generate(messages=messages, **self._variables):
            self._generation.written += len(piece)
            if self._generation.written > LIMITS["characters"]:
                raise TooLongError
            pieces.append(piece)
        text = "".join(pieces)
        for (start, end), block in zip(self._generation.spans, self._generation.texts, strict=True):
            if text[start:end] != block:
                raise jinja2.TemplateError(
                    "a {% generation %} block is within a macro, a set or a filter, where it has no place in the text"
                )
        return text, self._generation.spans

    def answer(self, turns: Sequence[Turn]) -> dict[str, Any]:
        """Return the text of a conversation and where each message's content lies in it.

        `contents` holds [message, start, end] in the order of the text, or is None where no marks pass through the
        template unchanged; `lost` are messages of which only a part came through, `absent` those that did not at all.
        """
        text, generation = self.render([(role, content) for role, content, _ in turns])
        found: dict[str, Any] = {"text": text, "generation": None, "contents": None, "lost": [], "absent": []}
        if self.has_generation:
            found["generation"] = list(generation)
        base = self._marks(text, turns)
        for level in range(3):
            marked, _ = self.render(list(mark(turns, base, level)))
            unmarked, contents, lost, absent = unmark(marked, base, turns)
            if unmarked == text:
                return {**found, "contents": contents, "lost": lost, "absent": absent}
            if level == 0 and all(content == content.strip() for _, content, _ in turns):
                break  # the other levels mark the same places
        return found

    def _marks(self, text: str, turns: Sequence[Turn]) -> int:
        """Return the first of as many characters as there are marks that occur nowhere."""
        used = self._private.union(*(_PRIVATE.findall(part) for part in (text, *(turn[1] for turn in turns))))
        base = FIRST_MARK
        for point in sorted(map(ord, used)):
            if point >= base + 2 * len(turns):
                break
            base = point + 1
        if base + 2 * len(turns) > LAST_MARK:
            raise jinja2.TemplateError("the conversation uses too many characters of private use")
        return base


def _is_generation(node: nodes.CallBlock) -> bool:
    called: Any = node.call.node
    return isinstance(called, nodes.ExtensionAttribute) and called.identifier == Generation.identifier


def mark(turns: Sequence[Turn], base: int, level: int) -> Iterator[tuple[str, str]]:
    """Put two marks of its own around the content of each message.

    Where the template strips white space, marks around it would keep it: at level 1 those of all but the assistant's
    turns are put within it, at level 2 all.
    """
    for number, (role, content, needed) in enumerate(turns):
        if not content.strip() and not needed:
            yield role, content
            continue
        core = content
        if level == 2 or (level == 1 and role != "assistant"):  # noqa: PLR2004 - the last of the levels
            core = content.strip()
        before = content[: len(content) - len(content.lstrip())] if core != content and core else ""
        after = content[len(before) + len(core) :] if core != content else ""
        yield role, f"{before}{chr(base + 2 * number)}{core}{chr(base + 2 * number + 1)}{after}"


def unmark(
    marked: str, base: int, turns: Sequence[Turn]
) -> tuple[str, list[tuple[int, int, int]], list[int], list[int]]:
    """Take the marks out again; return the text, (message, start, end) of each content, and who is lost or absent."""
    pieces, contents, length, last = [], [], 0, 0
    opened: dict[int, int] = {}
    seen: set[int] = set()
    broken: set[int] = set()
    pattern = f"[{re.escape(chr(base))}-{re.escape(chr(base + 2 * len(turns)))}]"
    for match in re.finditer(pattern, marked):
        pieces.append(marked[last : match.start()])
        length += match.start() - last
        last = match.end()
        number, closing = divmod(ord(match.group()) - base, 2)
        seen.add(number)
        if closing and number in opened:
            contents.append((number, opened.pop(number), length))
        elif closing or number in opened:
            broken.add(number)
        else:
            opened[number] = length
    pieces.append(marked[last:])
    broken |= opened.keys()
    needed = [number for number, (_, content, must) in enumerate(turns) if must or content.strip()]
    return (
        "".join(pieces),
        sorted(contents, key=lambda content: content[1:]),
        sorted(broken),
        [number for number in needed if number not in seen],
    )


def failure(error: BaseException) -> dict[str, Any]:
    """Return what went wrong in a template, in words, with the template's line where it is known."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return {"error": _words(error)[:_MESSAGE_CHARACTERS], "line": line, "kind": type(error).__name__}


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"it needs more than {LIMITS['memory_bytes'] // 2**20} MiB of memory"
    if isinstance(error, TooLongError):
        return f"it writes more than {LIMITS['characters']:,} characters"
    if isinstance(error, RecursionError):
        return "it calls itself too often"
    if isinstance(error, jinja2.UndefinedError) and "strftime_now" in str(error):
        return (
            "it asks for today's date (strftime_now), and the tokens of a conversation must not depend on it"
        )
    if isinstance(error, jinja2.TemplateError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode() + b"\n"


def _within(seconds: float, work: Callable[[], Mapping[str, Any]]) -> None:
    """Answer with what `work` gives; past the processor time the system ends this process, whatever it does."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        line = _line(work())
    except Exception as error:  # noqa: BLE001 - whatever a template raises is told
        line = _line({name: _valid(value) for name, value in failure(error).items()})
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _valid(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _limit_process() -> None:
    """Let nobody's settings, handed down from the parent, keep the limits from ending this process."""
    os.set_blocking(
        sys.stderr.fileno(), False
    )  # nobody reads it meanwhile, and a full pipe takes no processor time
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(LIMITS["memory_bytes"])
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _serve() -> None:
    template: list[Template] = []

    def compiled(source: str, variables: Mapping[str, str]) -> dict[str, Any]:
        template.append(Template(source, variables))
        return {"generation": template[0].has_generation}

    _limit_process()
    first = json.loads(sys.stdin.buffer.readline())
    _within(2 * LIMITS["cpu_seconds"], lambda: compiled(first["template"], first["variables"]))
    while template and select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        for turns in json.loads(line):
            _within(LIMITS["cpu_seconds"], lambda turns=turns: template[0].answer(turns))  # type: ignore[misc]


if __name__ == "__main__":
    _serve()
