"""The seam to XLA: registration of the native targets, and the calls to them."""
