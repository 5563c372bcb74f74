"""Reading what others wrote, and writing what others read: bounded files, images, JSON, printable text."""
