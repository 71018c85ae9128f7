"""English to Chinese: attention over persistent LSTMs."""
