"""torch.compile for a model that is to be trained.

One rule: what is missing is said before the first step, and a compiler that fails is an error, never a silent step
without it.
"""

from __future__ import annotations

import os
import shutil
import sys

import torch
from torch import nn

from codex_kernel import HiddenStates, InputError, Reporter

_REMEDY = "or set trainer.compile: false"
_SHOWN = 300


def compile_model(model: nn.Module, report: Reporter) -> None:
    """Compile the model's forward, and its `hidden` where it has one, in place; names of parameters stay.

    The work is done when they are first called, and again for other shapes. A copy of the model made later would share
    `hidden` with the original. Raises InputError where no C++ compiler is found.
    """
    _require_compiler()
    model.compile()
    if isinstance(model, HiddenStates):
        model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign] # on this one object
    report.warning(
        "compile: the first step takes up to minutes longer, as does the first of each other shape (a short last "
        "micro-batch, evaluation); losses differ from those without compile: in the last "
        "digits, and with dropout by other random numbers"
    )
    if torch.get_num_threads() > 1 and not torch.are_deterministic_algorithms_enabled():
        report.warning(
            "compile: with more than one thread a run does not repeat bit by bit; set trainer.determinism: strict"
        )


def explain(error: BaseException) -> InputError | None:
    """Return what to tell the user of a compiler that failed, with its first cause; None for any other error."""
    module = type(error).__module__
    if not module.startswith(("torch._dynamo.", "torch._inductor.")):
        return None
    cause = error
    while isinstance(inner := getattr(cause, "inner_exception", None) or cause.__cause__, BaseException):
        cause = inner
    return InputError(
        f"the model cannot be compiled: {type(cause).__name__}: {_first_line(cause)}",
        remedy="set trainer.compile: false",
    )


def _require_compiler() -> None:
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        package = "Xcode's command line tools (xcode-select --install)" if sys.platform == "darwin" else "g++"
        raise InputError(
            f"compile: torch.compile needs a C++ compiler, and {name} is not found",
            remedy=f"install {package}, name a compiler in the environment variable CXX, {_REMEDY}",
        )


def _first_line(cause: BaseException) -> str:
    """Return the line of a message that says most: a compiler's first error, else the first line that is not empty."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return (errors or lines or ["no message"])[0][:_SHOWN]
