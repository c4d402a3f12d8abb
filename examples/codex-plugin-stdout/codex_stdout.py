from attrs import frozen

from codex_kernel import hookimpl


@frozen
class StdoutLogger:
    every: int = 10

    @hookimpl
    def codex_metrics(self, step, metrics):
        if step % self.every == 0:
            print(step, dict(metrics))
