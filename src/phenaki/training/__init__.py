"""Both trainings, what surrounds them, and their optimizers."""

import phenaki.worlds.shapes  # noqa: F401, registers the "shapes" world that recipes train on
