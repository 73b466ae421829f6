"""Folders of images at scale: what goes where, what is done already, who does what, and no part waits for another."""
