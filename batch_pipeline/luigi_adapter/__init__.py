"""Luigi as the coat of a pipeline: its tasks, its scheduler, and its page; nothing is decided here."""
