"""The contracts of models and adapters find what is broken: one fault fails the check that says so."""

from __future__ import annotations

import pytest

from codex_kernel.testing import ModelContract, ToyTransformer
from tests.testing.faulty import Fault, Faulty


class TestToyTransformer(ModelContract):
    def make(self, folder):
        return [ToyTransformer()]


HEAD = """
from codex_kernel.testing import ModelContract
from codex_kernel.testing.toy_transformer import ToyTransformer

@frozen
class Sound(ToyTransformer):
    @staticmethod
    def module():
        import torch
        from codex_kernel.testing.toy_transformer import _module

        class Kept(_module()):
            weights_file = "model.safetensors"

            def hidden(self, *batch):
                head, self.head = self.head, torch.nn.Identity()
                try:
                    return super().forward(*batch)
                finally:
                    self.head = head

            def head_weight(self):
                return self.head.weight

            def weights(self):
                return {name: tensor.detach() for name, tensor in self.state_dict().items()}

            def load_weights(self, weights):
                shapes = {name: tensor.shape for name, tensor in weights.items()}
                if shapes != {name: tensor.shape for name, tensor in self.weights().items()}:
                    raise ValueError("another model")
                self.load_state_dict(weights)

            def config_files(self):
                return {"config.json": b"{}"}

        return Kept

    @hookimpl
    def codex_model(self, tokenizer, materialize):
        return self.module()(tokenizer.vocab_size, self.width)

class Contract(ModelContract):
    made = Sound

    def make(self, folder):
        return [self.made()]

del ModelContract
"""


def module(name: str, code: str, *fails: str) -> Fault:
    """Return a plugin whose module has these methods instead."""
    lines = "".join(f"            {line}\n" for line in code.splitlines())
    return Fault(
        f"@frozen\nclass {name}(Sound):\n    @staticmethod\n    def module():\n        import torch\n\n"
        f"        class Faulty(Sound.module()):\n{lines}\n        return Faulty\n",
        fails,
        raw=True,
    )


BODIES = {
    "HasNoRowPerToken": (
        "def forward(self, *batch): return super().forward(*batch)[..., :20]",
        "logits_have_a_row_for_each_token",
    ),
    "LooksAhead": (
        (
            "def forward(self, *batch):\n"
            "    logits = super().forward(*batch)\n"
            "    return logits + logits.mean(1, keepdim=True)"
        ),
        "no_token_sees_a_later_one",
    ),
    "MixesDocuments": (
        (
            "def forward(self, ids, positions, documents):\n"
            "    return super().forward(ids, positions, torch.zeros_like(documents))"
        ),
        "documents_of_a_block_are_isolated",
    ),
    "MixesRows": (
        (
            "def forward(self, *batch):\n"
            "    logits = super().forward(*batch)\n"
            "    return logits + logits.mean(0, keepdim=True)"
        ),
        "rows_of_a_batch_are_isolated",
    ),
    "IsNaNOnPadding": (
        (
            "def forward(self, ids, positions, documents):\n"
            "    logits = super().forward(ids, positions, documents)\n"
            "    return logits.masked_fill((documents < 0)[..., None], torch.nan)"
        ),
        "padding_changes_nothing_and_is_finite",
    ),
    "HasAnIdleLayer": (
        "def __init__(self, *sizes):\n    super().__init__(*sizes)\n    self.idle = torch.nn.Linear(2, 2)",
        "training_reaches_every_parameter_that_is_to_be_trained",
    ),
    "DrawsByTheClock": (
        (
            "def __init__(self, *sizes):\n"
            "    import time\n"
            "    torch.manual_seed(time.time_ns() % 2**31)\n"
            "    super().__init__(*sizes)"
        ),
        "the_seed_alone_decides_the_start",
    ),
    "KeepsHalf": (
        (
            "def weights(self):\n"
            "    return {name: tensor for name, tensor in super().weights().items() if 'head' in name}\n"
            "def load_weights(self, weights): self.load_state_dict(weights, strict=False)"
        ),
        "weights_come_back",
    ),
    "SharesStorage": (
        "def weights(self):\n    kept = super().weights()\n    return {**kept, 'tied': kept['head.weight']}",
        "kept_tensors_share_no_storage",
    ),
    "TakesAnyWeights": (
        (
            "def load_weights(self, weights):\n"
            "    own = self.state_dict()\n"
            "    own.update({n: t for n, t in weights.items() if n in own and own[n].shape == t.shape})\n"
            "    self.load_state_dict(own)"
        ),
        "weights_of_another_model_are_refused",
    ),
    "StampsItsFiles": (
        "def config_files(self):\n    import os\n    return {'config.json': os.urandom(4).hex().encode()}",
        "config_files_are_named_and_stable",
    ),
    "ScalesItsLogits": (
        "def forward(self, *batch): return 0.5 * super().forward(*batch)",
        "the_head_is_applied_to_the_hidden_states",
    ),
}
FAULTS = {name: module(name, code, *fails) for name, (code, *fails) in BODIES.items()}
FAULTS["HasOtherShapes"] = Fault(
    """
    @hookimpl
    def codex_model(self, tokenizer, materialize):
        return self.module()(tokenizer.vocab_size, self.width if materialize else 2 * self.width)
    """,
    ["shapes_alone_need_no_memory"],
)
MODELS = Faulty("ModelContract", HEAD, FAULTS)

