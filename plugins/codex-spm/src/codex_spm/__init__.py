"""SentencePiece for codex: vocabularies that keep source code intact, trained on a run's corpus or loaded."""
