"""Training: the embedded tiny model, and the two stages of the trained variants."""
