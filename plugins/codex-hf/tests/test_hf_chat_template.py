"""Where chat templates come from: the folder of a pretrained tokenizer, its configuration, a file of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_formats import CHATML, EOS, GENERATION, IM_END, IM_START, write_folder

from codex_hf.bpe import HFBPETokenizer
from codex_hf.chat_template import missing_tokens
from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_hf.unigram import HFUnigramTokenizer
from codex_hf.wordpiece import HFWordPieceTokenizer
from codex_kernel import ChatTokenizer, InputError
from codex_kernel.testing import ChatTokenizerContract, make_run
from codex_kernel.testing.chat import SHORT
from codex_kernel.testing.tokenizer import CORPUS

OWN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor %}"
TRAINED = {"vocab_size": 400, "special_tokens": [IM_START, IM_END]}


def trained(folder: Path, template: str = CHATML, kind=HFBPETokenizer, **options):
    """Return the plugin of a trained tokenizer with a template file."""
    (folder / "chat.jinja").write_text(template)
    return kind(chat_template=Path("chat.jinja"), **{**TRAINED, **options})


def pretrained(folder: Path, files=None, config=None, **options):
    """Return the tokenizer of a folder with these template files and this configuration."""
    stored = write_folder(folder / "stored", "chatml", config or {})
    for name, text in (files or {}).items():
        (stored / name).parent.mkdir(exist_ok=True)
        (stored / name).write_text(text)
    return HFTokenizer(path=Path("stored"), **options).codex_tokenizer(make_run(folder), None, None)


def text_of(tokenizer, messages=SHORT):
    """Return the text of a conversation, special tokens written out."""
    (chat,) = tokenizer.encode_chats([messages])
    return tokenizer.backend.decode(chat.ids, skip_special_tokens=False)


class TestTrainedBPE(ChatTokenizerContract):
    def make(self, folder):
        return trained(folder)


class TestTrainedUnigram(ChatTokenizerContract):
    def make(self, folder):
        return trained(folder, kind=HFUnigramTokenizer)


class TestTrainedWordPiece(ChatTokenizerContract):
    def make(self, folder):
        return trained(folder, kind=HFWordPieceTokenizer, vocab_size=700)


class TestGenerationBlocks(ChatTokenizerContract):
    def make(self, folder):
        return trained(folder, GENERATION)


class TestPretrained(ChatTokenizerContract):
    def make(self, folder):
        if not (folder / "stored").exists():
            write_folder(folder / "stored", "chatml", {"chat_template": CHATML})
        return HFTokenizer(path=Path("stored"))


# ── pretrained ────────────────────────────────────────────────────────────────────────────────────────────────────

A, B = OWN.replace("m.role", "'a'"), OWN.replace("m.role", "'b'")


@pytest.mark.parametrize(
    ("files", "config", "options", "begins"),
    [
        ({"chat_template.jinja": A}, {}, {}, "a"),
        ({}, {"chat_template": A}, {}, "a"),
        ({"chat_template.jinja": A}, {"chat_template": B}, {}, "a"),
        (
            {},
            {"chat_template": [{"name": "default", "template": A}, {"name": "rag", "template": B}]},
            {},
            "a",
        ),
        (
            {},
            {"chat_template": [{"name": "default", "template": A}, {"name": "rag", "template": B}]},
            {"chat_template_name": "rag"},
            "b",
        ),
        ({}, {"chat_template": {"default": A, "rag": B}}, {"chat_template_name": "rag"}, "b"),
        (
            {"chat_template.jinja": A, "additional_chat_templates/rag.jinja": B},
            {},
            {"chat_template_name": "rag"},
            "b",
        ),
        ({"chat_template.jinja": A, "../own.jinja": B}, {}, {"chat_template": Path("own.jinja")}, "b"),
    ],
)
def test_the_template_of_a_folder_is_found(tmp_path, files, config, options, begins):
    """A file comes before the configuration, an option before both; of several, the one that is named or default."""
    tokenizer = pretrained(tmp_path, files, config, **options)
    assert text_of(tokenizer).startswith(f"{IM_START}{begins}\n")
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    again = HFTokenizer(path=Path("elsewhere")).codex_tokenizer(make_run(tmp_path), None, tmp_path / "saved")
    assert text_of(again) == text_of(tokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()


def test_other_tools_use_the_template_that_was_kept(tmp_path):
    """Transformers opens the saved folder and renders the same conversation to the same ids."""
    import transformers

    tokenizer = pretrained(
        tmp_path, {"../own.jinja": B}, {"chat_template": A}, chat_template=Path("own.jinja")
    )
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    messages = [{"role": turn.role, "content": turn.content} for turn in SHORT]
    ids = opened.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert list(tokenizer.encode_chats([SHORT])[0].ids) == list(ids)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"chat_template": A}, {"chat_template_name": "rag"}, "has no chat template 'rag'; it has default"),
        ({}, {"chat_template_name": "rag"}, "has no chat template 'rag'; it has none"),
        ({"chat_template": 7}, {}, "are damaged"),
        ({"chat_template": [{"name": "x"}]}, {}, "are damaged"),
    ],
)
def test_a_template_that_is_not_there_is_an_error(tmp_path, config, options, message):
    """A name that no template has, and a configuration that holds none, are errors when the tokenizer is loaded."""
    with pytest.raises(InputError, match=message):
        pretrained(tmp_path, {}, config, **options)


def test_several_without_default_need_a_name(tmp_path):
    """Text is encoded all the same; conversations need to know which template is meant."""
    tokenizer = pretrained(tmp_path, {}, {"chat_template": {"rag": A, "tool_use": B}})
    assert tokenizer.decode(tokenizer.encode("x = 1")) == "x = 1"
    with pytest.raises(InputError, match="has no chat template") as caught:
        tokenizer.encode_chats([SHORT])
    assert "chat_template_name" in caught.value.remedy


def test_two_answers_to_one_question_are_refused():
    """A file and a name together are an error when the manifest is read."""
    with pytest.raises(ValueError, match="expected none beside chat_template"):
        HFTokenizer(path=Path("a"), chat_template=Path("b"), chat_template_name="c")


# ── a file ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        (CHATML, []),
        ("{# <|user|> was here #}" + CHATML, []),
        (CHATML.replace("<|im_end|>", "<|eot|>"), ["<|eot|>"]),
        ("<s>{{ messages[0].content }}</s><start_of_turn><\uff5cUser\uff5c>", 4),
        ("{% if a<b and b>c %}<|a b|>{{ 1 |> 2 }}<code>", []),
    ],
)
def test_what_looks_like_a_special_token_must_be_one(template, missing):
    """What a template writes as special tokens is found in its text, comments aside."""
    found = missing_tokens(template, [EOS, IM_START, IM_END])
    assert (len(found) if isinstance(missing, int) else found) == missing


def test_missing_special_tokens_are_found_before_training(tmp_path):
    """A template whose special tokens the vocabulary will not have is found by the preflight, and by the run."""
    plugin = trained(tmp_path, special_tokens=[IM_START])
    (problem,) = plugin.codex_preflight(tmp_path)
    assert problem == (
        "tokenizer.chat_template: the template writes <|im_end|>, and the vocabulary has no such special token"
    )
    with pytest.raises(InputError, match=r"writes <\|im_end\|>") as caught:
        plugin.codex_tokenizer(make_run(tmp_path), CORPUS, None)
    assert caught.value.remedy.startswith("add to tokenizer.special_tokens: <|im_end|>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * (1 << 21), "more than 1,048,576"),
    ],
)
def test_a_file_that_is_no_template_is_named(tmp_path, content, message):
    """A template file that is missing, no text or much too large is a problem of the preflight, with its name."""
    plugin = trained(tmp_path)
    (tmp_path / "chat.jinja").unlink()
    if content is not None:
        (tmp_path / "chat.jinja").write_bytes(content)
    (problem,) = plugin.codex_preflight(tmp_path)
    assert problem.startswith(f"tokenizer.chat_template: the chat template {tmp_path / 'chat.jinja'}")
    assert message in problem


def test_a_template_that_cannot_be_compiled_ends_the_run_at_once(tmp_path):
    """A file that is no Jinja is an error when the tokenizer is made, not at the first conversation."""
    with pytest.raises(InputError, match="not valid Jinja in line 2"):
        trained(tmp_path, "a\n{% for %}").codex_tokenizer(make_run(tmp_path), CORPUS, None)


def test_a_tokenizer_with_a_template_file_is_not_kept_for_others(tmp_path):
    """The cache would not see that the file changed, so the tokenizer says that it read one."""
    run = make_run(tmp_path)
    assert not trained(tmp_path).codex_tokenizer(run, CORPUS, None).trained
    assert HFBPETokenizer(**TRAINED).codex_tokenizer(run, CORPUS, None).trained


def test_a_run_keeps_its_template(tmp_path):
    """The run's own copy is used when it is resumed, whatever became of the file."""
    run = make_run(tmp_path)
    plugin = trained(tmp_path)
    tokenizer = plugin.codex_tokenizer(run, CORPUS, None)
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "chat.jinja").write_text(OWN)
    again = plugin.codex_tokenizer(run, None, tmp_path / "saved")
    assert text_of(again) == text_of(tokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == CHATML


def test_a_stored_vocabulary_may_get_a_template(tmp_path):
    """A tokenizer.json that was loaded takes a template file, if it has the special tokens."""
    stored = write_folder(tmp_path / "stored", "chatml", {})
    (tmp_path / "chat.jinja").write_text(OWN)
    plugin = HFBPETokenizer(path=stored / "tokenizer.json", chat_template=Path("chat.jinja"))
    assert plugin.codex_preflight(tmp_path) == []
    tokenizer = plugin.codex_tokenizer(make_run(tmp_path), None, None)
    assert isinstance(tokenizer, ChatTokenizer)
    assert (
        text_of(tokenizer) == f"{IM_START}user\nquestion one{IM_END}{IM_START}assistant\nanswer two{IM_END}"
    )
    (tmp_path / "chat.jinja").write_text(OWN.replace("im_start", "begin"))
    with pytest.raises(InputError, match=r"writes <\|begin\|>"):
        plugin.codex_tokenizer(make_run(tmp_path), None, None)


def test_a_template_of_the_configuration_keeps_its_variables(tmp_path):
    """Special tokens of the configuration reach the template, written plainly or as objects."""
    config = {"bos_token": {"content": IM_START, "lstrip": False}, "chat_template": "{{ bos_token }}" + OWN}
    assert text_of(pretrained(tmp_path, {}, config)).startswith(IM_START * 2)
    assert (
        json.loads((tmp_path / "stored" / "tokenizer_config.json").read_text())["bos_token"]["content"]
        == IM_START
    )
