"""MiMo-V2-Flash inference in pure NumPy kernels that nkipy traces to AWS Trainium2."""
