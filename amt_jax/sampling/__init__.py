"""Generation: cache, filters, guidance, constraints and the compiled decode loop."""
