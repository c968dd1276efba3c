"""Where pools lie: what stores share, and one store a kind of database."""
