"""TensorRT engines: format and runtime."""
