"""What a run that goes on trains on, whatever became of its files, its cache and its `data.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Said, Workplace, toy_workplace
from tests.toys import TOY_MANIFEST, install

LINES = [json.dumps({"text": f"def f{n}(x):\n    return x + {n}\n"}) for n in range(40)]
MANIFEST = TOY_MANIFEST.replace("{type: toy}", "{type: jsonl, paths: [data.jsonl]}", 1).replace(
    "seq_len: 32", "seq_len: 32, skip_bad: 1"
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workplace with a run of six steps that has three more to do, and one bad record."""
    workplace = toy_workplace(tmp_path_factory.mktemp("ended"))
    workplace.write("data.jsonl", "\n".join([*LINES, "{"]) + "\n")
    workplace.write("jsonl.yaml", MANIFEST)
    said = workplace.codex("run", "jsonl.yaml", "--run-dir", "r")
    assert said.code == 0, said.err
    resolved = workplace.folder / "r" / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("max_steps: 6", "max_steps: 9"))
    return workplace.folder


@pytest.fixture
def workplace(ended: Path, tmp_path: Path) -> Iterator[Workplace]:
    """Return that workplace, which is put back afterwards: where a run was begun is where its files are looked for."""
    shutil.copytree(ended, tmp_path / "copy")
    yield Workplace(ended)
    shutil.rmtree(ended)
    (tmp_path / "copy").rename(ended)


def check_went_on(workplace: Workplace, said: Said) -> set[str]:
    """Fail unless the run has nine steps now; return the names of its events since it went on."""
    assert said.code == 0, said.err
    assert json.loads((workplace.folder / "r" / "outcome.json").read_text())["steps"] == 9
    events = [
        json.loads(line) for line in (workplace.folder / "r" / "events.ndjson").read_text().splitlines()
    ]
    names = [event["event"] for event in events]
    return set(names[names.index("run_resumed") :])


@pytest.mark.parametrize("options", [(), ("--set", "data.skip_bad=5")])
def test_files_that_are_gone_are_not_missed(workplace: Workplace, options: tuple[str, ...]) -> None:
    """The tokens are opened by their key; how many bad records may be skipped decides nothing then."""
    (workplace.folder / "data.jsonl").unlink()
    events = check_went_on(workplace, workplace.codex("resume", "r", *options))
    assert "data_reused" in events
    assert not events & {"corpus_reused", "corpus_built", "data_built"}


def test_files_that_are_gone_are_missed_where_the_tokens_are_damaged(workplace: Workplace) -> None:
    """There is nothing left to make them of: the error names the file, and the run stays as it was."""
    (workplace.folder / "data.jsonl").unlink()
    (tokens,) = (workplace.folder / "cache" / "tokens").glob("*/train.tokens")
    tokens.write_bytes(b"")
    said = workplace.codex("resume", "r")
    assert (said.code, "Traceback" in said.err) == (2, False)
    assert "no file to read: data.jsonl" in said.err
    assert json.loads((workplace.folder / "r" / "outcome.json").read_text())["steps"] == 6


def test_without_its_cache_the_data_is_made_again(workplace: Workplace) -> None:
    """Equal files give equal data."""
    shutil.rmtree(workplace.folder / "cache")
    assert {"corpus_built", "data_built"} <= check_went_on(workplace, workplace.codex("resume", "r"))


def test_without_its_cache_other_files_are_refused(workplace: Workplace) -> None:
    """Nothing is trained on data that the run did not begin with."""
    shutil.rmtree(workplace.folder / "cache")
    workplace.write("data.jsonl", "\n".join([*LINES[1:], "{"]) + "\n")
    said = workplace.codex("resume", "r")
    assert said.code == 2
    assert "the data changed since the run began: fingerprint was" in said.err
    assert json.loads((workplace.folder / "r" / "outcome.json").read_text())["steps"] == 6


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"tokenizer": "a", "fingerprint": "b", "made_of": "c"}'])
def test_a_damaged_record_of_the_data_is_told(workplace: Workplace, text: str) -> None:
    """The error names the file and says what to do, and that helps."""
    record = workplace.folder / "r" / "data.json"
    record.write_text(text)
    said = workplace.codex("resume", "r")
    assert (said.code, "Traceback" in said.err) == (2, False)
    assert str(Path("r") / "data.json") in said.err
    assert "or delete it" in said.err
    record.unlink()
    assert "data_reused" in check_went_on(workplace, workplace.codex("resume", "r"))


def test_a_record_of_an_older_codex_lets_the_files_be_read(workplace: Workplace) -> None:
    """Without the digest of what the data was made of they are read, and must give the same data."""
    record = workplace.folder / "r" / "data.json"
    about = json.loads(record.read_text())
    del about["made_of"], about["tokenizer_saved"]
    record.write_text(json.dumps(about))
    assert "data_reused" in check_went_on(workplace, workplace.codex("resume", "r"))
    assert json.loads(record.read_text())["made_of"]


FAILING = '''
"""A tokenizer whose own methods fail."""
from attrs import frozen
from codex_kernel import hookimpl, option

@frozen
class Plugin:
    method: str = option("fingerprint", help="Which one fails.")

    @hookimpl
    def codex_tokenizer(self):
        return Bytes(self.method)

@frozen
class Bytes:
    method: str
    vocab_size = 257
    eos_id = 256

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(one for one in ids if one < 256).decode()

    def fingerprint(self):
        if self.method == "fingerprint":
            raise KeyError("no digest")
        return "f"

    def save(self, folder):
        if self.method == "save":
            raise KeyError("no file")
'''


@pytest.mark.parametrize("method", ["fingerprint", "save"])
def test_a_tokenizer_that_fails_is_named(workplace: Workplace, method: str) -> None:
    """What a plugin's own method raises is a failure of that plugin, exit 7."""
    plugins = {"codex.tokenizers": {"failing": "codex_failing:Plugin"}}
    install(workplace.site, "codex-failing", plugins, modules={"codex_failing": FAILING})
    options = ("--set", f"tokenizer={{type: failing, method: {method}}}")
    said = workplace.codex("run", "jsonl.yaml", "--run-dir", "new", *options)
    assert said.code == 7, said.err
    assert f"tokenizer 'failing' (codex-failing 1.0) failed in {method}: KeyError" in said.err
