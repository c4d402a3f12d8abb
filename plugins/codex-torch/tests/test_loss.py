import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from toy_model import HeadedToy

from codex_kernel import IGNORE_INDEX
from codex_torch.loss import CHUNK_TOKENS, MIN_CHUNKED_VOCABULARY, chunked, loss_sum

LARGE = MIN_CHUNKED_VOCABULARY + 7


def inputs(blocks: int = 5, seq_len: int = 60, vocabulary: int = LARGE):
    """Random ids, targets with gaps, positions and one document a block; more than one chunk of tokens."""
    torch.manual_seed(1)
    ids_BT = torch.randint(vocabulary, (blocks, seq_len))
    targets_BT = torch.randint(vocabulary, (blocks, seq_len)).masked_fill(
        torch.rand(blocks, seq_len) < 0.2, IGNORE_INDEX
    )
    return ids_BT, targets_BT, torch.arange(seq_len).expand(blocks, -1), torch.zeros_like(ids_BT)


def headed(vocabulary: int = LARGE) -> HeadedToy:
    """A model that can stop before its head."""
    torch.manual_seed(0)
    return HeadedToy(vocabulary, dropout=0.0)


def reference(model, ids_BT, targets_BT, *rest):
    """The loss by all logits at once, in fp32."""
    logits_BTV = model(ids_BT, *rest)
    return F.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum", ignore_index=IGNORE_INDEX
    )


def test_by_chunks_it_is_the_same_loss_and_gradient():
    """Without the logits of all tokens, loss and gradients are those of plain cross-entropy."""
    chunks, plain = headed(), headed()
    loss, expected = loss_sum(chunks, *inputs()), reference(plain, *inputs())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for mine, theirs in zip(chunks.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_by_chunks_no_logits_of_all_tokens_exist():
    """The largest tensor that is made has the rows of one chunk, or the head's own shape."""
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(
                t.numel() for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor)
            )
            return out

    with Watch():
        loss_sum(headed(), *inputs()).backward()
    assert max(made) <= max(CHUNK_TOKENS * LARGE, headed().head_weight().numel())


def test_without_a_gradient_it_is_the_same_loss():
    """Evaluation takes the same loss, by chunks."""
    with torch.no_grad():
        torch.testing.assert_close(loss_sum(headed(), *inputs()), reference(headed(), *inputs()))


@pytest.mark.parametrize("gradient", [True, False])
def test_in_bf16_the_sum_keeps_its_digits(gradient):
    """The sum over many tokens is not rounded to bf16's three digits."""
    model = headed()
    with torch.set_grad_enabled(gradient), torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_sum(model, *inputs())
    assert loss.dtype == torch.float32
    with torch.no_grad():
        expected = float(reference(model, *inputs()))
    assert float(loss.detach()) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("gradient", [True, False])
def test_under_autocast_the_head_is_multiplied_in_its_precision(gradient):
    """Chunk by chunk the head is multiplied in bf16, as where the model applies it, and the loss is the same."""
    products = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            factors = [t for t in args if isinstance(t, torch.Tensor) and t.is_floating_point()]
            if len(factors) > 1 and any(LARGE in factor.shape for factor in factors):
                products.update(factor.dtype for factor in factors)
            return func(*args, **(kwargs or {}))

    chunks, plain = headed(), headed()
    with torch.set_grad_enabled(gradient), torch.autocast("cpu", dtype=torch.bfloat16):
        with Watch():
            loss = loss_sum(chunks, *inputs())
        expected = reference(plain, *inputs())
    assert products == {torch.bfloat16}
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
    if gradient:
        loss.backward()
        expected.backward()
        for mine, theirs in zip(chunks.parameters(), plain.parameters(), strict=True):
            assert mine.grad.dtype == torch.float32
            assert (mine.grad - theirs.grad).norm() <= 2e-2 * theirs.grad.norm()


def test_the_threshold_is_as_documented():
    """Chunks are used from the measured vocabulary on, for more tokens than one chunk, by models that can."""
    assert chunked(headed(), CHUNK_TOKENS + 1)
    assert not chunked(headed(), CHUNK_TOKENS)
    assert not chunked(headed(MIN_CHUNKED_VOCABULARY - 1), CHUNK_TOKENS + 1)
    assert not chunked(torch.nn.Linear(2, 2), CHUNK_TOKENS + 1)
