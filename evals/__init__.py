"""Evaluations: runners that put recorded answers of real models through the library. Nothing imports them."""
