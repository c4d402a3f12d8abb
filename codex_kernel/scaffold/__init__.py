"""The files of a new plugin project: templates, filled in.

One rule: it reads its own templates and nothing else; who asks for a project writes it, and knows what is installed.
A template is a file below `templates/common`, or below `templates/KIND` (which takes the place of a common one). In
its text `@{word}` stands for a value; in its path PACKAGE, WORD and TESTS do (a wheel holds no folder of tests), `dot-`
for a leading dot, and `.tmpl` is cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

TEMPLATES = Path(__file__).parent / "templates"
ABOUT = "about.md"
"""The kind's part of the README."""


class Kind(NamedTuple):
    """What differs between kinds beside their files: the entry-point group, and what a project requires.

    `modules` are those of other distributions that its tests import, beside what every project's do.
    """

    group: str
    description: str
    requires: tuple[str, ...] = ('"attrs>=25.1"',)
    tests_require: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    target: str = ""


_YAML_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))
_TORCH = '"torch>=2.13"'
KINDS = {
    "dataset": Kind("codex.datasets", "Documents for codex: the sections of Markdown files"),
    "cleaner": Kind("codex.cleaners", "A cleaning step for codex that drops documents with overlong lines"),
    "tokenizer": Kind("codex.tokenizers", "A tokenizer for codex: bytes, and a token for each run of spaces"),
    "model": Kind(
        "codex.models",
        "A language model for codex made of short convolutions",
        ('"attrs>=25.1"', _TORCH),
        modules=("torch",),
    ),
    "adapter": Kind(
        "codex.adapters",
        "An adapter for codex that freezes parameters by their names",
        tests_require=(_TORCH,),
        modules=("torch",),
    ),
    "trainer": Kind(
        "codex.trainers",
        "A trainer for codex: descent by the sign of the momentum",
        ('"attrs>=25.1"', '"numpy>=2.0"', _TORCH),
        modules=("torch",),
    ),
    "checkpointer": Kind(
        "codex.checkpointers",
        "A checkpointer for codex: one zip archive a checkpoint, without pickle",
        ('"attrs>=25.1"', '"safetensors>=0.5"', _TORCH),
        modules=("safetensors", "torch"),
    ),
    "logger": Kind("codex.loggers", "A logger for codex that keeps a journal of the run in plain words"),
    "metric": Kind(
        "codex.metrics", "A metric for codex: the share of its size to which the model could make the text"
    ),
    "command": Kind(
        "codex.commands",
        "A command for codex that draws the loss of runs",
        ('"click>=8.2"',),
        target="command",
    ),
}


class Project(NamedTuple):
    """A project to be: its kind, the plugin's name, and what of the world it depends on.

    `place` is the project's folder as a command names it, from the folder in which the commands are typed;
    `kernel_version` that of the kernel which the plugin is written for.
    """

    kind: str
    name: str
    place: str
    kernel_version: str
    year: int

    @property
    def word(self) -> str:
        """The name as a part of Python names."""
        return self.name.lower().replace("-", "_")

    @property
    def package(self) -> str:
        """The package to import."""
        return f"codex_{self.word}"

    @property
    def target(self) -> str:
        """The name in the package that the entry point leads to."""
        words = "".join(word[:1].upper() + word[1:] for word in re.split("[-_]", self.name))
        return KINDS[self.kind].target or f"{'' if words[0].isalpha() else 'Codex'}{words}{self.kind.title()}"

    @property
    def distribution(self) -> str:
        """The distribution, and its folder."""
        return distribution_of(self.name)


def distribution_of(name: str) -> str:
    """Return the distribution of a plugin of that name."""
    return f"codex-plugin-{name.lower().replace('_', '-')}"


def kernel_range(version: str) -> str:
    """Return the kernels that a plugin written for this one works with: up to the next minor version before 1.0.

    >>> kernel_range("0.1.3"), kernel_range("1.2.0"), kernel_range("0.2.0.dev3")
    ('>=0.1,<0.2', '>=1.2,<2', '>=0.2.0.dev3,<0.3')
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return ""
    major, minor = int(numbers[1]), int(numbers[2])
    released = re.fullmatch(r"[\d.]+", version)
    first = f"{major}.{minor}" if released else version
    return f">={first},<{major + 1}" if major else f">={first},<0.{minor + 1}"


def files_of(project: Project) -> dict[PurePosixPath, str]:
    """Return the files of a project, by their paths in it, in order; the static manifest is not among them."""
    values = _values(project)
    texts = {**_templates("common"), **_templates(project.kind)}
    values["about"] = fill(texts.pop(ABOUT), values).rstrip()
    return {_path(path, project): fill(text, values) for path, text in sorted(texts.items())}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put the values in the places of `@{word}`; raises KeyError for a word without a value."""
    return re.sub(r"@\{(\w+)\}", lambda place: values[place[1]], text)


def _path(path: str, project: Project) -> PurePosixPath:
    for word, value in (("PACKAGE", project.package), ("WORD", project.word), ("TESTS", "tests")):
        path = path.replace(word, value)
    return PurePosixPath(path)


def _values(project: Project) -> dict[str, str]:
    kind = KINDS[project.kind]
    kernel = f"codex-kernel{kernel_range(project.kernel_version)}"
    tests = (f'"codex-kernel[testing]{kernel_range(project.kernel_version)}"', *kind.tests_require)
    return {
        "name": project.name,
        "kind": project.kind,
        "word": project.word,
        "package": project.package,
        "distribution": project.distribution,
        "target": project.target,
        "group": kind.group,
        "description": kind.description,
        "requires": ", ".join((*kind.requires, f'"{kernel}"')),
        "tests_require": ", ".join(tests),
        "place": project.place,
        "yaml_name": _yaml(project.name),
        "yaml_example": _quoted(f"{project.place}/example"),
        "year": str(project.year),
    }


def _yaml(name: str) -> str:
    """Return a plugin's name as YAML reads a string: one that could be a number or a word of YAML in quotes."""
    return name if name[0].isalpha() and name.lower() not in _YAML_WORDS else _quoted(name)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _templates(folder: str) -> dict[str, str]:
    """Return the templates of a folder: path in a project → text."""
    root = TEMPLATES / folder
    found = {}
    for path in sorted(root.rglob("*.tmpl")):
        parts = [re.sub("^dot-", ".", part) for part in path.relative_to(root).parts]
        found["/".join(parts).removesuffix(".tmpl")] = path.read_text(encoding="utf-8")
    return found
