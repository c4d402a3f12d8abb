"""From the JSON Schema of a section back to an attrs class: options are checked without the plugin that they are for.

One rule: `structure` says the same of the class that is made here as of the class that the schema was made of, but for
what that one checks by code of its own.
"""

from __future__ import annotations
