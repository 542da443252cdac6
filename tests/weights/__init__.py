"""Reading, naming and making weights."""
