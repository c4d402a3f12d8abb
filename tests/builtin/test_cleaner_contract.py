"""The contract of cleaning steps finds what is broken: a step with one fault fails the test that says so."""

from __future__ import annotations

import textwrap

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """\
import os, random
from pathlib import Path
import attrs
from codex_kernel import Cleaned, Document, Message, hookimpl
from codex_kernel.testing import CleanerContract

DIRTY = (
    Document("dirty", "d", "a secret b"),
    Document("prompt", "d", "text", prompt="a secret"),
    Document("talk", "d", messages=(Message("user", "no secret"), Message("assistant", "no"))),
)

def redacted(document):
    messages = tuple(attrs.evolve(turn, content=turn.content.replace("secret", "…")) for turn in document.messages)
    return attrs.evolve(
        document,
        text=document.text.replace("secret", "…"),
        prompt=document.prompt.replace("secret", "…"),
        messages=messages,
    )

def cleaned(document):
    new = redacted(document)
    return Cleaned(document) if new == document else Cleaned(new, {"redacted": 1})

class Step:
    def clean(self, document):
        return cleaned(document)

@attrs.frozen
class Sound:
    @hookimpl
    def codex_cleaner(self, run):
        return Step()

class Contract(CleanerContract):
    dirty = DIRTY
    made = Sound

    def make(self, folder):
        return self.made()

del CleanerContract
"""

FAULTS = {
    "Sound": ("pass", []),
    "GivesDocuments": (
        """
        def clean(self, document):
            return redacted(document)
        """,
        ["each_document_gets_an_answer"],
    ),
    "FallsOverSurrogates": (
        """
        def clean(self, document):
            document.text.encode()
            return cleaned(document)
        """,
        ["each_document_gets_an_answer"],
    ),
    "FallsOverEmptyText": (
        """
        def clean(self, document):
            assert document.messages or document.text[0] is not None
            return cleaned(document)
        """,
        ["each_document_gets_an_answer"],
    ),
    "DoesNothing": (
        """
        def clean(self, document):
            return Cleaned(document)
        """,
        ["dirty_documents_are_dropped_changed_or_counted"],
    ),
    "Silent": (
        """
        def clean(self, document):
            return Cleaned(redacted(document))
        """,
        ["nothing_happens_without_a_count"],
    ),
    "DropsSilently": (
        """
        def clean(self, document):
            return Cleaned(None) if document.id == "blank" else cleaned(document)
        """,
        ["nothing_happens_without_a_count"],
    ),
    "CountsNothing": (
        """
        def clean(self, document):
            return Cleaned(cleaned(document).document, {"redacted": document.text.count("secret")})
        """,
        ["counts_are_words_and_positive_integers"],
    ),
    "CountsByText": (
        """
        def clean(self, document):
            return Cleaned(cleaned(document).document, {document.text: 1})
        """,
        ["counts_are_words_and_positive_integers"],
    ),
    "CountsShares": (
        """
        def clean(self, document):
            return Cleaned(cleaned(document).document, {"share": 0.5})
        """,
        ["counts_are_words_and_positive_integers"],
    ),
    "Renames": (
        """
        def clean(self, document):
            answer = cleaned(document)
            return attrs.evolve(answer, document=attrs.evolve(answer.document, id="x", language=""))
        """,
        ["only_the_texts_change"],
    ),
    "CutsCharacters": (
        """
        def clean(self, document):
            text = document.text.replace("🙂", "\\ud83d")
            return cleaned(document) if text == document.text else Cleaned(attrs.evolve(document, text=text), {"x": 1})
        """,
        ["texts_stay_valid_text"],
    ),
    "LosesTurns": (
        """
        def clean(self, document):
            turns = tuple(turn for turn in document.messages if turn.content)
            return Cleaned(redacted(attrs.evolve(document, messages=turns)), {"turns": 1})
        """,
        ["a_conversation_stays_one"],
    ),
    "TrainsAllTurns": (
        """
        def clean(self, document):
            turns = tuple(Message(turn.role, turn.content) for turn in document.messages)
            return Cleaned(redacted(attrs.evolve(document, messages=turns)), {"turns": 1})
        """,
        ["a_conversation_stays_one"],
    ),
    "WritesIntoDocuments": (
        """
        def clean(self, document):
            object.__setattr__(document, "text", document.text.replace("secret", "…"))
            return Cleaned(document, {"redacted": 1})
        """,
        ["the_given_document_is_left_alone"],
    ),
    "KnowsItsFolder": (
        """
        def __init__(self, run):
            self.run = run

        def clean(self, document):
            return Cleaned(cleaned(document).document, {f"in a path of {len(str(self.run.base))}": 1})
        """,
        ["a_new_plugin_gives_the_same_answers"],
    ),
    "RemembersTheLastPass": (
        """
        seen = {}

        def __init__(self, run):
            self.seen = self.seen.setdefault(str(run.folder), [])

        def clean(self, document):
            self.seen.append(document.id)
            answer = cleaned(document)
            return Cleaned(answer.document, {**answer.counts, "times": self.seen.count(document.id)})
        """,
        ["a_new_pass_has_forgotten_the_old", "two_passes_do_not_disturb_each_other"],
    ),
    "OnePassAtATime": (
        """
        active = None

        def __init__(self, run):
            self.count = 0

        def clean(self, document):
            if type(self).active is not self:
                type(self).active, self.count = self, 0
            self.count += 1
            return Cleaned(cleaned(document).document, {"so far": self.count})
        """,
        ["two_passes_do_not_disturb_each_other"],
    ),
    "CountsDocuments": (
        """
        def __init__(self, run):
            self.count = 0

        def clean(self, document):
            self.count += 1
            return Cleaned(cleaned(document).document, {"so far": self.count})
        """,
        ["order_matters_only_where_it_says_so"],
    ),
    "NeverClean": (
        """
        def clean(self, document):
            return Cleaned(attrs.evolve(document, text=document.text + "."), {"dots": 1})
        """,
        ["what_is_clean_stays_as_it_is"],
    ),
    "OfOneRank": (
        """
        def __init__(self, run):
            self.rank = run.rank

        def clean(self, document):
            return Cleaned(document) if self.rank else cleaned(document)
        """,
        ["every_rank_gives_the_same_answers"],
    ),
    "ReadsTheWorkingFolder": (
        """
        def clean(self, document):
            return Cleaned(cleaned(document).document, {f"in {len(os.getcwd())}": 1})
        """,
        ["the_working_folder_does_not_matter"],
    ),
    "Draws": (
        """
        def clean(self, document):
            return Cleaned(None, {"drawn": 1}) if random.random() < 0.5 else cleaned(document)
        """,
        ["random_states_stay_as_they_are"],
    ),
    "SeedsNumpy": (
        """
        def clean(self, document):
            import numpy
            numpy.random.rand()
            return cleaned(document)
        """,
        ["random_states_stay_as_they_are"],
    ),
    "KeepsNotes": (
        """
        def __init__(self, run):
            self.base = run.base

        def clean(self, document):
            (self.base / "notes").write_text(document.id)
            return cleaned(document)
        """,
        ["cleaning_leaves_no_trace"],
    ),
    "RestlessFingerprint": (
        """
        def fingerprint(self):
            return os.urandom(4).hex()
        """,
        ["a_fingerprint_is_the_same_each_time"],
    ),
}

