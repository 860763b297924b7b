"""The steering core: spans, policy and the attention itself, in plain torch."""
