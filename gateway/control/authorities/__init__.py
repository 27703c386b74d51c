"""Remote authorities: asked about keys that no store of this gateway holds."""
