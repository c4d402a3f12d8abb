"""A process that has imported everything once and forks a child for each command: `codex` without its start-up time.

One rule: a child is what the console script would be, with its own session, folder, environment and streams, and calls
the real entry point; only what a request asks for is done to it. At its end it does what the interpreter does (join
threads, call exit functions, flush streams), but for freeing a gigabyte piece by piece, which takes longer than a run.

It reads requests from standard input and answers on standard output, a JSON object a line: `spawn` (see
`commands.Server.start`) gives a pid, `wait` the exit code, or minus the signal that ended the child.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

PRELOADED = (
    "cattrs.v", "click", "numpy", "peft", "safetensors.torch", "tokenizers", "torch", "torch._dynamo",
    "torch.optim.adamw", "transformers",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto", "rich.live", "rich.console",
    "codex_hf.bpe", "codex_hf.causal_lm", "codex_hf.loading", "codex_hf.lora", "codex_hf.lora_module",
    "codex_hf.module", "codex_kernel.execute", "codex_kernel.foretell", "codex_kernel.data.build",
    "codex_kernel.builtin.jsonl_dataset", "codex_kernel.builtin.bytes_tokenizer", "codex_torch.plugin",
    "codex_torch.loop", "codex_torch.checkpointer", "codex_torch.staging", "codex_torch.tensor_file",
    "codex_kernel.cli.resume", "codex_kernel.cli.run", "codex_kernel.cli.summary",
    "peft.utils.transformers_weight_conversion",
)  # fmt: skip
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000


def serve(requests: int, answers: int) -> dict[str, Any] | None:
    """Answer requests until there are none; return, in a forked child, the request that it is to do."""
    with os.fdopen(requests, "rb") as lines, os.fdopen(answers, "wb", buffering=0) as out:
        out.write(b'{"ready": true}\n')
        for line in lines:
            request = json.loads(line)
            if request["do"] == "wait":
                status = os.waitpid(request["pid"], 0)[1]
                answer = {"code": os.waitstatus_to_exitcode(status)}
            else:
                pid = os.fork()
                if pid == 0:
                    return request
                answer = {"pid": pid}
            out.write(json.dumps(answer).encode() + b"\n")
    return None


def become(request: dict[str, Any]) -> None:
    """Make this process what the request asks for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if holder := request["namespace"]:
        _join(libc, holder)
    for number, path in enumerate([os.devnull, request["out"], request["err"]]):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
    if request["at_forward"] is not None:
        _act_at_forward(**request["at_forward"])
    if request["fault"] is not None:
        _arm(libc, **request["fault"])
    sys.argv = [str(Path(sys.executable).with_name("codex")), *request["arguments"]]


def _join(libc: ctypes.CDLL, holder: int) -> None:
    """Enter the user and mount namespaces of a process."""
    for name, kind in (("user", _CLONE_NEWUSER), ("mnt", _CLONE_NEWNS)):
        file = os.open(f"/proc/{holder}/ns/{name}", os.O_RDONLY)
        if libc.setns(file, kind) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}: {os.strerror(ctypes.get_errno())}")
        os.close(file)


def _arm(libc: ctypes.CDLL, log: str, below: str, containing: str, numbers: list[int]) -> None:
    """Arm the preloaded shim; `numbers` are mode, at, times and value."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    high = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(file)
    mode, at, times, value = numbers
    libc.fault_arm.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_int,
        *[ctypes.c_long] * 3,
        ctypes.c_int,
    ]
    libc.fault_arm.restype = None
    libc.fault_arm(below.encode(), containing.encode(), mode, at, times, value, high)


def _act_at_forward(training: bool, at: int, act: str) -> None:
    """At the `at`-th forward pass in training, or in evaluation since then, raise the signal `act`, or give `nan`."""
    from torch import nn
    from torch.nn.modules.module import register_module_forward_hook

    passed, begun = 0, False

    def after(module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal passed, begun
        if not isinstance(module, nn.Embedding):  # of which there is one
            return None
        begun = begun or module.training  # before that, a model may be tried out
        if not begun or module.training is not training:
            return None
        passed += 1
        if passed != at:
            return None
        if act == "nan":
            return output * float("nan")
        os.kill(os.getpid(), signal.Signals[act])
        return None

    register_module_forward_hook(after)


def main() -> None:
    """Import, serve, and in a child run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a command that it can interrupt
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)  # what a library says while it is imported belongs to the test's own output
    for name in PRELOADED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise RuntimeError(f"{threads} threads: what they hold would be lost in a fork")
    gc.freeze()  # or each child's first collection would copy every page that it walks over
    request = serve(requests, answers)
    if request is None:
        return
    code = 1
    try:
        become(request)
        from codex_kernel.__main__ import main as codex

        signal.signal(signal.SIGINT, signal.default_int_handler)
        codex()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter shows it
        sys.excepthook(*sys.exc_info())
    leave(code)


def leave(code: int) -> None:
    """End this process as the interpreter ends it, without freeing its memory."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