ADAPTER_HEAD = """
from codex_kernel.testing import AdapterContract

@frozen
class Sound:
    rank: int = 4

    def adapt(self, model):
        import torch

        class Beside(torch.nn.Module):
            def __init__(self, layer, rank):
                super().__init__()
                self.layer = layer
                self.into = torch.nn.Linear(layer.in_features, rank, bias=False)
                self.out = torch.nn.Linear(rank, layer.out_features, bias=False)

            def forward(self, x):
                return self.layer(x) + self.out(self.into(x))

        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for layer in model.layers:
            layer.query = Beside(layer.query, self.rank)
            layer.value = Beside(layer.value, self.rank)
        return model

    @hookimpl(wrapper=True)
    def codex_model(self):
        model = yield
        return None if model is None else self.adapt(model)

class Contract(AdapterContract):
    made = Sound

    def make(self, folder):
        return self.made()

del AdapterContract
"""


def adapting(code: str, *fails: str) -> Fault:
    """Return an adapter that does something more to the model."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return Fault(
        f"def adapt(self, model):\n    import torch\n    model = Sound.adapt(self, model)\n{lines}", fails
    )


def over(expression: str, *fails: str) -> Fault:
    """Return an adapter that puts a module around the model's, which changes its logits."""
    return adapting(
        "class Around(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = model\n"
        "    def forward(self, ids, positions, documents):\n"
        "        logits = self.inner(ids, positions, documents)\n"
        f"        return {expression}\n"
        "return Around()",
        *fails,
    )


