"""The process that renders chat templates: what a template may not do, and when the process ends."""

from __future__ import annotations

import gc
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from codex_hf import rendering
from codex_hf.rendering import Renderer
from codex_kernel import ConversationError, InputError, Message, PluginError
from codex_kernel.testing.chat import conversation

TALK = conversation("question", "answer")
ECHO = "{% for m in messages %}{{ m.content }}{% endfor %}"
_PATIENCE_SECONDS = 60


def children():
    """Return the processes that this one started and has not waited for."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for pids in lists for pid in pids.read_text().split()}


@pytest.fixture(autouse=True)
def no_process_stays():
    """After each test, no process is left that it started."""
    before = children()
    yield
    gc.collect()
    assert children() <= before


def render(template, messages=TALK, **variables):
    """Render one conversation."""
    return Renderer(template, variables).render([messages])[0]


def program(folder, setting):
    """Write a variant of the program with another setting."""
    file = folder / "variant.py"
    file.write_text(
        f"import sys; sys.path.append({str(Path(rendering.__file__).parent)!r})\n"
        f"import _render\n_render.{setting}\n_render._serve()\n"
    )
    return file


def failure(template, messages=TALK):
    """Return the error that a template ends in."""
    with pytest.raises(ConversationError) as caught:
        render(template, messages)
    assert caught.value.index == 0
    return caught.value.message


# ── what a template may not do ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
            "takes too much processor time",
        ),
        ("{{ 3 ** (3 ** (messages | length * 80)) }}", "takes too much processor time"),
        ("{{ 'x' * 2000000000 }}", "in line 1: it needs more than 512 MiB of memory"),
        ("{{ [0] * 1000000000 }}", "it needs more than 512 MiB of memory"),
        ("{{ '%2000000000d' % 1 }}", "it needs more than 512 MiB of memory"),
        (
            "{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
            "it writes more than 4,194,304 characters",
        ),
        ("{{ 'x' * 50000000 }}", "it writes more than 4,194,304 characters"),
        ("{% for a in range(999999999) %}{% endfor %}", "Range too big"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "it calls itself too often"),
        (
            "\n{{ ''.__class__.__mro__ }}",
            "in line 2: access to attribute '__class__' of 'str' object is unsafe",
        ),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{% set ns = namespace(__class__=1) %}", "a namespace cannot hold '__class__'"),
        ("{% include '/etc/passwd' %}", "no loader for this environment"),
        ("{{ messages[0].name }}", "'dict object' has no attribute 'name'"),
        ("{{ messages[7].content }}", "list object has no element 7"),
        ("{{ persona }}", "'persona' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ raise_exception('only one turn') }}", "in line 1: only one turn"),
        ("{{ raise_exception('x' * 5000) }}", "xxx"),
        ("{{ strftime_now('%Y') }}", r"today's date \(strftime_now\)"),
        ("{{ [1, 2] | random }}", "at random"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        (
            "{% set x %}{% generation %}{{ messages[1].content }}{% endgeneration %}{% endset %}{{ '!' + x }}",
            "has no place in the text",
        ),
    ],
)
def test_a_template_that_misbehaves_is_an_error(template, message):
    """Time, memory, length, recursion, access and randomness are limited, and each limit says which it is."""
    assert re.search(message, found := failure(template)), found
    assert len(found) < 700, "the template's own words are cut"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% for %}", "not valid Jinja in line 2"),
        ("{% if x %}", "not valid Jinja in line 1: Unexpected end of template"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "not valid Jinja"),
        ("{% generation %}x", "not valid Jinja"),
        ("{{ 3 ** (3 ** 160) }}", "cannot be compiled: it takes too much processor time"),
    ],
)
def test_what_is_no_template_is_an_error(template, message):
    """A template that cannot be compiled is an error before any conversation, with its line."""
    with pytest.raises(InputError, match=message):
        Renderer(template, {}).check()


def test_warnings_hold_up_nothing():
    """A template that Python has thousands of warnings for is rendered: nobody waits until somebody reads them."""
    renderer = Renderer("{{ 1[1:2] if 0 }}\n" * 1000 + ECHO, {})
    deadline = threading.Timer(_PATIENCE_SECONDS, lambda: process_of(renderer).kill())
    deadline.start()
    try:
        assert renderer.render([TALK])[0].text.endswith("questionanswer")
    finally:
        deadline.cancel()
        deadline.join()  # it holds the renderer


def test_one_conversation_does_not_spoil_the_next():
    """An error names the conversation that it is about, and the next ones are rendered as ever."""
    template = "{% if messages[0].content == 'loop' %}{% for a in range(90000) %}{% for b in range(90000) %}"
    template += "{% endfor %}{% endfor %}{% elif messages[0].content == 'stop' %}{{ raise_exception('no') }}{% endif %}"
    renderer = Renderer(template + ECHO, {})
    good = conversation("a", "b")
    for bad, index in (("loop", 2), ("stop", 3)):
        with pytest.raises(ConversationError) as caught:
            renderer.render([good] * index + [conversation(bad, "b"), good])
        assert caught.value.index == index
        assert [each.text for each in renderer.render([good, good])] == ["ab", "ab"]


def test_each_conversation_has_its_own_time(tmp_path, monkeypatch):
    """The limit is on one conversation, however many there are, and however long they take together."""
    monkeypatch.setattr(rendering, "_PROGRAM", program(tmp_path, 'LIMITS["cpu_seconds"] = 0.1'))
    slow = "{% for a in range(1000) %}{% for b in range(10) %}{% endfor %}{% endfor %}" + ECHO
    talks = [conversation(f"{n}", "b") for n in range(500)]
    assert [each.text for each in Renderer(slow, {}).render(talks)] == [f"{n}b" for n in range(500)]


@pytest.mark.parametrize(
    "messages",
    [(), (Message("user\n", "a"),), (Message("", "a"),), (Message("user", 3),), (Message(None, "a"),)],
)
def test_what_is_no_conversation_is_refused(messages):
    """Messages without role, with a role that is no word, or without text are errors that say which one."""
    with pytest.raises(ConversationError) as caught:
        Renderer(ECHO, {}).render([TALK, messages])
    assert caught.value.index == 1


def test_a_conversation_may_be_too_long():
    """What is longer than any text may become is refused before it is sent anywhere."""
    with pytest.raises(ConversationError, match="4,194,306 characters, more than 4,194,304"):
        render(ECHO, conversation("x" * (1 << 22), "ab"))
    assert len(render(ECHO, conversation("x" * 1_000_000, "ab")).text) == 1_000_002


def test_missing_special_tokens_are_written_as_nothing():
    """A special token that the tokenizer has not is empty, as templates expect; one that it has is written."""
    assert render("{{ bos_token }}" + ECHO).text == "questionanswer"
    assert render("{{ bos_token }}" + ECHO, bos_token="<s>").text == "<s>questionanswer"
    assert (
        render("{% if tools %}x{% endif %}{% if messages[0].name %}y{% endif %}" + ECHO).text
        == "questionanswer"
    )


# ── what is found ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_contents_are_found_where_they_are():
    """Each content is found at its place, twice where it is written twice, white space included."""
    rendered = render("[{{ messages[1].content }}|{{ messages[0].content }}|{{ messages[0].content }}]")
    assert [(n, rendered.text[a:b]) for n, a, b in rendered.contents] == [
        (1, "answer"),
        (0, "question"),
        (0, "question"),
    ]
    spaced = render("{{ messages[0].content | trim }}/{{ messages[1].content }}", conversation(" a ", " b "))
    assert [(n, spaced.text[a:b]) for n, a, b in spaced.contents] == [(0, "a"), (1, " b ")]


def test_what_is_lost_or_absent_is_told():
    """A content that comes through in part, or not at all, is named."""
    rendered = render("{{ messages[0].content.split('s') | last }}")
    assert (rendered.lost, rendered.absent) == ([0], [1])
    assert render("{{ messages[0].content | upper | title }}").contents is None


# ── when the process ends ─────────────────────────────────────────────────────────────────────────────────────────


def wait_until(condition):
    """Return once the condition holds; fail where that takes a minute."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


