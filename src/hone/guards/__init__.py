"""Checks of what must hold in every healthy run: a file for each idea, and the hook that asks them."""
