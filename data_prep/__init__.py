"""Raw material to dataset folders."""
