"""The entry names of other projects' checkpoints: one file for those that are alike."""
