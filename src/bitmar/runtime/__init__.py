"""The torch-free half: runs a `.bitmar` file with numpy alone; faster kernels are checked against it."""
