"""Whether an artifact is the network that was trained: its weights, then its outputs."""
