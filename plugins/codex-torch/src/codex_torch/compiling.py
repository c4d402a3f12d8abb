"""torch.compile for a model that is to be trained.

One rule: what is missing is said before the first step, and a compiler that fails is an error, never a silent step
without it.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import torch
from torch import nn

from codex_kernel import HiddenStates, InputError, Reporter

RECOMPILATIONS = 32
"""Shapes and modes that a model may be compiled for: more come of a model that changes with every step."""
_SHOWN = 300


def compile_model(model: nn.Module, report: Reporter) -> None:
    """Compile the model's forward, and its `hidden` where it has one, in place; names of parameters stay.

    The work is done when they are first called, and again for other shapes. A copy of the model made later would share
    `hidden` with the original. Raises InputError where no C++ compiler is found.
    """
    _require_compiler()
    how: dict[str, Any] = {
        # Code for any shape would come once a second shape has been seen, sooner or later than in a run that is
        # resumed, and gives other bits than the code for one shape.
        "dynamic": False,
        "recompile_limit": RECOMPILATIONS,
        "isolate_recompiles": True,
    }
    model.compile(**how)
    if isinstance(model, HiddenStates):
        model.hidden = torch.compile(model.hidden, **how)  # type: ignore[method-assign] # on this one object
    # Beyond the limit torch would go on without a compiler, and say so in a log.
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # noqa: SLF001 - its name in torch's documentation
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
            remedy=f"install {package}, name a compiler in the environment variable CXX, or set trainer.compile: false",
        )


def _first_line(cause: BaseException) -> str:
    """Return the line of a message that says most: a compiler's first error, else the first line that is not empty."""
    output = getattr(cause, "output", None) or str(cause)  # of a process, or what the error says
    text = output.decode(errors="replace") if isinstance(output, bytes) else str(output)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return (errors or lines or ["no message"])[0][:_SHOWN]
