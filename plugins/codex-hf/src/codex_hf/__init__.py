"""Hugging Face tokenizers and transformers models, and LoRA through PEFT, for codex."""
