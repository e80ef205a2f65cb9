"""Starting trainings: on this host, on clusters, many at once."""
