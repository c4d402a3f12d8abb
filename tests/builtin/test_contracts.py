import csv
import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer
from codex_kernel.builtin.console import ConsoleLogger
from codex_kernel.builtin.csv_dataset import CsvDataset
from codex_kernel.builtin.csv_logger import CsvLogger
from codex_kernel.builtin.evaluation_metrics import BitsPerByte, Perplexity
from codex_kernel.builtin.jsonl_dataset import JsonlDataset
from codex_kernel.builtin.jsonl_logger import JsonlLogger
from codex_kernel.builtin.parquet_dataset import ParquetDataset
from codex_kernel.builtin.python_source import PythonSource
from codex_kernel.builtin.text_files import TextFiles
from codex_kernel.testing import (
    DatasetContract,
    LoggerContract,
    MetricContract,
    RecordDatasetContract,
    TokenizerContract,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class TestBytes(TokenizerContract):
    def make(self, folder):
        return BytesTokenizer()


class TestTextFiles(DatasetContract):
    def make(self, folder):
        (folder / "b").mkdir(exist_ok=True)
        (folder / "b" / "second.py").write_bytes(b"x = 1\r\n\ty\n")
        (folder / "first.py").write_bytes("# naïve\n".encode())
        return TextFiles(paths=["**/*.py"])

    def broken(self, folder):
        yield TextFiles(paths=["there/is/none"])


class TestCompressedTextFiles(DatasetContract):
    def make(self, folder):
        (folder / "a.py.gz").write_bytes(gzip.compress(b"x = 1\r\n"))
        (folder / "b.rs.zst").write_bytes(zstd.compress("// naïve\n".encode()))
        (folder / "c.py").write_bytes(b"not text: \xff\n")
        return TextFiles(paths=["."])


class TestJsonl(RecordDatasetContract):
    def store(self, folder, records, **options):
        rows = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "rows.jsonl").write_text(rows)
        return JsonlDataset(paths=["rows.jsonl"], **options)

    def broken(self, folder):
        yield JsonlDataset(paths=["there-is-none.jsonl"])


class TestCompressedJsonl(RecordDatasetContract):
    def store(self, folder, records, **options):
        half = len(records) // 2
        for name, part in (("a.jsonl.gz", records[:half]), ("b.jsonl.zst", records[half:])):
            rows = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part).encode()
            pack = gzip.compress if name.endswith("gz") else zstd.compress
            (folder / name).write_bytes(pack(rows))
        return JsonlDataset(paths=["*.jsonl.*"], **options)


class TestCsv(RecordDatasetContract):
    conversations = False

    def store(self, folder, records, **options):
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(records[0]), quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(records)
        return CsvDataset(paths=["rows.csv"], **options)

    def broken(self, folder):
        yield CsvDataset(paths=["there-is-none.csv"])


class TestParquet(RecordDatasetContract):
    def store(self, folder, records, **options):
        parquet.write_table(pa.Table.from_pylist(list(records)), folder / "rows.parquet")
        return ParquetDataset(paths=["rows.parquet"], **options)

    def broken(self, folder):
        yield ParquetDataset(paths=["there-is-none.parquet"])


class TestPythonSource(DatasetContract):
    def make(self, folder):
        return PythonSource(distributions=["attrs"])

    def broken(self, folder):
        yield PythonSource(distributions=["there-is-no-such-distribution"])


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


class TestPerplexity(MetricContract):
    def make(self, folder):
        return Perplexity()


class TestBitsPerByte(MetricContract):
    def make(self, folder):
        return BitsPerByte()


MODULES = (
    "bytes_tokenizer console csv_dataset csv_logger evaluation_metrics jsonl_dataset jsonl_logger parquet_dataset "
    "python_source text_files"
)


@pytest.mark.parametrize("module", MODULES.split())
def test_importing_a_plugin_loads_nothing_heavy(module):
    """A built-in plugin's module imports neither numpy nor a training library, nor rich."""
    code = (
        f"import sys, codex_kernel.builtin.{module}\n"
        "print([name for name in ('numpy', 'torch', 'pyarrow', 'rich', 'mlflow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
