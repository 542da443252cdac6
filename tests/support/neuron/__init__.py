"""Stand-ins for the Neuron SDK: a "NEFF" is a program's module, which XLA runs on the CPU."""
