import math
from collections import Counter

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from toy_model import HeadedToy, ToyTransformer
from training import model, options, training

from codex_kernel import GenerateRequest, InputError, NonFiniteError, PluginError
from codex_kernel.testing import hooks_of, make_run
from codex_kernel.testing.training import ToyBlocks, ToyData, ToyTokenizer
from codex_torch.generate import as_text, choose

REQUEST = GenerateRequest(
    prompt="abc", max_new_tokens=20, temperature=1.0, top_k=None, top_p=None, seed=3, context_tokens=12
)


def generated(tmp_path, state, module=None, **changes) -> str:
    """The text that the trainer's plugin makes of a checkpoint, by its hook."""
    pieces = hooks_of(options()).codex_generate(
        run=make_run(tmp_path),
        model=module or model(9),
        tokenizer=ToyTokenizer(),
        state=state,
        request=evolve(REQUEST, **changes),
    )
    return "".join(pieces)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The checkpoint of a model that has learnt its training blocks by heart."""
    data = ToyData(train=ToyBlocks(30, seq_len=8), validation=None)
    run = training(tmp_path_factory.mktemp("run"), model(width=32, dropout=0.0), data, max_steps=150)
    run.trainer.fit(None)
    return run.checkpointer.states[150]


def wide(**changes):
    """An untrained model of the shape of the checkpoint's."""
    return model(9, width=32, **changes)


def test_the_same_request_gives_the_same_text(tmp_path, state):
    """Text follows from the checkpoint, the prompt and the seed, whatever was drawn before."""
    first = generated(tmp_path, state, wide())
    torch.randn(5)
    assert generated(tmp_path, state, wide()) == first
    assert generated(tmp_path, state, wide(), seed=4) != first


def test_without_temperature_the_rule_that_was_learnt_comes_out(tmp_path, state):
    """Greedily, each token is the one that follows in the training data."""
    tokenizer = ToyTokenizer()
    text = generated(tmp_path, state, wide(), temperature=0.0, prompt="a", max_new_tokens=3)
    token = tokenizer.encode("a")[0]
    expected = []
    for _ in range(3):
        token = (5 * token + 3) % 32
        expected.append(token)
    assert text == tokenizer.decode(expected)


def test_dropout_is_off(tmp_path, state):
    """Generation does not depend on the dropout that the model was trained with."""
    assert generated(tmp_path, state, wide(dropout=0.5)) == generated(tmp_path, state, wide(dropout=0.0))


def test_a_model_that_stops_before_its_head_gives_the_same_text(tmp_path, state):
    """The head applied to one position gives what the whole model gives."""
    torch.manual_seed(9)
    assert generated(tmp_path, state, HeadedToy(width=32)) == generated(tmp_path, state, wide())


def test_it_stops_at_the_limit_and_at_the_end_of_the_text(tmp_path, state):
    """No more tokens than asked for; the end-of-text token ends it and is no text."""
    assert len(generated(tmp_path, state, wide(), max_new_tokens=5)) <= 5
    assert generated(tmp_path, state, wide(), max_new_tokens=0) == ""

    class Ending(ToyTransformer):
        def forward(self, *inputs):
            logits_BTV = super().forward(*inputs).clone()
            logits_BTV[..., ToyTokenizer().eos_id] = 1e9
            return logits_BTV

    assert generated(tmp_path, state, Ending(width=32)) == ""


def test_an_empty_prompt_starts_from_the_end_of_a_text(tmp_path, state):
    """Something comes out where nothing is given."""
    assert generated(tmp_path, state, wide(), prompt="") != ""


