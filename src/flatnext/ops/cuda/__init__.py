"""Forms of the grouped convolution for GPUs. None of them has been measured on a GPU yet."""
