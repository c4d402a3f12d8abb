"""Nothing is imported that is not needed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Workplace, toy_workplace
from tests.toys import install

HEAVY = (
    *("torch", "transformers", "tokenizers", "peft", "mlflow", "sentencepiece", "psutil", "numpy", "rich"),
    *(
        "codex_torch",
        "codex_hf",
        "codex_spm",
        "codex_mlflow",
        "codex_sysmon",
        "codex_clean",
        "codex_toys",
        "codex_kernel.builtin",
    ),
)

# Runs the command and then prints which of the given modules it has imported.
WATCH = """
import sys
sys.argv = ["codex", *sys.argv[2:]] if (heavy := sys.argv[1].split(",")) else []
import atexit
atexit.register(lambda: print("IMPORTED", [name for name in heavy if name in sys.modules], file=sys.stderr))
from codex_kernel.__main__ import main
main()
"""


def imported(workplace: Workplace, *arguments: str, heavy: tuple[str, ...] = HEAVY) -> str:
    """Return the last line that the watcher printed for a command."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, ",".join(heavy), *arguments],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace whose path has a plugin that ends any process that imports it."""
    made = toy_workplace(tmp_path)
    bomb = {"codex.loggers": {"bomb": "codex_bomb:Bomb"}, "codex.trainers": {"bomb": "codex_bomb:Bomb"}}
    install(made.site, "codex-bomb", bomb, modules={"codex_bomb": "import os; os._exit(99)"})
    return made


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("run", "--help"), ("plugins", "list", "--json")]
)
def test_the_quick_commands_import_no_plugin_and_nothing_heavy(
    workplace: Workplace, arguments: tuple[str, ...]
) -> None:
    """Not even numpy or rich; a plugin that exits at import does not disturb them."""
    assert imported(workplace, *arguments) == "IMPORTED []"


def test_the_version_needs_neither_click_nor_typing(workplace: Workplace) -> None:
    """`codex --version` costs little more than Python itself."""
    assert imported(workplace, "--version", heavy=("click", "typing", "attrs", "yaml")) == "IMPORTED []"


@pytest.mark.parametrize(("arguments", "most"), [(("--version",), 60), (("--help",), 150)])
def test_the_quick_commands_import_few_modules(
    workplace: Workplace, arguments: tuple[str, ...], most: int
) -> None:
    """A ceiling, so that one import too many is noticed here and not by a user who waits."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "codex_kernel", *arguments],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert len(modules) <= most, sorted(modules)


def test_validate_imports_the_named_plugins_and_nothing_heavy(workplace: Workplace) -> None:
    """The classes of the quickstart's plugins are imported to check their options; torch and its like are not."""
    quickstart = Path(__file__).parents[1] / "examples" / "quickstart.yaml"
    heavy = tuple(name for name in HEAVY if not name.startswith("codex_") and name != "rich")
    assert imported(workplace, "validate", str(quickstart), heavy=heavy) == "IMPORTED []"
    assert (
        imported(workplace, "validate", "toy.yaml", heavy=("torch", "codex_torch", "codex_hf"))
        == "IMPORTED []"
    )


def test_the_wait_policy_is_set_before_torch_can_be_imported(workplace: Workplace) -> None:
    """OpenMP threads wait passively, unless the user says otherwise."""
    script = (
        "import os, sys; sys.argv = ['codex', '--help']\n"
        "from codex_kernel.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    for policy, expected in ((None, "PASSIVE False"), ("ACTIVE", "ACTIVE False")):
        environment = {k: v for k, v in workplace.environment().items() if k != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == expected


def test_importing_the_kernel_changes_nothing(workplace: Workplace) -> None:
    """Importing every module of the kernel changes neither the environment nor the random generators."""
    script = (
        "import os, random, pkgutil, importlib\n"
        "before = dict(os.environ), random.getstate(), os.getcwd()\n"
        "import codex_kernel\n"
        "for module in pkgutil.walk_packages(codex_kernel.__path__, 'codex_kernel.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "assert before == (dict(os.environ), random.getstate(), os.getcwd())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("redirections", "code"),
    [
        ("plugins list >&-", 0),
        ("runs list --json >&-", 0),
        ("--version >&-", 0),
        ("run toy.yaml --run-dir here 2>&-", 0),
        ("run toy.yaml --run-dir here <&- >&- 2>&-", 0),
        ("run missing.yaml 2>&-", 2),
    ],
)
def test_closed_standard_streams_are_nowhere(workplace: Workplace, redirections: str, code: int) -> None:
    """A file of the run never takes the number of a closed stream, and talk goes nowhere instead of into it."""
    command = f"{shlex.quote(sys.executable)} -m codex_kernel {redirections}"
    done = subprocess.run(
        ["bash", "-c", command],  # the shell closes the streams
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Error" in done.stderr) == (code, False), done.stderr
    if "--run-dir" in redirections:
        assert json.loads((workplace.folder / "here" / "run.lock").read_text())["pid"]


def test_a_closed_standard_input_has_no_prompt(workplace: Workplace) -> None:
    """`codex generate --prompt - <&-` is told so."""
    assert workplace.codex("run", "toy.yaml").code == 0
    command = f"{shlex.quote(sys.executable)} -m codex_kernel generate toy --prompt - <&-"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "standard input has no prompt" in done.stderr) == (2, True), done.stderr


def test_an_error_that_cannot_be_shown_keeps_its_exit_code(workplace: Workplace) -> None:
    """The reader of standard error is gone: the exit code says what is left to say."""
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (("run", "missing.yaml"), ("resume", "nothing"), ("rnu",)):
        done = subprocess.run(
            [sys.executable, "-m", "codex_kernel", *arguments],
            cwd=workplace.folder,
            env=workplace.environment(),
            stderr=writer,
            check=False,
        )
        assert done.returncode == 2
    os.close(writer)
