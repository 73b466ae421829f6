"""Apply trained networks to images, folders and videos."""
