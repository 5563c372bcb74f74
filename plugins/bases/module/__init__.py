"""Any PyTorch network as a base."""
