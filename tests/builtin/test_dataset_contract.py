"""The contract of datasets finds what is broken: a dataset with one fault fails the check that says so."""

from __future__ import annotations

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """
import json, os, pathlib
from codex_kernel import BadRecord, Document
from codex_kernel.builtin.jsonl_dataset import JsonlDataset
from codex_kernel.testing import RecordDatasetContract

class Again:
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())

@frozen
class Sound(JsonlDataset):
    def rows(self, run):
        return JsonlDataset.codex_dataset(self, run)

    def change(self, document, run):
        return document

    @hookimpl
    def codex_dataset(self, run):
        def documents():
            for each in self.rows(run):
                yield each if isinstance(each, BadRecord) else self.change(each, run)

        return Again(documents)

class Contract(RecordDatasetContract):
    made = Sound

    def store(self, folder, records, **options):
        (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\\n" for record in records))
        return self.made(paths=["rows.jsonl"], **options)

del RecordDatasetContract
"""


def changing(answer: str, *fails: str) -> Fault:
    """Return a dataset that changes each document."""
    return Fault(f"def change(self, document, run):\n    return attrs.evolve(document, {answer})", fails)


def giving(code: str, *fails: str) -> Fault:
    """Return a dataset that gives something else."""
    return Fault(f"@hookimpl\ndef codex_dataset(self, run):\n    {code}", fails)


FAULTS = {
    "IsEmpty": giving("return []", "there_are_documents"),
    "WritesLanguagesInCapitals": changing("language='Python'", "fields_are_what_they_are_declared"),
    "GivesOneId": changing("id='same'", "ids_are_unique"),
    "CanBeReadOnce": giving("return iter(list(self.rows(run)))", "documents_can_be_gone_through_again"),
    "HasOneReader": giving(
        """
    class Shared:
        def __iter__(shared):
            shared.left = list(self.rows(run))
            return shared

        def __next__(shared):
            if not shared.left:
                raise StopIteration
            return shared.left.pop(0)

    return Shared()
""",
        "two_readers_do_not_disturb_each_other",
    ),
    "NamesThemAnew": giving(
        """
    mark = os.urandom(4).hex()
    return Again(lambda: [attrs.evolve(each, id=f"{mark}{each.id}") for each in self.rows(run)])
""",
        "a_new_plugin_gives_the_same_documents",
    ),
    "SharesItsPlace": giving(
        """
    def documents():
        for each in self.rows(run):
            type(self).place = run.base.name
            yield each
            if type(self).place != run.base.name:
                return

    return Again(documents)
""",
        "two_runs_in_one_process_do_not_meet",
    ),
    "ReadsTheWorkingFolder": changing(
        "text=f'{document.text}{os.getcwd()}'", "the_working_folder_does_not_matter"
    ),
    "SharesThemOut": giving(
        "return Again(lambda: list(self.rows(run))[run.rank:])", "every_rank_gets_the_same_documents"
    ),
    "LeavesAnIndex": giving(
        """
    def documents():
        (run.base / "rows.index").write_text("read")
        yield from self.rows(run)

    return Again(documents)
""",
        "reading_leaves_no_trace",
    ),
    "Strips": changing("text=document.text.strip()", "texts_come_back"),
    "LosesThePrompt": changing("prompt=''", "a_completion_has_its_prompt"),
    "TrainsEveryTurn": changing(
        "messages=tuple(attrs.evolve(turn, trained=True) for turn in document.messages)", "messages_come_back"
    ),
    "IgnoresTheGroup": changing("group=document.id", "id_group_and_language_are_read"),
    "LeavesBadRecordsOut": giving(
        "return Again(lambda: (each for each in self.rows(run) if isinstance(each, Document)))",
        "a_bad_record_stands_in_its_place",
    ),
    "ReadsAllAtOnce": giving("return list(self.rows(run))", "reading_is_lazy"),
}
FAULTY = Faulty("RecordDatasetContract", HEAD, FAULTS)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_datasets_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound dataset passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
