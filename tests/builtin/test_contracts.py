import subprocess
import sys

import pytest

from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer
from codex_kernel.builtin.console import ConsoleLogger
from codex_kernel.builtin.csv_logger import CsvLogger
from codex_kernel.builtin.jsonl_dataset import JsonlDataset
from codex_kernel.builtin.jsonl_logger import JsonlLogger
from codex_kernel.builtin.python_source import PythonSource
from codex_kernel.builtin.text_files import TextFiles
from codex_kernel.testing import DatasetContract, LoggerContract, TokenizerContract


class TestBytes(TokenizerContract):
    def make(self, folder):
        return BytesTokenizer()


class TestTextFiles(DatasetContract):
    def make(self, folder):
        (folder / "b").mkdir(exist_ok=True)
        (folder / "b" / "second.py").write_bytes(b"x = 1\r\n\ty\n")
        (folder / "first.py").write_bytes("# naïve\n".encode())
        return TextFiles(paths=["**/*.py"])


class TestJsonl(DatasetContract):
    def make(self, folder):
        (folder / "rows.jsonl").write_text('{"text": "one"}\n\n{"prompt": "2 = ", "completion": "two"}\n')
        return JsonlDataset(paths=["rows.jsonl"])


class TestPythonSource(DatasetContract):
    def make(self, folder):
        return PythonSource(distributions=["attrs"])


class TestStandardLibrary(DatasetContract):
    def make(self, folder):
        return PythonSource(standard_library=True, exclude=["stdlib/[!j]*"])


class TestConsole(LoggerContract):
    def make(self, folder):
        return ConsoleLogger()


class TestJsonlLogger(LoggerContract):
    def make(self, folder):
        return JsonlLogger()


class TestCsvLogger(LoggerContract):
    def make(self, folder):
        return CsvLogger()


MODULES = "bytes_tokenizer console csv_logger evaluation_metrics jsonl_dataset jsonl_logger python_source text_files"


@pytest.mark.parametrize("module", MODULES.split())
def test_importing_a_plugin_loads_nothing_heavy(module):
    """A built-in plugin's module imports neither numpy nor a training library, nor rich."""
    code = (
        f"import sys, codex_kernel.builtin.{module}\n"
        "print([name for name in ('numpy', 'torch', 'transformers', 'rich', 'mlflow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
