"""Making names last: what outlives a power cut.

One rule: a rename is safe only when the folder that holds the name is synced too.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk; raises OSError where that fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
