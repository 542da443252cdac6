"""Storage formats of weights: how a matrix is stored, one file per format."""
