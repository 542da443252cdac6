"""From a prompt's tokens to the tokens that follow: the loop, sampling, likelihood."""
