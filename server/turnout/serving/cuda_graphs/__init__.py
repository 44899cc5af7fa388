"""CUDA graphs: a version's runs, captured once for each size of batch and launched whole after that."""
