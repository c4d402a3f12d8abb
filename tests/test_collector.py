import gc
import subprocess
import sys

SCRIPT = """
import gc
usual = gc.get_threshold()
from codex_kernel import collector
collector.hold_back()
assert gc.get_threshold()[0] > usual[0]
assert gc.isenabled()
collector.settle()
assert gc.get_threshold() == usual
print(gc.get_freeze_count())
"""


def test_collections_are_rare_in_the_start_and_usual_in_training():
    """Thresholds come back, and what was there before training is left out of every collection."""
    before = gc.get_freeze_count()
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1000
    assert gc.get_freeze_count() == before, "in a process of its own"


AGAIN = """
import gc, weakref
from codex_kernel import collector

class Model:
    def __init__(self):
        self.itself = self

collector.settle()
gone = weakref.ref(Model())
collector.settle()
print(gone() is None)
"""


def test_a_second_run_of_a_process_keeps_nothing_of_the_first():
    """What a run has left in a cycle would else be left out of every collection, and its memory be lost."""
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
