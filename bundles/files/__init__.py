"""The files of a bundle: finding, unpacking and verifying them."""
