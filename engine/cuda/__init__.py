"""What runs on an NVIDIA GPU: captured graphs, fused networks, 8-bit arithmetic. Everything here imports torch."""
