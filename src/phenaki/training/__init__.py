"""Both trainings, what surrounds them, and their optimizers."""
