"""Chat: a conversation with a model, its commands, and the terminal in which it takes place."""
