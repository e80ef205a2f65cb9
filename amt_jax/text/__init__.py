"""What words mean: understood, encoded, sorted into clusters."""
