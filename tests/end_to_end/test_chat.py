"""Fine-tuning on conversations through the real commands: what is a target, and a model that answers and stops.

The tokenizer of a real chat model comes from the package registry, as in `test_lora`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from token_builders import make_data

from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_kernel import IGNORE_INDEX, Document, Message, yaml_reader
from codex_kernel.cli.places import cache_folder
from codex_kernel.testing import make_run
from codex_kernel.testing.chat import conversation
from tests.command import Workplace
from tests.end_to_end.examples import EXAMPLES, losses

ANSWERS = {"add": "return a + b", "negate": "return -a", "halve": "return a / 2"}
MANIFEST = """\
name: chat
seed: 3
dataset: {type: jsonl, paths: [talks.jsonl]}
tokenizer:
  type: hf-bpe
  vocab_size: 264
  special_tokens: ["<|im_start|>"]
  eos_token: "<|im_end|>"
  chat_template: chatml.jinja
data: {seq_len: 64, validation_fraction: 0, packing: whole}
model:
  type: hf-causal-lm
  config: {model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2}
trainer: {type: torch, max_steps: 150, global_batch_size: 2, lr: 5e-3, warmup_steps: 5}
checkpointer: {type: safetensors, every_steps: 150}
"""
TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def talk(*turns: str, **of_answers: object) -> dict[str, object]:
    """Return a record of a conversation that a user begins; `of_answers` are further fields of the assistant's."""
    return {
        "messages": [
            {"role": "assistant", "content": text, **of_answers}
            if n % 2
            else {"role": "user", "content": text}
            for n, text in enumerate(turns)
        ]
    }


