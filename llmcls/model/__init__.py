"""Base models: the adapter contract, loading and quantisation, LoRA."""
