import subprocess
import sys
import textwrap

import pytest

BROKEN = {
    "a tokenizer that loses case": (
        """
        from codex_kernel import hookimpl
        from codex_kernel.builtin.bytes_tokenizer import Utf8Bytes
        from codex_kernel.testing import TokenizerContract

        class Lossy(Utf8Bytes):
            def encode(self, text):
                return list(text.lower().encode())

        class Plugin:
            @hookimpl
            def codex_tokenizer(self):
                return Lossy()

        class TestBroken(TokenizerContract):
            def make(self, folder):
                return Plugin()
        """,
        ["test_code_comes_back", "test_any_text_comes_back"],
        "assert 'def greet",
    ),
    "a dataset that can be read once": (
        """
        from codex_kernel import Document, hookimpl
        from codex_kernel.testing import DatasetContract

        class Plugin:
            @hookimpl
            def codex_dataset(self):
                return iter([Document("a", "a", "text"), Document("a", "b", "text")])

        class TestBroken(DatasetContract):
            def make(self, folder):
                return Plugin()
        """,
        ["test_ids_are_unique", "test_documents_can_be_gone_through_again"],
        "assert 1 == 2",
    ),
    "a dataset of records that raises and reads all at once": (
        """
        import json
        from codex_kernel import Document, InputError, hookimpl
        from codex_kernel.testing import RecordDatasetContract

        class Plugin:
            def __init__(self, path, **names):
                self.path, self.names = path, names

            @hookimpl
            def codex_dataset(self):
                rows = [json.loads(line) for line in self.path.read_text().splitlines()]
                documents = []
                for number, row in enumerate(rows):
                    name = row[self.names["id"]] if "id" in self.names else str(number)
                    if not name:
                        raise InputError("no name")
                    documents.append(Document(name, name, str(row["text"]).strip()))
                return documents

        class TestBroken(RecordDatasetContract):
            def store(self, folder, records, **options):
                path = folder / "rows"
                path.write_text("".join(json.dumps(record) + "\\n" for record in records))
                return Plugin(path, **options)
        """,
        [
            "test_texts_come_back",
            "test_a_bad_record_stands_in_its_place",
            "test_messages_come_back",
            "test_id_group_and_language_are_read",
            "test_reading_is_lazy",
        ],
        "InputError: no name",
    ),
    "a logger with a misspelt hook": (
        """
        from codex_kernel import hookimpl
        from codex_kernel.testing import LoggerContract

        class Plugin:
            @hookimpl
            def codex_metric_s(self, step):
                pass

        class TestBroken(LoggerContract):
            def make(self, folder):
                return Plugin()
        """,
        ["test_it_implements_a_hook_of_loggers", "test_a_whole_run_passes"],
        "codex_metric_s",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_contract_finds_what_is_broken(tmp_path, broken):
    """A plugin that breaks its contract fails the tests that say so, and the failure shows the values."""
    code, failing, shown = BROKEN[broken]
    (tmp_path / "test_broken.py").write_text(textwrap.dedent(code))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_broken.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    for name in failing:
        assert f"FAILED test_broken.py::TestBroken::{name}" in ran.stdout
    assert shown in ran.stdout
