"""Key ceremonies for an offline root: its key in shares, each step in a transcript, no server, no network."""
