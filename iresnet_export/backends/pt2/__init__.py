"""torch.export programs: format and runtimes."""
