"""Models as files for other engines, and whether those find what the model finds."""
