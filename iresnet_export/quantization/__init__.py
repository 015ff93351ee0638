"""Static int8 quantization: ranges from real images, their scales, and where a graph is quantized."""
