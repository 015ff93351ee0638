"""Exports iResNet to TorchScript, ONNX and TensorRT, and proves that what runs is what was trained."""

__version__ = "0.1.0"
