"""Luigi's adapter: a pipeline as Luigi tasks, its central scheduler, and its page; nothing is decided here."""
