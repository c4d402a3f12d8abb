"""The command line: what there is, how errors are shown, and nothing that a command does.

One rule: `--help` costs click and this table; a command's module is imported when the command is called.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

import click

from codex_kernel._version import __version__
from codex_kernel.cli.flags import put_back, take

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from click.shell_completion import CompletionItem

SECTIONS = {
    "Train": {
        "run": "Run a manifest from its first step.",
        "resume": "Go on with a run from its newest checkpoint.",
        "generate": "Continue a prompt with a run's model.",
    },
    "Before a run": {
        "init": "Write a commented starter manifest.",
        "validate": "Check a manifest, its plugins and its data.",
        "plan": "Foretell memory, steps, disk and time of a run.",
        "verify-resume": "Kill a short run, resume it, compare bit by bit.",
        "schema": "Print the JSON Schema of manifests.",
    },
    "Look": {
        "plugins": "See which plugins are installed.",
        "runs": "List runs and show how they went.",
        "checkpoints": "List, verify, prune and export checkpoints.",
    },
    "Tokens and data": {
        "data": "Build, show, check and count data; prune the cache.",
        "tokenizer": "Train, use, measure and compare tokenizers.",
    },
}

EXAMPLES = """
\b
Examples:
  codex init                              write manifest.yaml
  codex run manifest.yaml                 train
  codex run manifest.yaml --set trainer.lr=3e-4 --set seed=2
  codex resume runs/quickstart/20260101-120000-ab12
  codex generate runs/quickstart/20260101-120000-ab12 --prompt "def "

\b
Exit codes: 0 ok, 1 other failure, 2 bad input, 3 run folder locked, 4 no usable checkpoint,
5 loss not finite, 6 storage, 7 plugin, 128+n stopped by signal n.
"""


_PLUGIN = "codex_kernel.plugin"
"""Where a context says which plugin its command is of."""


class LazyCommands(click.Group):
    """Knows its commands from the table above; `codex_kernel.cli.<name>` has the command of that name.

    A dash of the command is an underscore of the module. A name that is not in the table may be a plugin's.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands of codex itself."""
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name.

        Raises PluginError where it is a plugin's that cannot be used.
        """
        if cmd_name not in self.list_commands(ctx):
            return _plugin_command(ctx, cmd_name)
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"codex_kernel.cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the line names; where there is none, say which may have been meant."""
        command = self.get_command(ctx, args[0])
        if command is not None:
            return args[0], command, args[1:]
        if not ctx.resilient_parsing and args[0][:1].isalnum():
            from codex_kernel.cli.plugin_commands import suggestion

            hint = suggestion(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command {args[0]!r}{f': {hint}' if hint else '.'}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what a plugin's raises names the plugin."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if (entry := ctx.meta.get(_PLUGIN)) is None or getattr(error, "filename", None) == _OUTPUT:
                raise
            from codex_kernel.cli.plugin_commands import blaming

            with blaming(entry):
                raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of plugin commands too, without importing them."""
        from click.shell_completion import CompletionItem

        from codex_kernel.cli.plugin_commands import help_lines
        from codex_kernel.cli.terminal import plain

        lines = help_lines(self.list_commands(ctx)) if _plugins_have_commands() else []
        found = [
            CompletionItem(name, help=plain(text)) for name, text in lines if name.startswith(incomplete)
        ]
        return [*super().shell_complete(ctx, incomplete), *found]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, without importing them."""
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))
        if _plugins_have_commands():
            from codex_kernel.cli.plugin_commands import help_lines
            from codex_kernel.cli.terminal import plain
            from codex_kernel.errors import CodexError

            try:
                lines = help_lines(self.list_commands(ctx))
            except CodexError as error:  # a folder that is not there: no reason to have no help
                lines = [("-", error.message)]
            if lines:
                with formatter.section("From plugins"):
                    formatter.write_dl([(plain(name), plain(text)) for name, text in lines])


def _plugins_have_commands() -> bool:
    """Say whether a distribution may have a command: most often none has, and the catalog would cost help a fifth."""
    if os.environ.get("CODEX_PLUGIN_PATH"):
        return True
    for folder in dict.fromkeys(sys.path):
        with suppress(OSError):  # no folder
            for name in os.listdir(folder or "."):  # noqa: PTH208 - help does not import pathlib
                if name.endswith((".dist-info", ".egg-info")):
                    with suppress(OSError), io.FileIO(f"{folder or '.'}/{name}/entry_points.txt") as file:
                        if b"[codex.commands]" in file.read():
                            return True
    return False


def _plugin_command(ctx: click.Context, name: str) -> click.Command | None:
    """Import the command of a plugin; None where no plugin has it."""
    from codex_kernel.cli.plugin_commands import find, load

    entry = find(name)
    if entry is None:
        return None
    ctx.meta[_PLUGIN] = entry
    return load(entry)


