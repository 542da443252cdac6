"""Fakes of the Neuron SDK: a "NEFF" is the program's HLO module, which XLA runs on the CPU."""
