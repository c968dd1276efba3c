"""A run as data, in the store: what was asked, sent and made, as values, and how they are kept."""
