"""CUDA graphs: the runs of a version are captured once per batch size, then each launched as a whole."""
