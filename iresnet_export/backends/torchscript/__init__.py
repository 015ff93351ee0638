"""TorchScript: format and runtime."""
