"""Adapter `lora`: low-rank adapters (Hu et al., 2021, "LoRA") through PEFT.

One rule: what is asked for is adapted, or the run ends: targets that match nothing are an error, never a base model.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar, Literal

from attrs import frozen

from codex_kernel import Model, RunContext, hookimpl, option


@frozen
class LoRA:
    """Freeze the model and train low-rank adapters beside its linear layers, for transformers models and any module."""

    codex_capabilities: ClassVar[tuple[str, ...]] = ("gpu",)

    r: int = option(8, help="Rank of the adapters.", ge=1)
    alpha: int = option(16, help="Scale of the adapters; they are multiplied by alpha / r.", ge=1)
    dropout: float = option(0.0, help="Dropout on the adapters' input.", ge=0, lt=1)
    target_modules: list[str] | str | None = option(
        None,
        help="Names of the layers to adapt, or all-linear; without it PEFT's choice for the architecture.",
    )
    exclude_modules: list[str] | None = option(None, help="Names of layers to leave alone.")
    modules_to_save: list[str] | None = option(
        None, help="Names of layers to train whole beside the adapters."
    )
    rslora: bool = option(default=False, help="Scale by alpha / sqrt(r), which is steadier for large r.")
    dora: bool = option(default=False, help="Decompose weights into magnitude and direction.")
    init: Literal["default", "gaussian"] = option("default", help="How the adapters start.")

    def __attrs_post_init__(self) -> None:
        """Refuse an empty list, which would adapt nothing."""
        if self.target_modules is not None and not self.target_modules:
            raise ValueError(
                "target_modules: expected names of layers, all-linear, or nothing at all; got an empty list"
            )

    @hookimpl(wrapper=True)
    def codex_model(self, run: RunContext) -> Generator[None, Model | None, Any]:
        """Adapt the model that the model plugin, or the adapter before, gave."""
        model = yield
        if model is None:
            return None
        from codex_hf.lora_module import adapt

        return adapt(model, self, run)