class _WithOrWithout(click.Option):
    """An option whose value is optional, and then stands behind a `=`."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:  # noqa: ARG002 - click's signature
        """Return the option as it is written, and what it does."""
        return f"{self.opts[0]}[={self.metavar}]", self.help or ""


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXAMPLES,
)
@click.version_option(__version__, prog_name="codex", message="%(prog)s %(version)s")
@click.option(
    "--debug", is_flag=True, help="Show tracebacks. This and the next three may stand anywhere on the line."
)
@click.option("--no-plugins", is_flag=True, help="Use the plugins of codex itself alone.")
@click.option(
    "--plugin-path", multiple=True, metavar="DIR", help="Use the plugins in a folder, too; repeatable."
)
@click.option(
    "--trace-plugins",
    is_flag=False,
    flag_value="",
    metavar="FILE",
    cls=_WithOrWithout,
    help="Write down each call of a plugin, in FILE or the run's folder.",
)
def codex(**_flags: object) -> None:
    """Train and fine-tune language models from a manifest: plugins, checked before the run, resumable after it."""
    # `main` acts on the flags, click only documents them


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code; errors are shown in a few lines, with a traceback under --debug.

    What its flags set for the plugins holds as long as the command.
    """
    _open_closed_streams()
    with put_back(), _output_that_says_so():
        try:
            code = _main(arguments)
            with suppress(ValueError):  # a plugin has closed it
                sys.stdout.flush()  # what its command printed may still wait to be written
        except OSError as error:
            return _without_output(error)
        return code


def _main(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        flags, arguments = take(arguments, codex)
        debug = flags.debug
        flags.apply()
        with flags.tracing():
            code = codex.main(args=arguments, prog_name="codex", standalone_mode=False)
        return code if type(code) is int else 0  # of a plugin's command it may be anything
    except click.ClickException as error:
        with lost_where_nobody_listens():
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:  # noqa: BLE001 - the last place where an error can be explained
        if isinstance(error, OSError) and error.filename == _OUTPUT:
            return _without_output(error, debug=debug)
        from codex_kernel.errors import CodexError

        with lost_where_nobody_listens():
            _show(error, debug=debug)
        return error.exit_code if isinstance(error, CodexError) else 1


def _open_closed_streams() -> None:
    """Let standard streams that were closed (`2>&-`) go nowhere: else the next file opened would have their number.

    What is meant for the terminal would then be written into a file of the run.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - standard error
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


_OUTPUT = "<stdout>"
"""The file that an error names where standard output could not be written."""


class _Output(io.FileIO):
    """The descriptor of standard output, whose errors say that they are of it: no other file's are taken for them."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write bytes; raise OSError with a file name."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = _OUTPUT
            raise


@contextmanager
def _output_that_says_so() -> Iterator[None]:
    """Let errors of standard output be told from those of other files, where it is a descriptor of ours."""
    before = sys.stdout
    buffer = getattr(before, "buffer", None)
    if not isinstance(before, io.TextIOWrapper) or type(getattr(buffer, "raw", buffer)) is not io.FileIO:
        yield  # it has been replaced, say, by a test
        return
    with suppress(OSError):  # the command's own output will fail, too
        before.flush()
    raw = _Output(before.fileno(), "w", closefd=False)
    sys.stdout = ours = io.TextIOWrapper(
        raw if buffer is not None and not hasattr(buffer, "raw") else io.BufferedWriter(raw),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    try:
        yield
    finally:
        sys.stdout = before
        try:
            ours.flush()
        except (
            OSError,
            ValueError,
        ):  # it failed before, and Python would tell of it once more; or a plugin closed it
            _let_go_nowhere(1)


def _without_output(error: OSError, *, debug: bool = False) -> int:
    """Say that standard output cannot be written, let what is still to be written go nowhere; return the exit code."""
    _let_go_nowhere(1)
    if error.errno == errno.EPIPE:
        return 1  # as click ends a command whose reader is gone
    from codex_kernel.errors import StorageError

    with lost_where_nobody_listens():
        _show(StorageError(f"standard output cannot be written: {error.strerror}"), debug=debug)
    return StorageError.exit_code


@contextmanager
def lost_where_nobody_listens() -> Iterator[None]:
    """Let what is said be lost where it cannot be written: the terminal is closed, or the reader of a pipe gone.

    From then on output goes nowhere, or Python would fail once more at its end, over what is still in the buffers.
    """
    try:
        yield
    except OSError:
        _let_go_nowhere(1, 2)


def _let_go_nowhere(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _show(error: Exception, *, debug: bool) -> None:
    """Show an error, of whose words some may be a plugin's."""
    from codex_kernel.cli.terminal import plain
    from codex_kernel.errors import CodexError, ManifestError, in_words

    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ManifestError):
        click.echo(plain(error.message), err=True)
        count = len(error.problems)
        click.echo(f"error: {count} problem{'s' if count > 1 else ''} found, nothing was run", err=True)
        return
    if isinstance(error, CodexError):
        click.echo(plain(f"error: {_shorten(error.message)}"), err=True)
        if error.remedy:
            click.echo(plain(f"  {error.remedy}"), err=True)
        _show_notes(error)
        return
    click.echo(plain(f"error: {in_words(error)}"), err=True)
    _show_notes(error)
    if not debug:
        click.echo("  this is not an error that codex knows: --debug shows the traceback", err=True)


def _show_notes(error: Exception) -> None:
    """Show what else went wrong after an error."""
    from codex_kernel.cli.terminal import plain

    for note in getattr(error, "__notes__", ()):
        click.echo(plain(f"  {_shorten(note)}"), err=True)


def _shorten(text: str, lines: int = 4) -> str:
    """Keep an error to few lines: the first ones say most."""
    kept = text.splitlines()
    return "\n".join(kept if len(kept) <= lines else [*kept[: lines - 1], "…"])
