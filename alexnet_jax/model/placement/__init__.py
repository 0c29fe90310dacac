"""The placement of replicas and towers on the devices of all processes (§3.2)."""
