"""What the fault tests share: one fork server with the shim preloaded, and the undisturbed runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.commands import Server, serving
from tests.faults.comparison import checkpoints
from tests.faults.injection import build_shim
from tests.faults.subjects import SHORT, Subject, make_subject, write_home


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """Return a fork server with the shim preloaded."""
    with serving(build_shim(tmp_path_factory.mktemp("shim"))) as running:
        yield running


@pytest.fixture(scope="session")
def full(server, tmp_path_factory) -> Subject:
    """Return a model that is trained whole."""
    return make_subject(server, "full", write_home(tmp_path_factory.mktemp("full") / "home", None))


@pytest.fixture(scope="session")
def base(full):
    """Return a small pretrained model: what the first has become."""
    return checkpoints(full.reference)[max(checkpoints(full.reference))] / "model"


@pytest.fixture(scope="session")
def lora(server, base, tmp_path_factory) -> Subject:
    """Return an adapter over a small model."""
    return make_subject(server, "lora", write_home(tmp_path_factory.mktemp("lora") / "home", base))


@pytest.fixture(scope="session")
def short_full(server, tmp_path_factory) -> Subject:
    """Return a short run of the whole model."""
    return make_subject(server, "full", write_home(tmp_path_factory.mktemp("full") / "home", None), SHORT)


@pytest.fixture(scope="session")
def short_lora(server, base, tmp_path_factory) -> Subject:
    """Return a short run of the adapter."""
    return make_subject(server, "lora", write_home(tmp_path_factory.mktemp("lora") / "home", base), SHORT)


@pytest.fixture(scope="session", params=["full", "lora"])
def subject(request) -> Subject:
    """Return each of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=["full", "lora"])
def short(request) -> Subject:
    """Return a short run of each of the two."""
    return request.getfixturevalue(f"short_{request.param}")
