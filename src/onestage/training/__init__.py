"""Training: the recipe, the schedule, the loop, the checkpoint."""
