"""Gives toy distributions a static manifest, as their wheels would bring it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_kernel.section_schema import section_schema


def manifest_of(
    distribution: str, plugins: Sequence[tuple[str, str, str, type]], **changes: Any
) -> dict[str, Any]:
    """Return the static manifest of plugins: kind, name, target and a class with the options."""
    rows = [
        {
            "kind": kind,
            "name": name,
            "target": target,
            "summary": f"The {kind} {name}.",
            "hooks": ["codex_metrics"],
            "capabilities": [],
            "options": section_schema(cls),
        }
        for kind, name, target, cls in plugins
    ]
    made = {
        "schema_version": 1,
        "distribution": distribution,
        "plugin_api": [1, 1],
        "plugins": rows,
        "commands": [],
    }
    return {**made, **changes}


def put(
    metadata: Path, content: Mapping[str, Any] | str | bytes, place: str = "toy.codex-plugin.json"
) -> Path:
    """Write the file beside a distribution's metadata and list it in its record."""
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    data = text if isinstance(text, bytes) else text.encode()
    file = metadata.parent / place
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    with (metadata / "RECORD").open("a") as record:
        record.write(f"{place},sha256={digest},{len(data)}\n")
    return file
