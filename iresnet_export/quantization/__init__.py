"""Static quantization: ranges from real images, their scales, and where a graph is quantized."""