def test_no_more_context_is_read_than_the_model_was_trained_on(tmp_path, state):
    """What lies further back changes nothing, and the model never sees a longer row."""
    lengths = []

    class Watched(ToyTransformer):
        def forward(self, input_ids_BT, position_ids_BT, document_ids_BT):
            lengths.append(input_ids_BT.shape[1])
            assert position_ids_BT[0].tolist() == list(range(input_ids_BT.shape[1]))
            return super().forward(input_ids_BT, position_ids_BT, document_ids_BT)

    long, short = "z" * 30 + "abcdefgh", "abcdefgh"
    texts = [generated(tmp_path, state, Watched(width=32), prompt=p, context_tokens=8) for p in (long, short)]
    assert texts[0] == texts[1]
    assert max(lengths) == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": -0.1}, "temperature >= 0, got -0.1"),
        ({"top_k": 0}, "top_k >= 1, got 0"),
        ({"top_p": 0.0}, "0 < top_p <= 1, got 0.0"),
        ({"top_p": 1.1}, "0 < top_p <= 1, got 1.1"),
        ({"max_new_tokens": -1}, "max_new_tokens >= 0, got -1"),
    ],
)
def test_a_request_that_cannot_be_is_refused(tmp_path, state, changes, said):
    """Each bound of a request is checked before the model is loaded."""
    with pytest.raises(InputError, match=said):
        generated(tmp_path, state, wide(), **changes)


def draws(logits, count=400, **changes):
    """How often each id is drawn."""
    generator = torch.Generator().manual_seed(0)
    request = evolve(REQUEST, **changes)
    return Counter(choose(torch.tensor(logits), request, generator) for _ in range(count))


def test_top_k_draws_from_that_many():
    """Only the likeliest ids come out, in the proportion of their probabilities."""
    drawn = draws([0.0, 2.0, 1.0, -1.0], top_k=2)
    assert set(drawn) == {1, 2}
    assert drawn[1] / drawn[2] == pytest.approx(math.e, rel=0.3)


def test_top_p_draws_from_the_fewest_that_have_the_probability():
    """With probabilities 0.5, 0.3, 0.2, the first is enough for 0.4 and two are needed for 0.6."""
    logits = [math.log(0.2), math.log(0.5), math.log(0.3)]
    assert set(draws(logits, top_p=0.4)) == {1}
    assert set(draws(logits, top_p=0.6)) == {1, 2}
    assert set(draws(logits, top_p=1.0)) == {0, 1, 2}


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    st.integers(1, 30),
    st.floats(0.01, 1.0),
)
def test_something_is_always_drawn(logits, top_k, top_p):
    """However narrow the choice, the likeliest id is in it."""
    generator = torch.Generator().manual_seed(0)
    request = evolve(REQUEST, top_k=top_k, top_p=top_p, temperature=0.5)
    chosen = choose(torch.tensor(logits), request, generator)
    assert logits[chosen] >= sorted(logits, reverse=True)[:top_k][-1]


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 5e-324])
def test_a_temperature_near_zero_draws_the_likeliest(temperature):
    """However small the temperature, what it makes infinite is only unlikely."""
    assert set(draws([-50.0, 7.0, 6.999, 3e4, 2e4], temperature=temperature, top_p=0.9)) == {3}
    assert set(draws([1.0, -1.0, 1.0], temperature=temperature)) == {0, 2}


def test_logits_that_are_not_finite_are_an_error():
    """A spoiled model does not give text."""
    with pytest.raises(NonFiniteError, match="logits are not finite"):
        draws([0.0, float("nan")], count=1)


class Utf8Tokenizer:
    """A token for each byte."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


@given(st.binary(max_size=40) | st.text(max_size=12).map(str.encode))
def test_the_pieces_are_what_decoding_all_at_once_gives(content):
    """Put together, the pieces are the text of all ids, also where the bytes are no characters."""
    assert "".join(as_text(Utf8Tokenizer(), iter(content))) == Utf8Tokenizer().decode(content)


@given(st.text(max_size=12).filter(lambda text: "\ufffd" not in text))
def test_a_character_is_never_broken(text):
    """Of characters with several bytes each piece has whole ones."""
    for piece in as_text(Utf8Tokenizer(), iter(text.encode())):
        assert piece
        assert "\ufffd" not in piece


def test_a_tokenizer_that_takes_text_back_is_refused():
    """What was printed cannot be unprinted."""

    class Fickle:
        def decode(self, ids):
            return "abc"[: len(ids)] if len(ids) < 3 else "x"

    with pytest.raises(PluginError, match="changes the text of earlier ids"):
        list(as_text(Fickle(), iter([1, 2, 3])))