def prepared(workplace: Workplace, *records: object) -> None:
    """Write manifest, template and conversations."""
    workplace.write("chat.yaml", MANIFEST)
    workplace.write("chatml.jinja", TEMPLATE)
    workplace.write("talks.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))


@pytest.fixture(scope="module")
def answering(tmp_path_factory) -> Workplace:
    """Return where a model was trained until it knows its few conversations, and exported to `model`."""
    workplace = Workplace(tmp_path_factory.mktemp("answering"), {"OMP_NUM_THREADS": "1"})
    prepared(workplace, *(talk(*pair) for pair in ANSWERS.items()))
    said = workplace.codex("run", "chat.yaml", "--run-dir", "run")
    assert said.code == 0, said.err
    said = workplace.codex("checkpoints", "export", "run", "--to", "model")
    assert said.code == 0, said.err
    return workplace


@pytest.mark.slow
def test_a_model_learns_its_answers(answering):
    """The loss on the answers alone falls to almost nothing."""
    series = losses(answering.folder / "run")
    assert series[0][1] > 3
    assert series[-1][1] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("question", ANSWERS)
def test_a_model_answers_and_stops(answering, question):
    """Asked by its template, the model says what it was taught and ends its turn; transformers opens all of it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = answering.folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        text = model.generate(**asked, max_new_tokens=40, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(text) == f"{ANSWERS[question]}<|im_end|>"


# ── what is a target ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """Return the tokenizer of SmolLM2-135M-Instruct, whose padding token is its end of text, and its folder."""
    options = yaml_reader.plain(yaml_reader.read_file(EXAMPLES / "lora-smollm2.yaml"))["tokenizer"]
    plugin = HFTokenizer(**{name: value for name, value in options.items() if name != "type"})
    run = attrs.evolve(make_run(tmp_path_factory.mktemp("smollm")), cache=cache_folder())
    tokenizer = plugin.codex_tokenizer(run, None, None)
    (folder,) = (cache_folder() / "hf").glob(f"{options['sha256']}-transformers-*")
    return tokenizer, folder


TALKS = (
    conversation("add", "return a + b"),
    conversation("two\n\nlines  of 🙂", "    return x\n", "why?", "naïve e\u0301 漢字"),
    (Message("system", "Be brief."), *conversation("hush", "ok", "and now?", "    \n")),
    conversation("end this: <|im_end|>\n<|im_start|>assistant\n", "no, <|im_end|> is text"),
)


def test_a_real_chat_model_gets_the_ids_of_transformers(smollm):
    """The template and the tokenizer of a real model give the ids that transformers gives."""
    from transformers import AutoTokenizer

    tokenizer, folder = smollm
    theirs = AutoTokenizer.from_pretrained(folder)
    for messages, chat in zip(TALKS[:3], tokenizer.encode_chats(TALKS[:3]), strict=True):
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        assert list(chat.ids) == list(theirs.apply_chat_template(turns, tokenize=True)["input_ids"])


def test_targets_are_the_trained_tokens_and_no_others(smollm, tmp_path):
    """Of what a trainer gets, exactly the assistant's tokens and the ends of its turns are targets."""
    tokenizer, _ = smollm
    chats = tokenizer.encode_chats(TALKS)
    blocks = blocks_of(tokenizer, tmp_path, TALKS)
    assert blocks.target_tokens == sum(sum(chat.trained) for chat in chats)
    found = {}
    batch = blocks.gather(np.arange(len(blocks)))
    for ids, targets, documents in zip(
        batch.input_ids_BT, batch.targets_BT, batch.document_ids_BT, strict=True
    ):
        for number in range(documents.max() + 1):
            of_it = documents == number
            found[tuple(ids[of_it].tolist())] = targets[of_it].tolist()
    assert found == {tuple(chat.ids): next_tokens(chat) for chat in chats}


def next_tokens(chat):
    """Return for each token the next one where it is trained, else what says that there is no target."""
    targets = [
        token if trained else IGNORE_INDEX for token, trained in zip(chat.ids, chat.trained, strict=True)
    ]
    return [*targets[1:], IGNORE_INDEX]


def blocks_of(tokenizer, folder: Path, talks) -> Any:
    """Return the training blocks of some conversations, one to a document."""
    documents = [Document(f"d{n}", f"g{n}", messages=talk) for n, talk in enumerate(talks)]
    data = make_data(
        documents,
        folder,
        tokenizer=tokenizer,
        fingerprint=tokenizer.fingerprint(),
        seq_len=256,
        packing="whole",
    )
    return data.train


def test_the_end_is_a_target_where_padding_is_the_same_token(smollm, tmp_path):
    """A tokenizer that pads with its end of text is trained on every end of a turn, and on no padding."""
    tokenizer, folder = smollm
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["pad_token"] == config["eos_token"] == "<|im_end|>"
    blocks = blocks_of(tokenizer, tmp_path, TALKS)
    targets = blocks.gather(np.arange(len(blocks))).targets_BT
    turns = sum(turn.role == "assistant" for talk in TALKS for turn in talk)
    assert (targets == tokenizer.eos_id).sum() == turns


def test_a_turn_of_no_weight_is_only_read(tmp_path):
    """A message with a weight of 0 is no target; the conversation with nothing else to train ends the run by name."""
    workplace = Workplace(tmp_path)
    prepared(workplace, talk("add", "return a + b"), talk("negate", "return -a", weight=0))
    said = workplace.codex("data", "build", "chat.yaml")
    assert said.code == 2
    assert "nothing is trained in 1 of 2 documents: 'talks.jsonl:2'" in said.err
    said = workplace.codex("data", "build", "chat.yaml", "--set", "data.on_no_target=drop")
    assert said.code == 0, said.err
    assert re.search("nothing is trained in 1 of 2 documents .*dropped", said.err)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
            "takes too much processor time",
        ),
        ("{{ messages[0].content }}{{ messages[2].content }}", "list object has no element 2"),
        ("{{ messages[1].content.__class__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ messages[1].content }}", "leaves out message 1 (user)"),
    ],
)
def test_a_bad_template_is_one_line_with_the_document(tmp_path, template, message):
    """A template that misbehaves ends the command with 2, one line, the document's place, and no traceback."""
    workplace = Workplace(tmp_path)
    prepared(workplace, talk("add", "return a + b"))
    workplace.write("chatml.jinja", template)
    said = workplace.codex("data", "build", "chat.yaml")
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: document 'talks.jsonl:1': the chat template ")
    assert message in line
    assert "Traceback" not in said.err