def alive(pid):
    """Say whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def process_of(renderer):
    """Return the process at work."""
    return renderer._process


def test_the_process_ends_with_its_owner():
    """Whether it is forgotten or closed, the process ends and is waited for."""
    renderer = Renderer(ECHO, {})
    renderer.render([TALK])
    first = process_of(renderer).pid
    assert first in children()
    renderer.close()
    assert not alive(first)
    renderer.render([TALK])
    second = process_of(renderer).pid
    assert alive(second)
    del renderer
    wait_until(lambda: not alive(second))


def test_a_killed_process_is_started_anew():
    """A process that somebody killed between two batches is missed by nobody; one killed at work is an error."""
    renderer = Renderer(ECHO, {})
    renderer.render([TALK])
    process_of(renderer).kill()
    wait_until(lambda: not alive(process_of(renderer).pid))
    assert renderer.render([TALK])[0].text == "questionanswer"


def test_an_idle_process_ends_by_itself(tmp_path, monkeypatch):
    """A process without work ends, and another is started, even where it ends in the moment that it is asked."""
    monkeypatch.setattr(rendering, "_PROGRAM", program(tmp_path, "IDLE_SECONDS = 0.05"))
    renderer = Renderer(ECHO, {})
    renderer.check()
    idle = process_of(renderer)
    wait_until(lambda: not alive(idle.pid))
    monkeypatch.setattr(rendering, "_PROGRAM", Path(rendering.__file__).with_name("_render.py"))
    monkeypatch.setattr(idle, "poll", lambda: None)  # as if it ended only after this was asked
    assert renderer.render([TALK])[0].text == "questionanswer"
    assert process_of(renderer) is not idle


def test_a_program_that_fails_is_told(tmp_path, monkeypatch):
    """Where the process cannot work at all, the error shows what it said."""
    broken = tmp_path / "broken.py"
    broken.write_text("import jinja2_is_missing\n")
    monkeypatch.setattr(rendering, "_PROGRAM", broken)
    with pytest.raises(PluginError, match="No module named 'jinja2_is_missing'"):
        Renderer(ECHO, {}).check()


def test_an_interrupted_batch_leaves_nothing_behind(monkeypatch):
    """A signal's exception in the midst of a batch gives up the process, so that no answer is taken for another's."""
    renderer = Renderer(ECHO, {})
    talks = [conversation(f"{n}", "b") for n in range(20)]
    read, count = rendering._read, iter(range(100))

    def interrupted(process):
        if next(count) == 5:
            raise KeyboardInterrupt
        return read(process)

    monkeypatch.setattr(rendering, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        renderer.render(talks)
    assert process_of(renderer) is None
    assert [each.text for each in renderer.render(talks[::-1])] == [f"{n}b" for n in range(20)][::-1]


def test_threads_share_a_process():
    """Threads that render at the same time each get their own texts."""
    renderer = Renderer(ECHO, {})
    found: dict[int, list[str]] = {}

    def work(number):
        found[number] = [
            each.text for _ in range(5) for each in renderer.render([conversation(f"{number}", "b")] * 3)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [f"{number}b"] * 15 for number in range(6)}


CHILD = """
import sys, time
from codex_hf.rendering import Renderer
from codex_kernel import Message
talk = (Message("user", "a"), Message("assistant", "b"))
renderer = Renderer("{% for m in messages %}{{ m.content }}{% endfor %}", {})
renderer.render([talk])
print(renderer._process.pid, flush=True)
"""


def child(code):
    """Start a Python process that renders, and return it with the id of its own process."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, int(line)


