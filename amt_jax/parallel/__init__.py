"""Many devices and many processes as one: the mesh, attention over it, and the processes of a run."""
