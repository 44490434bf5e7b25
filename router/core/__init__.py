"""Pure rules and the flow: standard library only, no clock, no input or output, no randomness of its own."""
