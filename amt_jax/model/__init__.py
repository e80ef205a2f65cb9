"""The network: it knows no file, no flag and no mesh axis."""
