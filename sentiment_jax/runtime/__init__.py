"""The machine: what is set before JAX starts, devices, and several processes as one run."""
