"""The engine's HTTP, one module for each family of paths. ``app`` joins them."""
