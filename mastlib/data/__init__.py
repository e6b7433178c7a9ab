"""Images: the embedded bank, scenes drawn from it, pools to evaluate on."""
