"""Starting trainings: on this host, on clusters, many at once; and knowing first what they would take."""
