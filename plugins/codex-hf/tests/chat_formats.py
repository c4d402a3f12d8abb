"""Chat templates in the forms that models in use have, each with a small vocabulary that suits it.

One rule: each format says in words what must be trained, so that no test derives it the way the code does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from attrs import frozen
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from codex_hf.fast_tokenizer import CONFIG_FILE, FastTokenizer
from codex_kernel.testing.tokenizer import CORPUS

CHATML = """\
{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{% if loop.index0 == 0 and system != false %}
{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}
"""
LLAMA3 = """\
{% set loop_messages = messages %}{% for message in loop_messages %}
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim \
+ '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}
"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}
{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
"""
PHI3 = """\
{% for message in messages %}{% if message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}
{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}
{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}
{% endfor %}
"""
MISTRAL = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + '[/INST]' }}{% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + eos_token }}{% else %}
{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}
"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% endfor %}
"""
DEEPSEEK = """\
{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}
{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}
{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}
{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}
"""
GENERATION = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}\
{{ '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
SPACED = """\
{% for message in messages %}{{ '<s> ' + message['role'] + ': ' + message['content'] + '  \\n </s>\\n' }}{% endfor %}
"""
EOS, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
DEEPSEEK_BOS, DEEPSEEK_EOS = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)


@frozen
class Format:
    """A template with its special tokens, and what it writes after what the assistant says, which is trained.

    `strips`: the template takes white space around contents away; `rstrip` and `lstrip`: special tokens
    that take the white space after or before them.
    """

    template: str
    specials: tuple[str, ...]
    eos: str
    after: str
    bos: str | None = None
    kind: str = "bytes"
    rstrip: tuple[str, ...] = ()
    lstrip: tuple[str, ...] = ()
    strips: bool = False
    system: bool = True


FORMATS = {
    "chatml": Format(CHATML, (EOS, IM_START, IM_END), EOS, IM_END),
    "llama-2": Format(LLAMA2, ("<s>", "</s>"), "</s>", " </s>", "<s>", "words", strips=True),
    "llama-3": Format(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|eot_id|>",
        bos="<|begin_of_text|>",
        kind="bytes after a beginning",
        strips=True,
    ),
    "gemma": Format(
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<end_of_turn>",
        bos="<bos>",
        kind="words",
        strips=True,
        system=False,
    ),
    "phi-3": Format(
        PHI3,
        (EOS, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        EOS,
        "<|end|>",
        kind="words",
        rstrip=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "mistral": Format(
        MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", "</s>", "<s>", "words", system=False
    ),
    "zephyr": Format(ZEPHYR, ("<s>", "</s>"), "</s>", "</s>", kind="words after all"),
    "deepseek": Format(DEEPSEEK, (DEEPSEEK_BOS, DEEPSEEK_EOS), DEEPSEEK_EOS, DEEPSEEK_EOS, bos=DEEPSEEK_BOS),
    "spaced": Format(SPACED, ("<s>", "</s>"), "</s>", "</s>", bos="<s>", lstrip=("</s>",)),
    "generation": Format(GENERATION, (EOS, IM_START, IM_END), IM_END, IM_END),
}


@functools.cache
def stored_backend(name: str) -> str:
    """Return the vocabulary of a format, as its tokenizer.json."""
    chat_format = FORMATS[name]
    special = [
        AddedToken(
            token,
            special=True,
            normalized=False,
            rstrip=token in chat_format.rstrip,
            lstrip=token in chat_format.lstrip,
        )
        for token in chat_format.specials
    ]
    by_bytes = chat_format.kind.startswith("bytes")
    backend = tokenizers.Tokenizer(
        models.BPE(byte_fallback=not by_bytes, unk_token=None if by_bytes else "<unk>")
    )
    alphabet: list[str] = []
    if by_bytes:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif chat_format.kind == "words":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = _words_decoder()
    else:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        backend.decoder = _words_decoder()
    fallback = [] if by_bytes else [AddedToken("<unk>", special=True, normalized=False)]
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=[*special, *fallback], initial_alphabet=alphabet, show_progress=False
    )
    words = ["the answer is not the question", "naïve text, a b c\n\n", *CORPUS]
    backend.train_from_iterator(
        [text.replace("\n", " ") for text in words] if not by_bytes else words, trainer
    )
    if by_bytes:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    else:
        backend = _with_byte_tokens(backend)
    if chat_format.kind == "bytes after a beginning":
        bos_id = backend.token_to_id(chat_format.bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{chat_format.bos} $A", special_tokens=[(chat_format.bos, bos_id)]
        )
    return str(backend.to_str())


def _words_decoder() -> Any:
    return decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def _with_byte_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Add the tokens <0x00> … <0xFF> to the vocabulary itself, as SentencePiece has them."""
    stored = json.loads(backend.to_str())
    vocabulary = stored["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    return tokenizers.Tokenizer.from_str(json.dumps(stored))


def special_map(chat_format: Format) -> dict[str, str]:
    """Return the special tokens as a tokenizer's configuration names them."""
    return {"eos_token": chat_format.eos} | ({"bos_token": chat_format.bos} if chat_format.bos else {})


def ours(name: str, template: str | None = None) -> FastTokenizer:
    """Return codex's tokenizer of a format."""
    chat_format = FORMATS[name]
    backend = tokenizers.Tokenizer.from_str(stored_backend(name))
    return FastTokenizer(
        backend,
        eos_id=backend.token_to_id(chat_format.eos),
        files={CONFIG_FILE: json.dumps(special_map(chat_format)).encode()},
        chat_template=chat_format.template if template is None else template,
    )


def theirs(name: str) -> Any:
    """Return transformers' tokenizer of a format."""
    chat_format = FORMATS[name]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(stored_backend(name)),
        chat_template=chat_format.template,
        **special_map(chat_format),
    )


def write_folder(folder: Path, name: str, config: Mapping[str, Any]) -> Path:
    """Write a tokenizer folder of a format, without a template of its own."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(stored_backend(name))
    (folder / "tokenizer_config.json").write_text(json.dumps({**special_map(FORMATS[name]), **config}))
    return folder
