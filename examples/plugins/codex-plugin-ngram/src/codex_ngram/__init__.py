"""An n-gram language model for codex: counted in one pass, in numpy, without torch."""
