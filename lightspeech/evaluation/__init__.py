"""Judging a voice: plots and the listening page (for ears and eyes), quality in figures."""
