"""Starting one training as many processes: on this host, with SLURM, on Kubernetes, on TPU VMs."""
