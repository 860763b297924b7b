"""Training of LLaVA in two stages: the projector, then projector and language model."""
