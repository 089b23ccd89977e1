"""How other projects name the entries of their checkpoints: one file a project."""
