"""The builders that several of these test modules share, on the path of all of them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