STEPS = {
    name: Fault(
        f"class Step{name}(Step):\n    def __init__(self, run):\n        pass\n\n"
        f"{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        f"@frozen\nclass {name}(Sound):\n    @hookimpl\n"
        f"    def codex_cleaner(self, run):\n        return Step{name}(run)\n",
        fails,
        raw=True,
    )
    for name, (body, fails) in FAULTS.items()
    if name != "Sound"
}
OTHERS = {
    "HasNoDirt": Fault(contract="dirty = ()", fails=["dirty_documents_are_dropped_changed_or_counted"]),
    "SaysThatOrderMatters": Fault(
        contract="order_matters = True", fails=["order_matters_only_where_it_says_so"]
    ),
    "LooksBack": Fault(
        """
        class StepLate:
            def __init__(self):
                self.last = None

            def clean(self, document):
                answer, self.last = self.last or Cleaned(document), cleaned(document)
                return answer

        @frozen
        class LooksBack(Sound):
            @hookimpl
            def codex_cleaner(self, run):
                return StepLate()
        """,
        ["only_the_texts_change"],
        raw=True,
    ),
    "CountsInOnePlace": Fault(
        """
        class StepInOnePlace(Step):
            def __init__(self):
                self.counts = {"documents": 0}

            def clean(self, document):
                self.counts["documents"] += 1
                return Cleaned(cleaned(document).document, self.counts)

        @frozen
        class CountsInOnePlace(Sound):
            @hookimpl
            def codex_cleaner(self, run):
                return StepInOnePlace()
        """,
        ["documents_to_come_do_not_matter"],
        raw=True,
    ),
}
FAULTY = Faulty("CleanerContract", HEAD, {**STEPS, **OTHERS})


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_cleaning_steps_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound step passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