ADAPTER_FAULTS = {
    "CutsTheVocabulary": over("logits[..., :20]", "logits_have_a_row_for_each_token"),
    "LooksAhead": over("logits + logits.mean(1, keepdim=True)", "no_token_sees_a_later_one"),
    "MixesDocuments": over("logits + logits.cumsum(1)", "documents_of_a_block_are_isolated"),
    "MixesRows": over("logits + logits.mean(0, keepdim=True)", "rows_of_a_batch_are_isolated"),
    "IsNaNOnPadding": over(
        "logits.masked_fill((documents < 0)[..., None], torch.nan)", "padding_changes_nothing_and_is_finite"
    ),
    "HasAnIdleLayer": adapting(
        "model.idle = torch.nn.Linear(2, 2)\nreturn model",
        "training_reaches_every_parameter_that_is_to_be_trained",
    ),
    "DrawsByTheClock": adapting(
        "import time\ntorch.manual_seed(time.time_ns() % 2**31)\n"
        "torch.nn.init.normal_(model.layers[0].query.into.weight)\nreturn model",
        "the_seed_alone_decides_the_start",
    ),
    "KeepsNothing": adapting(
        "model.state_dict = lambda *_, **__: {}\nmodel.load_state_dict = lambda _: None\nreturn model",
        "weights_come_back",
    ),
    "SharesStorage": adapting(
        "model.weights_file = 'a.safetensors'\nmodel.config_files = lambda: {}\n"
        "model.load_weights = lambda _: None\n"
        "model.weights = lambda: {'a': model.head.weight, 'b': model.head.weight}\nreturn model",
        "kept_tensors_share_no_storage",
        "weights_of_another_model_are_refused",
    ),
    "StampsItsFiles": adapting(
        "import os\nmodel.weights_file = 'a.safetensors'\n"
        "model.config_files = lambda: {'a.json': os.urandom(4)}\nmodel.load_weights = lambda _: None\n"
        "model.weights = lambda: {'a': model.head.weight}\nreturn model",
        "config_files_are_named_and_stable",
    ),
    "ClaimsAnotherHead": adapting(
        "model.hidden = lambda ids, *_: torch.zeros(*ids.shape, 32)\n"
        "model.head_weight = lambda: model.head.weight\nreturn model",
        "the_head_is_applied_to_the_hidden_states",
    ),
    "HasOtherShapes": adapting(
        "if model.head.weight.is_meta: model.more = torch.nn.Linear(2, 2)\nreturn model",
        "shapes_alone_need_no_memory",
    ),
    "IsAModel": Fault("@hookimpl(tryfirst=True)\ndef codex_model(self): return None", ["it_wraps_the_model"]),
    "HidesErrors": Fault(
        """
        @hookimpl(wrapper=True)
        def codex_model(self):
            try:
                model = yield
            except Exception:
                return None
            return None if model is None else self.adapt(model)
        """,
        ["an_error_of_the_model_passes_through"],
    ),
    "FreezesAll": adapting(
        "for parameter in model.parameters(): parameter.requires_grad_(False)\nreturn model",
        "it_leaves_something_to_train",
    ),
    "CountsInABuffer": adapting(
        "model.register_buffer('calls', torch.zeros(1))\n"
        "model.register_forward_hook(lambda module, *_: module.calls.add_(1) and None)\nreturn model",
        "training_changes_nothing_that_is_frozen",
    ),
    "DropsInEvaluation": over(
        "torch.nn.functional.dropout(logits, 0.5, training=True)", "evaluation_is_the_same_each_time"
    ),
    "SharesItsLayer": Fault(
        """
        shared: ClassVar[list] = []

        def adapt(self, model):
            model = Sound.adapt(self, model)
            if not model.head.weight.is_meta:
                self.shared.append(model.layers[0].query.into)
                model.layers[0].query.into = self.shared[0]
            return model
        """,
        ["two_runs_in_one_process_share_no_weights"],
    ),
}
ADAPTERS = Faulty("AdapterContract", ADAPTER_HEAD, ADAPTER_FAULTS)


@pytest.fixture(scope="module")
def failed_models(tmp_path_factory):
    """Fault of a model → the checks that fail for it."""
    return MODELS.failed(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def failed_adapters(tmp_path_factory):
    """Fault of an adapter → the checks that fail for it."""
    return ADAPTERS.failed(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("name", MODELS.all_faults)
def test_the_contract_of_models_finds_the_fault(failed_models, name):
    """The check that speaks of the fault fails; a sound model passes all."""
    MODELS.check(failed_models, name)


@pytest.mark.parametrize("name", ADAPTERS.all_faults)
def test_the_contract_of_adapters_finds_the_fault(failed_adapters, name):
    """The check that speaks of the fault fails; a sound adapter passes all."""
    ADAPTERS.check(failed_adapters, name)


def test_every_check_of_both_contracts_has_failed_for_some_fault(failed_models, failed_adapters):
    """No check is idle: each one has found something."""
    assert MODELS.idle(failed_models) == set()
    assert ADAPTERS.idle(failed_adapters) == set()
