"""Training: data sets, phantoms, losses and the loop that writes a bundle.

Research use only, not a medical device.
"""
