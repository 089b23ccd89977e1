"""A detector as a file: its own format, ImageNet weights, checkpoints of other projects."""
