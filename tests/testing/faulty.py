"""Plugins with a fault each, all of a kind in one run of pytest, and the checks of the contract that fail for them.

One rule: a fault is a few lines over a sound plugin, so that what is wrong can be read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path

from attrs import field, frozen

import codex_kernel.testing as kit
from codex_kernel.testing import SpawnedContract

ROOT = Path(__file__).parents[2]
MODULES = {
    "imports_numpy": "import numpy\n",
    "prints_on_import": "import os\n\nprint('hello')\nos.environ['CHANGED'] = 'by an import'\n",
}
_COMMON_HEAD = """
import threading
from typing import Any, ClassVar
import attrs
from attrs import define, field, frozen
from codex_kernel import hookimpl
"""


@frozen
class Fault:
    """The body of a class that goes over the sound one, or whole code (`raw`), and the checks that must fail."""

    body: str = "pass"
    fails: Collection[str] = ()
    contract: str = ""
    """What the contract's subclass has beside its plugin."""
    raw: bool = False
    stateful: bool = False
    """The class holds state, so that it is `@define(eq=False)`."""


COMMON: Mapping[str, Fault] = {
    "IsNoAttrsClass": Fault(
        "IsNoAttrsClass = type('IsNoAttrsClass', (), "
        "{name: value for name, value in vars(Sound).items() if name.startswith('codex_')})",
        ["it_is_a_plugin_of_its_kind"],
        raw=True,
    ),
    "ForgetsTheMark": Fault("def codex_preflight(self, base): return []", ["it_is_a_plugin_of_its_kind"]),
    "HasAnotherHook": Fault(
        "@hookimpl\ndef codex_metricz(self): pass", ["its_hooks_are_those_of_the_kernel"]
    ),
    "IsAsync": Fault(
        "@hookimpl\nasync def codex_preflight(self, base): return []", ["its_hooks_are_those_of_the_kernel"]
    ),
    "GrowsWhenItIsRead": Fault(
        "limit: int = field(default=1, converter=lambda number: number + 1)",
        ["its_options_come_back_from_a_section"],
    ),
    "HasADefaultOfAnotherType": Fault("limit: int = None", ["defaults_can_be_written_out"]),
    "DiffersFromItsTwin": Fault(
        "mark: object = field(init=False, factory=object)", ["equal_options_make_equal_plugins"]
    ),
    "TakesAnything": Fault("anything: Any = 1", ["an_option_of_another_type_is_refused"]),
    "SharesAList": Fault("names: list[str] = []", ["two_plugins_share_no_option"]),
    "WritesWhenItIsMade": Fault(
        "def __attrs_post_init__(self): open('made.txt', 'w').close()", ["making_it_has_no_effect"]
    ),
    "ImportsNumpy": Fault("__module__ = 'imports_numpy'", ["importing_it_loads_nothing_heavy"]),
    "PrintsOnImport": Fault("__module__ = 'prints_on_import'", ["importing_it_has_no_effect"]),
    "FindsAFault": Fault(
        "@hookimpl\ndef codex_preflight(self, base): return [f'{base}: no such file']",
        ["preflight_finds_nothing_wrong"],
    ),
    "IsSilentWhereItCannotWork": Fault(
        contract="def broken(self, folder): yield self.plugin(folder)", fails=["what_cannot_work_is_told"]
    ),
    "RehearsesWithOthersOptions": Fault(
        "@hookimpl\ndef codex_shorten(self, steps): return {'no_such_option': steps}",
        ["a_rehearsal_changes_its_own_options"],
    ),
    "CannotBePickled": Fault(
        "lock: object = field(init=False, factory=threading.Lock, eq=False)", ["another_process_can_have_it"]
    ),
}
"""Faults that a plugin of any kind can have, over `Sound`."""


@frozen
class Faulty:
    """A contract, a sound plugin of its kind, and faults.

    head: source that defines `Sound`, and `Contract`, whose `made` is the class of the plugin.
    """

    contract: str
    head: str
    faults: Mapping[str, Fault]
    common: bool = True
    drop: Collection[str] = field(factory=tuple)
    """Common faults that the kind cannot have."""

    @property
    def checks(self) -> set[str]:
        """The checks of the contract."""
        return {name for name in dir(getattr(kit, self.contract)) if name.startswith("test_")}

    @property
    def all_faults(self) -> dict[str, Fault]:
        """The kind's own faults and the common ones; a class that must be sound beside them."""
        spawned = issubclass(getattr(kit, self.contract), SpawnedContract)
        common = {name: fault for name, fault in COMMON.items() if self.common and name not in self.drop}
        if not spawned:
            common.pop("CannotBePickled", None)
        return {"IsSound": Fault(), **common, **self.faults}

    def source(self) -> str:
        """Return a module of tests: a class for each fault, with the checks that speak of it."""
        parts = [_COMMON_HEAD, textwrap.dedent(self.head)]
        for name, fault in self.all_faults.items():
            parts.append(_plugin(name, fault))
            own = textwrap.indent(textwrap.dedent(fault.contract), "    ")
            parts.append(f"class Test{name}(Contract):\n    made = {name}\n{own}\n")
            if name != "IsSound":  # what it is not about is no matter of its own
                idle = sorted(self.checks - {f"test_{check}" for check in fault.fails})
                parts.append(f"for _name in {idle}:\n    setattr(Test{name}, _name, None)\n")
        return "\n".join([*parts, "del Contract"])

    def failed(self, folder: Path) -> dict[str, set[str]]:
        """Return fault → the checks that fail for it, of one run of pytest over all of them."""
        (folder / "test_faulty.py").write_text(self.source())
        for name, text in MODULES.items():
            (folder / f"{name}.py").write_text(text)
        (folder / "conftest.py").write_text("".join(f"import {name}\n" for name in MODULES))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "-rf"]
        ran = subprocess.run(
            [*command, "test_faulty.py"],
            cwd=folder,
            # In CI pytest explains with full diffs, which must not take hours.
            env={**os.environ, "CI": "true", "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 1, ran.stdout + ran.stderr
        assert "ERROR" not in ran.stdout, ran.stdout
        found: dict[str, set[str]] = {name: set() for name in self.all_faults}
        for name, test in re.findall(r"^FAILED test_faulty.py::Test(\w+)::(\w+)", ran.stdout, re.MULTILINE):
            found[name].add(test)
        return found

    def check(self, failed: Mapping[str, Collection[str]], name: str) -> None:
        """Fail unless a fault has failed the checks that speak of it, and a sound plugin none."""
        expected = {f"test_{check}" for check in self.all_faults[name].fails}
        assert expected <= self.checks, expected - self.checks
        if expected:
            assert expected <= set(failed[name]), f"{name} fails {sorted(failed[name])}"
        else:
            assert not failed[name], f"{name} is sound"

    def idle(self, failed: Mapping[str, Collection[str]]) -> set[str]:
        """Return the checks that no fault has failed among those that speak of it."""
        named = {f"test_{check}" for fault in self.all_faults.values() for check in fault.fails}
        return self.checks - named


def _plugin(name: str, fault: Fault) -> str:
    body = textwrap.dedent(fault.body).strip("\n")
    if fault.raw:
        return f"{body}\n"
    decorator = "@define(eq=False)" if fault.stateful else "@frozen"
    return f"{decorator}\nclass {name}(Sound):\n{textwrap.indent(body, '    ')}\n"
