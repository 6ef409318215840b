"""AGPNet, after Huang et al. 2024 (arXiv 2408.07490): the network and its training."""
