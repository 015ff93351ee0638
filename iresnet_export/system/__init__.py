"""This machine: versions, hardware, load, NVIDIA's driver and GPUs."""
