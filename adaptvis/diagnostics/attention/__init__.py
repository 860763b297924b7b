"""Where a model looks: shares, entropy, maps over the image, and overlap with objects."""
