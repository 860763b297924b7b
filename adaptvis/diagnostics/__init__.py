"""Instruments that show why a model is spatially blind: one module each."""
