"""System metrics for codex: processor, memory, disk, network and NVIDIA GPUs, sampled beside the run."""
