"""Processes that work together: collectives, rendezvous, watchdog, random numbers, backends."""
