"""What came of a run, for people and for scripts: rows, sentences, JSON values. Nothing here acts."""
