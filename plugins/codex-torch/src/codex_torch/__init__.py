"""The trainer and the checkpointer of codex that need nothing but torch and safetensors."""
