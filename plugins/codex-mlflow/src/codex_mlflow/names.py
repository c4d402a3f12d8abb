"""What MLflow accepts as names and values.

One rule: what has to be changed is changed so that two names stay two, and what is cut says so.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re

MAX_NAME_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000

_REFUSED = re.compile(r"[^\w.\-/ ]")  # a colon too: Windows refuses it
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def clean_name(name: str) -> str:
    """Return the name as MLflow takes it; a changed one ends with a digest of the original."""
    path = posixpath.normpath(_REFUSED.sub("_", name)).lstrip("/")
    cleaned = path.replace("../", "__/").replace("..", "__") if path.startswith("..") else path
    if cleaned == name and 0 < len(name) <= MAX_NAME_LENGTH and name != ".":
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{cleaned[: MAX_NAME_LENGTH - 9].rstrip('/ ')}_{digest}"


def param_value(value: object) -> str:
    """Return a setting as the text of a parameter: no user names and passwords of URLs, cut with a note."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return cut(strip_user_info(text), MAX_PARAM_LENGTH)


def strip_user_info(text: str) -> str:
    """Take `user:password@` out of the URLs of a text."""
    return _USER_INFO.sub("", text)


def has_user_info(uri: str) -> bool:
    """Say whether the URI holds a user name or a password."""
    return _USER_INFO.search(uri) is not None


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters that says how long the whole was."""
    note = f" … (cut, {len(text)} characters in all)"
    return text if len(text) <= length else text[: length - len(note)] + note
