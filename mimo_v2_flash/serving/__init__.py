"""Serving: requests of OpenAI's API, from Python or over HTTP, answered by one engine."""
