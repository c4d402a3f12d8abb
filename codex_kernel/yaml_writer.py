"""Plain values to YAML text.

One rule: `yaml_reader` reads the same values back, and so does a reader of YAML 1.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from codex_kernel.yaml_scalars import ScalarError, resolve


def write(value: Mapping[str, Any]) -> str:
    """Return a mapping of JSON values as YAML, its keys in their own order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Dumper(yaml.SafeDumper):
    """PyYAML writes by YAML 1.1, where `1e-4` is text that needs no quotes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write every value out, equal ones too."""
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _is_plain(text) else '"')


def _is_plain(text: str) -> bool:
    """Say whether text stays text without quotes; PyYAML adds those that the place asks for."""
    try:
        return text.isascii() and text.isprintable() and isinstance(resolve(text), str)
    except ScalarError:
        return False


_Dumper.add_representer(str, _write_text)