def test_a_killed_parent_takes_its_process_along():
    """After kill -9 of the process that trains, nothing is left running."""
    process, worker = child("time.sleep(600)")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not alive(worker))


def test_the_end_of_the_parent_is_quiet():
    """A process that ends with a renderer in use says nothing, and takes it along."""
    process, worker = child("")
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert not alive(worker)


def test_a_fork_has_its_own():
    """A fork of the process renders with a process of its own, and leaves the other alone when it ends."""
    process, worker = child(
        """
        import os
        pid = os.fork()
        if pid == 0:
            assert renderer.render([talk])[0].text == "ab"
            print(renderer._process.pid, flush=True)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert renderer.render([talk])[0].text == "ab"
        print(renderer._process.pid, flush=True)
        """
    )
    out, error = process.communicate()
    assert error == ""
    fork_worker, same = map(int, out.split())
    assert fork_worker != worker == same


def test_limits_hold_where_the_signal_is_blocked_or_ignored():
    """What a parent does with SIGPROF (a profiler's) does not lift the limit."""
    process, _ = child(
        """
        import signal
        renderer.close()
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
        from codex_kernel import ConversationError
        loop = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
        try:
            Renderer(loop, {}).render([talk])
        except ConversationError as error:
            print(error.message)
        """
    )
    out, error = process.communicate()
    assert out.startswith("the chat template takes too much processor time")
    assert error == ""
