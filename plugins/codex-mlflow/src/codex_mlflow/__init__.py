"""MLflow for codex: metrics and settings of a run, in a local database unless the manifest says otherwise."""
