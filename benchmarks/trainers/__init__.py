"""Ways to train the same net on the same images, each a row of CASES."""
