"""A logger of codex that writes what TensorBoard shows: event files, kept in step with the run."""
